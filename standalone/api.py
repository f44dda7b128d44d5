"""A Kubernetes API on loopback, with what ``kubectl`` and Python's client need for a release.

It does get, list, watch, create, replace, patch, delete and server-side apply of the kinds in
``KINDS``, discovery, dry runs, and the columns that ``kubectl get isvc`` shows. Pods are read-only,
and the InferenceService cannot be deleted: it ends with the program. There is no access control:
the API listens on 127.0.0.1 only, and refuses web pages that reach it by another host name.
"""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import yaml
from aiohttp import web

from standalone.objects import APIError, Object, Objects

KINDS = {
    "v1": {
        "configmaps": "ConfigMap",
        "events": "Event",
        "namespaces": "Namespace",
        "pods": "Pod",
        "serviceaccounts": "ServiceAccount",
    },
    "batch/v1": {"cronjobs": "CronJob"},
    "networking.k8s.io/v1": {"networkpolicies": "NetworkPolicy"},
    "policy/v1": {"poddisruptionbudgets": "PodDisruptionBudget"},
    "rbac.authorization.k8s.io/v1": {"rolebindings": "RoleBinding", "roles": "Role"},
    "serving.kserve.io/v1beta1": {"inferenceservices": "InferenceService"},
}
SHORT = {"InferenceService": ["isvc"], "ConfigMap": ["cm"]}
PATH = re.compile(
    r"/(?:api/(?P<core>v1)|apis/(?P<group>[^/]+/[^/]+))"
    r"(?:/namespaces/(?P<namespace>[^/]+)(?=/))?/(?P<plural>[^/]+)(?:/(?P<name>[^/]+))?"
)


def application(objects: Objects) -> web.Application:
    """The web application that serves ``objects``."""
    app = web.Application(middlewares=[_explain])

    async def handle(request: web.Request) -> web.StreamResponse:
        if request.host.partition(":")[0] not in ("127.0.0.1", "localhost"):
            raise APIError(403, "Forbidden", "this API is for this machine alone")
        if request.method == "GET" and (document := discovery(request.path)) is not None:
            return web.json_response(document)
        found = PATH.fullmatch(request.path)
        version: str = (found["core"] or found["group"]) if found else ""
        if not found or found["plural"] not in KINDS.get(version, {}):
            raise APIError(404, "NotFound", f"the server could not find {request.path}")
        if request.method == "GET" and found["name"]:
            made = objects.get(request.path)
            return _shown(request, KINDS[version][found["plural"]], [made], made)
        if request.method == "GET":
            return await _listed(request, objects, version, found)
        return web.json_response(await _changed(request, objects, found))

    app.router.add_route("*", "/{path:.*}", handle)
    return app


