"""The cluster that the end-to-end tests run against: the current context, or KUBE_CONTEXT's."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from tests import programs
from tests.e2e.steps import Object, Patch

NAME = "mnist"
NAMESPACE = "mnist-development"
GATEWAYS = (("istio-system", "istio-ingressgateway"), ("kourier-system", "kourier"))
"""Where Knative's ingress may be: that of KServe's quick install, and the other usual one."""


class ClusterError(Exception):
    """A command failed; the message is its own."""


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, cwd=programs.ROOT)
    if done.returncode:
        raise ClusterError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


class Cluster:
    """What the tests do to it."""

    def __init__(self) -> None:
        context = os.environ.get("KUBE_CONTEXT")
        self._context = [f"--context={context}"] if context else []

    def kubectl(self, *arguments: str) -> str:
        return run("kubectl", *self._context, *arguments)

    def exists(self, kind: str, name: str, *options: str) -> bool:
        return bool(
            self.kubectl("get", kind, name, "--ignore-not-found", "--output=name", *options)
        )

    def service(self) -> Object:
        """The InferenceService."""
        found: Object = json.loads(
            self.kubectl("get", "inferenceservice", NAME, f"-n={NAMESPACE}", "--output=json")
        )
        return found

    def patch(self, patch: Patch) -> None:
        """Change the InferenceService, with all of ``patch`` at once."""
        self.kubectl(
            *("patch", "inferenceservice", NAME, f"--namespace={NAMESPACE}"),
            *("--type=json", f"--patch={json.dumps(patch)}"),
        )

    def deploy(self, overlay: Path) -> None:
        """What ``make deploy`` does."""
        run(sys.executable, "-m", "rollout", "deploy", str(overlay), *self._context)

    def pods(self) -> list[str]:
        """The names of the service's pods, of both components."""
        selector = f"--selector=serving.kserve.io/inferenceservice={NAME}"
        return self.kubectl("get", "pods", f"-n={NAMESPACE}", selector, "--output=name").split()

    def remove(self, overlay: Path, *, namespace: bool) -> None:
        """Remove what was deployed; the namespace too if it came with it."""
        objects = list(yaml.safe_load_all(run("kubectl", "kustomize", str(overlay))))
        for each in objects:
            if each["kind"] != "Namespace":
                name = f"{each['kind'].lower()}/{each['metadata']['name']}"
                self.kubectl("delete", name, f"--namespace={NAMESPACE}", "--ignore-not-found")
        if namespace:
            self.kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found", "--timeout=180s")

    @contextmanager
    def gateway(self) -> Iterator[str]:
        """The host and port at which Knative's ingress is reached from here."""
        for namespace, name in GATEWAYS:
            if self.exists("service", name, f"--namespace={namespace}"):
                break
        else:
            raise ClusterError(f"there is no ingress of Knative's, none of {GATEWAYS}")
        command = [
            "kubectl",
            *self._context,
            "port-forward",
            f"-n={namespace}",
            f"svc/{name}",
            ":80",
        ]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as forward:
            try:
                assert forward.stdout is not None
                line = forward.stdout.readline()
                if (found := re.search(r"127\.0\.0\.1:\d+", line)) is None:
                    raise ClusterError(f"no port is forwarded to {namespace}/{name}: {line!r}")
                yield found[0]
            finally:
                forward.terminate()


def overlay(folder: Path, *components: str) -> Path:
    """The overlay of development, with the images that were pushed if some were, and components."""
    shutil.copytree(programs.ROOT / "manifests", folder / "manifests")
    path = folder / "manifests/overlays/development"
    pushed = programs.ROOT / "build/images.env"
    if pushed.exists():
        shutil.copy(pushed, path)
    kustomization = path / "kustomization.yaml"
    content = yaml.safe_load(kustomization.read_text(encoding="utf-8"))
    content["components"] += [f"../../components/{name}" for name in components]
    kustomization.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path
