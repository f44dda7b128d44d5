"""Access to a cluster through ``kubectl``."""

import json
import subprocess
from collections.abc import Sequence

import yaml

from rollout.errors import ClusterError
from rollout.template import Object

MANAGER = "rollout"
"""The field manager for server-side apply."""


class Cluster:
    """A context of the user's kubeconfig, by default the current one."""

    def __init__(self, context: str | None = None) -> None:
        self._context = [] if context is None else [f"--context={context}"]

    def get(self, kind: str, name: str, namespace: str) -> Object | None:
        """Return an object, or ``None`` if it does not exist.

        Raises:
            ClusterError: ``kubectl`` failed; so it does for a kind that the cluster does not have.
        """
        found = self._run(
            "get", kind, name, f"--namespace={namespace}", "--ignore-not-found", "--output=json"
        )
        return json.loads(found) if found.strip() else None

    def apply(self, objects: list[Object], *, dry_run: bool = False) -> list[Object]:
        """Apply server-side and return the objects that result, or would with ``dry_run``.

        Takes over fields that others own: values that must stay are already in ``objects``.

        Raises:
            ClusterError: ``kubectl`` failed.
        """
        applied = self._run(
            "apply",
            "--server-side",
            "--force-conflicts",
            f"--field-manager={MANAGER}",
            *(["--dry-run=server"] if dry_run else []),
            "--output=json",
            "--filename=-",
            content=yaml.safe_dump_all(objects),
        )
        made: Object = json.loads(applied)
        return made["items"] if made["kind"] == "List" else [made]

    def _run(self, *arguments: str, content: str | None = None) -> str:
        return _kubectl([*self._context, *arguments], content)


def render(overlay: str) -> list[Object]:
    """Return the objects that ``kubectl apply -k`` would send; needs no cluster."""
    return list(yaml.safe_load_all(_kubectl(["kustomize", overlay])))


def _kubectl(arguments: Sequence[str], content: str | None = None) -> str:
    try:
        done = subprocess.run(  # noqa: S603
            ["kubectl", *arguments],  # noqa: S607
            input=content,
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        raise ClusterError("there is no kubectl: see kubernetes.io/docs/tasks/tools") from None
    if done.returncode:
        raise ClusterError(done.stderr.strip())
    return done.stdout