@web.middleware
async def _explain(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except APIError as error:
        status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": error.code}
        details = {**status, "reason": error.reason, "message": str(error)}
        return web.json_response(details, status=error.code)


async def _changed(request: web.Request, objects: Objects, found: re.Match[str]) -> Object:
    """Do what a POST, PUT, PATCH or DELETE asks for, and return the object."""
    if found["plural"] == "pods":
        raise APIError(405, "MethodNotAllowed", "pods are made and removed with their revisions")
    if request.method == "DELETE":
        if found["plural"] == "inferenceservices":
            raise APIError(405, "MethodNotAllowed", "the service ends with the program: stop that")
        # Python's client says it in the URL, kubectl in the body.
        dry = "dryRun" in request.query or b'"dryRun"' in await request.read()
        return objects.get(request.path) if dry else objects.delete(request.path)
    try:  # YAML has dates and other types that JSON lacks
        body = json.loads(json.dumps(yaml.safe_load(await request.read()), allow_nan=False))
    except (yaml.YAMLError, TypeError, ValueError, RecursionError) as error:
        raise APIError(400, "BadRequest", f"the body cannot be read: {error}") from None
    if not isinstance(body, (dict, list)):
        raise APIError(400, "BadRequest", "the body is no object")
    if isinstance(body, dict) and not isinstance(body.setdefault("metadata", {}), dict):
        raise APIError(400, "BadRequest", "its metadata are no object")
    query = request.query
    dry = "dryRun" in query
    manager = query.get("fieldManager") or request.headers.get("User-Agent", "?").split("/")[0]
    apply = request.content_type == "application/apply-patch+yaml"
    if isinstance(body, dict) and (request.method != "PATCH" or apply):
        _complete(body, found)
    match request.method:
        case "POST" if isinstance(body, dict) and not found["name"]:
            metadata = body["metadata"]
            if "generateName" in metadata and "name" not in metadata:
                metadata["name"] = f"{metadata['generateName']}{int(objects.version):05}"
            if not metadata.get("name"):
                raise APIError(422, "Invalid", "name or generateName is required")
            path = f"{request.path}/{metadata['name']}"
            return objects.create(path, body, manager, dry=dry)
        case "PUT" if isinstance(body, dict):
            return objects.replace(request.path, body, manager, dry=dry)
        case "PATCH" if apply and isinstance(body, dict):
            force = query.get("force") == "true"
            return objects.apply(request.path, body, manager, force=force, dry=dry)
        case "PATCH":
            return objects.patch(request.path, body, manager, dry=dry)
        case _:
            raise APIError(405, "MethodNotAllowed", f"{request.method} is not done here")


def _complete(body: Object, found: re.Match[str]) -> None:
    """Add version, kind and namespace from the URL: Python's client leaves them out.

    Raises:
        APIError: the object has others.
    """
    version: str = found["core"] or found["group"]
    for where, key, value in (
        (body, "apiVersion", version),
        (body, "kind", KINDS[version][found["plural"]]),
        (body["metadata"], "namespace", found["namespace"]),
    ):
        if value and where.setdefault(key, value) != value:
            raise APIError(400, "BadRequest", f"{key} must be {value}, as in the URL")


async def _listed(
    request: web.Request, objects: Objects, version: str, found: re.Match[str]
) -> web.StreamResponse:
    """The list of the selected objects, or a stream of their changes (``watch``)."""
    kind = KINDS[version][found["plural"]]
    fields = _selector(request.query.get("fieldSelector", ""))
    labels = _selector(request.query.get("labelSelector", ""))

    def selected(each: Object) -> bool:
        metadata = each["metadata"]
        inside = found["namespace"] in (None, metadata.get("namespace"))
        named = fields.get("metadata.name", metadata["name"]) == metadata["name"]
        labelled = labels.items() <= metadata.get("labels", {}).items()
        return inside and each["kind"] == kind and named and labelled

    if request.query.get("watch") not in ("true", "1"):
        items = [each for each in objects.list("/") if selected(each)]
        whole = {
            "kind": f"{kind}List",
            "apiVersion": version,
            "metadata": {"resourceVersion": objects.version},
            "items": items,
        }
        return _shown(request, kind, items, whole)

    try:
        since = int(request.query.get("resourceVersion") or 0)
        patience = int(request.query.get("timeoutSeconds", 3600))
    except ValueError as error:
        raise APIError(400, "BadRequest", str(error)) from None
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    await response.prepare(request)
    with objects.watch() as events:
        for each in filter(selected, objects.list("/")):  # changed after the client's list
            if int(each["metadata"]["resourceVersion"]) > since:
                events.put_nowait({"type": "ADDED", "object": each})
        try:
            async with asyncio.timeout(patience):
                while True:
                    event = await events.get()
                    if selected(event["object"]):
                        shown = _table(kind, [event["object"]]) if _tabular(request) else None
                        event = {**event, "object": shown or event["object"]}
                        await response.write(json.dumps(event).encode() + b"\n")
        except (TimeoutError, ConnectionError):
            pass
    return response


def _selector(text: str) -> dict[str, str]:
    """The labels or fields that a selector requires; raises APIError if not ``key=value``."""
    parts = [part.replace("==", "=").partition("=") for part in text.split(",") if part]
    if any(not key or not equals or key.endswith("!") for key, equals, _ in parts):
        raise APIError(400, "BadRequest", f"only key=value is understood here, not {text!r}")
    return {key.strip(): value.strip() for key, _, value in parts}


def _tabular(request: web.Request) -> bool:
    return "as=Table" in request.headers.get("Accept", "")


def _shown(
    request: web.Request, kind: str, items: list[Object], whole: Object
) -> web.StreamResponse:
    """A table if ``kubectl`` asks for one, else the object or list itself."""
    return web.json_response(_table(kind, items) if _tabular(request) else whole)


def _table(kind: str, items: list[Object]) -> Object:
    columns: dict[str, Callable[[Object], Any]] = {"Name": lambda each: each["metadata"]["name"]}
    if kind == "InferenceService":
        columns |= COLUMNS
    columns["Age"] = _age
    return {
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": {},
        "columnDefinitions": [{"name": name, "type": "string"} for name in columns],
        "rows": [
            {"cells": [cell(each) for cell in columns.values()], "object": each} for each in items
        ],
    }


def _age(each: Object) -> str:
    created = datetime.fromisoformat(each["metadata"]["creationTimestamp"])
    return f"{int((datetime.now(UTC) - created).total_seconds())}s"


def _traffic(each: Object, field: str, **wanted: Any) -> Any:
    targets = each.get("status", {}).get("components", {}).get("predictor", {}).get("traffic", [])
    for target in targets:
        if all(target.get(key) == value for key, value in wanted.items()):
            return target.get(field)
    return ""


def _ready(each: Object) -> str:
    conditions = each.get("status", {}).get("conditions", [])
    return next((str(found["status"]) for found in conditions if found["type"] == "Ready"), "")


COLUMNS: dict[str, Callable[[Object], Any]] = {
    "URL": lambda each: each.get("status", {}).get("url", ""),
    "Ready": _ready,
    "Prev": lambda each: _traffic(each, "percent", tag="prev"),
    "Latest": lambda each: _traffic(each, "percent", latestRevision=True),
    "PrevRolledoutRevision": lambda each: _traffic(each, "revisionName", tag="prev"),
    "LatestReadyRevision": lambda each: _traffic(each, "revisionName", latestRevision=True),
}
"""The additional printer columns of KServe's CRD."""


def discovery(path: str) -> Object | None:
    """The document that tells ``kubectl`` which kinds there are; ``None`` for any other path."""
    match path.strip("/").split("/"):
        case ["version"]:
            return {"major": "1", "minor": "34", "gitVersion": "v1.34.0-standalone"}
        case ["api"]:
            return {"kind": "APIVersions", "versions": ["v1"]}
        case ["apis"]:
            groups = [_group(*version.split("/")) for version in KINDS if "/" in version]
            return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}
        case ["openapi", "v3"]:
            paths = [f"apis/{gv}" if "/" in gv else f"api/{gv}" for gv in KINDS]
            return {"paths": {gv: {"serverRelativeURL": f"/openapi/v3/{gv}"} for gv in paths}}
        case ["openapi", "v3", _, *version] if "/".join(version) in KINDS:
            return _openapi("/".join(version))
        case ["api" | "apis", *version] if "/".join(version) in KINDS:
            return _resources("/".join(version))
    return None


