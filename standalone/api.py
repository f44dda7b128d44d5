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
from typing import Any, NamedTuple

import yaml
from aiohttp import web

from standalone.discovery import KINDS, discovery
from standalone.objects import APIError, Object, Objects
from standalone.table import table

PATH = re.compile(
    r"/(?:api/(?P<core>v1)|apis/(?P<group>[^/]+/[^/]+))"
    r"(?:/namespaces/(?P<namespace>[^/]+)(?=/))?/(?P<plural>[^/]+)(?:/(?P<name>[^/]+))?"
)

PROTOBUF = "application/vnd.kubernetes.protobuf"
NO_PROTOBUF = (
    "only JSON and YAML are read here, and 'kubectl create' sends some kinds as protobuf: "
    "add '--dry-run=client -o yaml | kubectl apply -f -'"
)


class Resource(NamedTuple):
    """What a URL names: one object of a kind, those of a namespace, or all."""

    version: str
    kind: str
    namespace: str | None
    name: str | None


def application(objects: Objects) -> web.Application:
    """The web application that serves ``objects``."""
    app = web.Application(middlewares=[_explain])

    async def handle(request: web.Request) -> web.StreamResponse:
        if request.host.partition(":")[0] not in ("127.0.0.1", "localhost"):
            raise APIError(403, "Forbidden", "this API is for this machine alone")
        if request.method == "GET" and (document := discovery(request.path)) is not None:
            return web.json_response(document)
        resource = _resource(request.path)
        if request.method != "GET":
            return web.json_response(await _changed(request, objects, resource))
        if resource.name:
            found = objects.get(request.path)
            return web.json_response(_shown(request, resource.kind, [found], found))
        if request.query.get("watch") in ("true", "1"):
            return await _watched(request, objects, resource)
        return web.json_response(_listed(request, objects, resource))

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


def _resource(path: str) -> Resource:
    found = PATH.fullmatch(path)
    version: str = (found["core"] or found["group"]) if found else ""
    if not found or found["plural"] not in KINDS.get(version, {}):
        raise APIError(404, "NotFound", f"the server could not find {path}")
    return Resource(version, KINDS[version][found["plural"]], found["namespace"], found["name"])


async def _changed(request: web.Request, objects: Objects, resource: Resource) -> Object:
    """Do what a POST, PUT, PATCH or DELETE asks for, and return the object."""
    if resource.kind == "Pod":
        raise APIError(405, "MethodNotAllowed", "pods are made and removed with their revisions")
    if request.method == "DELETE":
        if resource.kind == "InferenceService":
            raise APIError(405, "MethodNotAllowed", "the service ends with the program: stop that")
        # Python's client says it in the URL, kubectl in the body.
        dry = "dryRun" in request.query or b'"dryRun"' in await request.read()
        return objects.get(request.path) if dry else objects.delete(request.path)
    body = await _body(request) if request.method in ("POST", "PUT", "PATCH") else None
    query = request.query
    dry = "dryRun" in query
    manager = query.get("fieldManager") or request.headers.get("User-Agent", "?").split("/")[0]
    apply = request.content_type == "application/apply-patch+yaml"
    if isinstance(body, dict) and (request.method != "PATCH" or apply):
        _complete(body, resource)
    match request.method:
        case "POST" if isinstance(body, dict) and not resource.name:
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


async def _body(request: web.Request) -> Any:
    """The object in the body, with metadata, or the list of a JSON patch."""
    if request.content_type == PROTOBUF:
        raise APIError(415, "UnsupportedMediaType", NO_PROTOBUF)
    try:  # YAML has dates and other types that JSON lacks
        body = json.loads(json.dumps(yaml.safe_load(await request.read()), allow_nan=False))
    except (yaml.YAMLError, TypeError, ValueError, RecursionError) as error:
        raise APIError(400, "BadRequest", f"the body cannot be read: {error}") from None
    if not isinstance(body, (dict, list)):
        raise APIError(400, "BadRequest", "the body is no object")
    if isinstance(body, dict) and not isinstance(body.setdefault("metadata", {}), dict):
        raise APIError(400, "BadRequest", "its metadata are no object")
    return body


def _complete(body: Object, resource: Resource) -> None:
    """Add version, kind and namespace from the URL: Python's client leaves them out.

    Raises:
        APIError: the object has others.
    """
    for where, key, value in (
        (body, "apiVersion", resource.version),
        (body, "kind", resource.kind),
        (body["metadata"], "namespace", resource.namespace),
    ):
        if value and where.setdefault(key, value) != value:
            raise APIError(400, "BadRequest", f"{key} must be {value}, as in the URL")


def _listed(request: web.Request, objects: Objects, resource: Resource) -> Object:
    """The list of the selected objects."""
    items = list(filter(_selection(request, resource), objects.list()))
    whole = {
        "kind": f"{resource.kind}List",
        "apiVersion": resource.version,
        "metadata": {"resourceVersion": objects.version},
        "items": items,
    }
    return _shown(request, resource.kind, items, whole)


async def _watched(
    request: web.Request, objects: Objects, resource: Resource
) -> web.StreamResponse:
    """A stream of the changes of the selected objects."""
    selected = _selection(request, resource)
    try:
        since = int(request.query.get("resourceVersion") or 0)
        patience = int(request.query.get("timeoutSeconds", 3600))
    except ValueError as error:
        raise APIError(400, "BadRequest", str(error)) from None
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    await response.prepare(request)
    with objects.watch() as events:
        missed = [("ADDED", each) for each in objects.list()]
        missed += [("DELETED", each) for each in objects.deleted.values() if since]
        for event_type, each in missed:  # changed after the client's list
            if int(each["metadata"]["resourceVersion"]) > since:
                events.put_nowait({"type": event_type, "object": each})
        try:
            async with asyncio.timeout(patience):
                while True:
                    event = await events.get()
                    if selected(found := event["object"]):
                        event["object"] = _shown(request, resource.kind, [found], found)
                        await response.write(json.dumps(event).encode() + b"\n")
        except (TimeoutError, ConnectionError):
            pass
    return response


def _selection(request: web.Request, resource: Resource) -> Callable[[Object], bool]:
    """Whether an object is one that the URL names and its query selects."""
    fields = _selector(request.query.get("fieldSelector", ""))
    labels = _selector(request.query.get("labelSelector", ""))

    def selected(each: Object) -> bool:
        metadata = each["metadata"]
        inside = resource.namespace in (None, metadata.get("namespace"))
        named = fields.get("metadata.name", metadata["name"]) == metadata["name"]
        labelled = labels.items() <= metadata.get("labels", {}).items()
        return inside and each["kind"] == resource.kind and named and labelled

    return selected


def _selector(text: str) -> dict[str, str]:
    """The labels or fields that a selector requires; raises APIError if not ``key=value``."""
    parts = [part.replace("==", "=").partition("=") for part in text.split(",") if part]
    if any(not key or not equals or key.endswith("!") for key, equals, _ in parts):
        raise APIError(400, "BadRequest", f"only key=value is understood here, not {text!r}")
    return {key.strip(): value.strip() for key, _, value in parts}


def _shown(request: web.Request, kind: str, items: list[Object], whole: Object) -> Object:
    """A table if ``kubectl`` asks for one, else the object or list itself."""
    if "as=Table" in request.headers.get("Accept", ""):
        return table(kind, items, whole["metadata"]["resourceVersion"])
    return whole
