"""A Kubernetes API on loopback, for ``kubectl get``, ``apply --server-side`` and ``patch``.

It follows the API server where it matters to a release:

- Server-side apply merges by field; a list is a leaf, as ``containers`` is in the CRD of the
  InferenceService. What a manager applied before and leaves out now is removed. What another
  manager has set otherwise is a conflict, unless forced.
- A ``resourceVersion`` that is not the current one is a conflict. A dry run changes nothing.
- A webhook fills in defaults, as KServe's does, and each template of the predictor is a revision,
  ready at once.

Schemas are not checked: the manifests' own tests do that.
"""

import copy
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import jsonpatch
import yaml

from tests.manifests import Object

KINDS = {
    "v1": {
        "configmaps": "ConfigMap",
        "namespaces": "Namespace",
        "serviceaccounts": "ServiceAccount",
    },
    "batch/v1": {"cronjobs": "CronJob"},
    "networking.k8s.io/v1": {"networkpolicies": "NetworkPolicy"},
    "policy/v1": {"poddisruptionbudgets": "PodDisruptionBudget"},
    "serving.kserve.io/v1beta1": {"inferenceservices": "InferenceService"},
}
Leaves = dict[tuple[str, ...], Any]


class Conflict(Exception):
    """409, with its message."""


class Cluster:
    """What the API server stores."""

    def __init__(self) -> None:
        self.objects: dict[str, Object] = {}
        self.managed: dict[tuple[str, str], Leaves] = {}
        """What each manager has applied last, by path of the object."""
        self._versions = 0

    def apply(self, path: str, wanted: Object, manager: str, *, force: bool, dry: bool) -> Object:
        live = self.objects.get(path)
        version = wanted["metadata"].pop("resourceVersion", None)
        if version is not None and (live is None or version != live["metadata"]["resourceVersion"]):
            raise Conflict("the object has been modified; please apply your changes")
        applied = leaves(wanted)
        merged = leaves(live or {})
        others = {name: fields for (at, name), fields in self.managed.items() if at == path}
        taken = [
            f'conflict with "{name}": .{".".join(at)}'
            for name, fields in others.items()
            for at in sorted(fields.keys() & applied.keys())
            if name != manager and merged.get(at) != applied[at]
        ]
        if taken and not force:
            raise Conflict(f"Apply failed with {len(taken)} conflicts: {', '.join(taken)}")
        for at in others.get(manager, {}).keys() - applied.keys():
            merged.pop(at, None)
        made = self._store(path, tree(merged | applied), dry=dry)
        if not dry:
            for name, fields in others.items():
                for at in fields.keys() & applied.keys():
                    if name != manager and fields[at] != applied[at]:
                        del fields[at]
            self.managed[path, manager] = applied
        return made

    def patch(self, path: str, patch: Any, manager: str, *, dry: bool) -> Object:
        """A merge patch (RFC 7386) or a JSON patch (RFC 6902): who sends it owns what it sets."""
        merged = leaves(self.objects[path])
        if isinstance(patch, list):
            after = leaves(jsonpatch.apply_patch(self.objects[path], patch))
            changes = {
                at: after.get(at) for at in merged | after if merged.get(at) != after.get(at)
            }
        else:
            changes = leaves(patch)
        for at, value in changes.items():
            merged.pop(at, None) if value is None else merged.update({at: value})
        if not dry:
            for fields in self.managed.values():
                for at in fields.keys() & changes.keys():
                    del fields[at]
            mine = self.managed.setdefault((path, manager), {})
            mine |= {at: value for at, value in changes.items() if value is not None}
        return self._store(path, tree(merged), dry=dry)

    def _store(self, path: str, made: Object, *, dry: bool) -> Object:
        made = default(made)
        live = self.objects.get(path, {})
        if made["kind"] == "InferenceService" and template(made) != template(live):
            revision = f"mnist-predictor-{self._versions + 1:05}"
            latest = {"latestCreatedRevision": revision, "latestReadyRevision": revision}
            made["status"] = {"components": {"predictor": latest}}
        if made != live:
            self._versions += not dry
            made["metadata"]["resourceVersion"] = str(self._versions)
        if not dry:
            self.objects[path] = made
        return made


def default(made: Object) -> Object:
    """What a webhook adds."""
    made = copy.deepcopy(made)
    if made["kind"] == "InferenceService":
        for component in made["spec"].values():
            component["containers"][0].setdefault("terminationMessagePath", "/dev/termination-log")
    return made


def template(service: Object) -> Object:
    """What makes a revision of the predictor."""
    predictor = service.get("spec", {}).get("predictor", {})
    return {name: each for name, each in predictor.items() if name != "canaryTrafficPercent"}