def _group(name: str, version: str) -> Object:
    versions = {"groupVersion": f"{name}/{version}", "version": version}
    return {"name": name, "versions": [versions], "preferredVersion": versions}


def _resources(version: str) -> Object:
    verbs = ["create", "delete", "get", "list", "patch", "update", "watch"]
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": version,
        "resources": [
            {
                "name": plural,
                "singularName": kind.lower(),
                "kind": kind,
                "verbs": verbs,
                "namespaced": kind != "Namespace",
                "shortNames": SHORT.get(kind, []),
            }
            for plural, kind in KINDS[version].items()
        ],
    }


def _openapi(version: str) -> Object:
    """An OpenAPI document saying that the server validates fields: ``kubectl`` needs no more."""
    group, _, number = version.rpartition("/")
    patch = {
        "parameters": [{"name": name, "in": "query"} for name in ("dryRun", "fieldValidation")],
        "responses": {},
    }
    paths = {
        f"/{plural}": {
            "patch": {
                **patch,
                "x-kubernetes-group-version-kind": {
                    "group": group,
                    "version": number,
                    "kind": kind,
                },
            }
        }
        for plural, kind in KINDS[version].items()
    }
    return {"openapi": "3.0.0", "info": {"title": "Kubernetes", "version": "1"}, "paths": paths}