def leaves(value: Object, at: tuple[str, ...] = ()) -> Leaves:
    """The fields of an object, by their path; lists and empty maps are leaves."""
    found: Leaves = {}
    for key, each in value.items():
        here = (*at, key)
        found |= leaves(each, here) if isinstance(each, dict) and each else {here: each}
    return found


def tree(fields: Leaves) -> Object:
    made: Object = {}
    for at, value in fields.items():
        node = made
        for key in at[:-1]:
            node = node.setdefault(key, {})
        node[at[-1]] = copy.deepcopy(value)
    return made


def discovery(path: str) -> Object | None:
    """The documents from which ``kubectl`` learns what kinds there are."""
    if path == "/api":
        return {"kind": "APIVersions", "versions": ["v1"]}
    if path == "/apis":
        groups = [version.split("/") for version in KINDS if "/" in version]
        return {
            "kind": "APIGroupList",
            "apiVersion": "v1",
            "groups": [
                {"name": name, "versions": [{"groupVersion": f"{name}/{v}", "version": v}],
                 "preferredVersion": {"groupVersion": f"{name}/{v}", "version": v}}
                for name, v in groups
            ],
        }  # fmt: skip
    if path == "/openapi/v3":
        urls = {gv: f"/openapi/v3/{gv}" for gv in map(folder_of, KINDS)}
        return {"paths": {gv: {"serverRelativeURL": url} for gv, url in urls.items()}}
    if path.startswith("/openapi/v3/"):
        return openapi(path.removeprefix("/openapi/v3/").split("/", 1)[1])
    version = path.removeprefix("/apis/").removeprefix("/api/")
    if version not in KINDS:
        return None
    verbs = ["get", "list", "patch", "watch"]
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": version,
        "resources": [
            {"name": plural, "singularName": kind.lower(), "kind": kind, "verbs": verbs,
             "namespaced": kind != "Namespace",
             "shortNames": ["isvc"] if kind == "InferenceService" else []}
            for plural, kind in KINDS[version].items()
        ],
    }  # fmt: skip


def folder_of(version: str) -> str:
    return f"apis/{version}" if "/" in version else f"api/{version}"


def openapi(version: str) -> Object:
    """That the server validates fields itself, which is all that ``kubectl`` asks of it."""
    group, _, number = version.rpartition("/")
    parameters = [{"name": name, "in": "query"} for name in ("dryRun", "fieldValidation")]
    return {
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": "1"},
        "paths": {
            f"/{folder_of(version)}/{plural}/{{name}}": {
                "patch": {
                    "parameters": parameters,
                    "responses": {},
                    "x-kubernetes-group-version-kind": {
                        "group": group, "version": number, "kind": kind
                    },
                }
            }
            for plural, kind in KINDS[version].items()
        },
    }  # fmt: skip


@contextmanager
def serve(cluster: Cluster, folder: Path) -> Iterator[Path]:
    """Serve ``cluster`` until the end of the block; gives a kubeconfig."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = urlsplit(self.path).path
            found = discovery(path) or cluster.objects.get(path)
            self.reply(200, found) if found else self.fail(404, "NotFound", f"{path} not found")

        def do_PATCH(self) -> None:
            parts = urlsplit(self.path)
            query = {name: values[0] for name, values in parse_qs(parts.query).items()}
            body = yaml.safe_load(self.rfile.read(int(self.headers["Content-Length"])))
            dry, manager = "dryRun" in query, query.get("fieldManager", "kubectl-patch")
            try:
                if self.headers["Content-Type"] == "application/apply-patch+yaml":
                    force = query.get("force") == "true"
                    made = cluster.apply(parts.path, body, manager, force=force, dry=dry)
                else:
                    made = cluster.patch(parts.path, body, manager, dry=dry)
            except Conflict as conflict:
                self.fail(409, "Conflict", str(conflict))
            except jsonpatch.JsonPatchException as refusal:
                self.fail(422, "Invalid", str(refusal))
            else:
                self.reply(200, made)

        def fail(self, code: int, reason: str, message: str) -> None:
            status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code}
            self.reply(code, {**status, "reason": reason, "message": message})

        def reply(self, code: int, content: Object) -> None:
            body = json.dumps(content).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        kubeconfig = folder / "kubeconfig"
        named = {
            "clusters": [{"name": "c", "cluster": {
                "server": f"http://127.0.0.1:{server.server_address[1]}"}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": ""}}],
        }  # fmt: skip
        kubeconfig.write_text(yaml.safe_dump({**named, "current-context": "c"}), encoding="utf-8")
        yield kubeconfig
        server.shutdown()
