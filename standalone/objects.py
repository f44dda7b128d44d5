"""The objects of a Kubernetes API, and the operations on them.

It follows the API server where that matters for a release. Every change makes a new
``resourceVersion``; a request that names any but the current one is a conflict. Server-side apply
merges by field and removes what its manager applied before but leaves out now; unless forced, it is
a conflict where another manager has set another value. Lists are leaves, as ``containers`` is in
the CRD of the InferenceService. Left out: finalizers, ``managedFields`` in answers, and strategic
merge (its patches are treated as merge patches).
"""

import asyncio
import copy
import itertools
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import jsonpatch

Object = dict[str, Any]
Leaves = dict[tuple[str, ...], Any]

OURS = ("uid", "creationTimestamp", "generation", "resourceVersion")
"""The metadata that only the server writes."""
FIXED: list[tuple[str, ...]] = [("apiVersion",), ("kind",), ("metadata", "namespace")]
"""The fields that nobody can change."""


class APIError(Exception):
    """A refused request: the HTTP status, Kubernetes' name for the reason, and a message."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason


class Objects:
    """All objects, by their path in the API."""

    def __init__(self, admit: Callable[[Object], Object] = copy.deepcopy) -> None:
        """``admit`` is the webhook: it fills in defaults, and may raise ``APIError``."""
        self._admit = admit
        self._objects: dict[str, Object] = {}
        self._managed: dict[tuple[str, str], Leaves] = {}
        self._versions = itertools.count(1)
        self._watches: list[asyncio.Queue[Object]] = []
        self.version = "0"
        """The ``resourceVersion`` of the last change."""
        self.deleted: dict[str, Object] = {}
        """What is deleted, by path; its ``resourceVersion`` is that of the deletion."""

    def get(self, path: str) -> Object:
        """A copy of one object; raises APIError if there is none."""
        try:
            return copy.deepcopy(self._objects[path])
        except KeyError:
            name = path.rpartition("/")[2]
            raise APIError(404, "NotFound", f'"{name}" not found') from None

    def list(self) -> list[Object]:
        """Copies of all objects."""
        return copy.deepcopy([*self._objects.values()])

    @contextmanager
    def watch(self) -> Iterator[asyncio.Queue[Object]]:
        """A queue of events (``type``, ``object``): all changes."""
        queue: asyncio.Queue[Object] = asyncio.Queue()
        self._watches.append(queue)
        try:
            yield queue
        finally:
            self._watches.remove(queue)

    def create(self, path: str, wanted: Object, manager: str, *, dry: bool = False) -> Object:
        """Create an object; raises APIError if it exists."""
        if path in self._objects:
            raise APIError(409, "AlreadyExists", f'"{path.rpartition("/")[2]}" already exists')
        return self._change(path, leaves(wanted), manager, dry=dry)

    def replace(self, path: str, wanted: Object, manager: str, *, dry: bool = False) -> Object:
        """Replace an object; raises APIError if there is none."""
        self._check_version(path, wanted)
        self.get(path)
        return self._change(path, leaves(wanted), manager, dry=dry)

    def patch(self, path: str, patch: Any, manager: str, *, dry: bool = False) -> Object:
        """Apply a merge patch (RFC 7386), or a JSON patch (RFC 6902) if it is a list."""
        before = self.get(path)
        if isinstance(patch, list):
            try:
                patched = jsonpatch.apply_patch(before, patch)
            except (jsonpatch.JsonPatchException, jsonpatch.JsonPointerException) as refusal:
                raise APIError(
                    422, "Invalid", f"the server rejected the patch: {refusal}"
                ) from None
            if not isinstance(patched, dict):
                raise APIError(422, "Invalid", "the patch leaves no object")
            after = leaves(patched)
        else:
            self._check_version(path, patch)
            after = leaves(before)
            for at, value in leaves(patch).items():
                there = [each for each in after if each[: len(at)] == at]
                if value == {} and any(len(each) > len(at) for each in there):
                    continue  # an empty patch changes nothing in an object
                for old in there:
                    del after[old]
                if value is not None:
                    after[at] = value
        return self._change(path, after, manager, dry=dry)

    def apply(
        self, path: str, wanted: Object, manager: str, *, force: bool, dry: bool = False
    ) -> Object:
        """Server-side apply; with ``force``, also over other managers' fields."""
        self._check_version(path, wanted)
        wanted.pop("status", None)
        applied, merged = leaves(wanted), leaves(self._objects.get(path, {}))
        others = [
            (at, name)
            for (other, name), fields in self._managed.items()
            for at in sorted(fields)
            if other == path and name != manager
        ]
        before = self._managed.get((path, manager), {}).keys()
        for at in before - applied.keys() - {at for at, _ in others}:
            merged.pop(at, None)
        filled = {at[:size] for at in merged for size in range(len(at))}
        for at in [at for at, value in applied.items() if value == {} and at in filled]:
            del applied[at]  # an empty map takes nothing away
        taken = [
            f'conflict with "{name}": .{".".join(at)}'
            for at, name in others
            if at in applied and merged.get(at) != applied[at]
        ]
        if taken and not force:
            message = f"Apply failed with {len(taken)} conflicts: {', '.join(taken)}"
            raise APIError(409, "Conflict", message)
        made = self._change(path, merged | applied, manager, dry=dry)
        if not dry:
            self._managed[path, manager] = applied
        return made

    def delete(self, path: str) -> Object:
        """Delete an object, and return it."""
        gone = self.get(path)
        self.version = gone["metadata"]["resourceVersion"] = str(next(self._versions))
        del self._objects[path]
        self.deleted[path] = gone
        self._managed = {key: each for key, each in self._managed.items() if key[0] != path}
        self._tell("DELETED", gone)
        return gone

    def set_status(self, path: str, status: Object) -> None:
        """Set the status, as the controller does."""
        self._store(path, {**self.get(path), "status": status})

    def _check_version(self, path: str, wanted: Object) -> None:
        version = wanted.get("metadata", {}).get("resourceVersion")
        live = self._objects.get(path, {"metadata": {}})["metadata"].get("resourceVersion")
        if version and version != live:
            raise APIError(
                409, "Conflict", "the object has been modified; please apply your changes to the "
                "latest version and try again",
            )  # fmt: skip

    def _change(self, path: str, after: Leaves, manager: str, *, dry: bool) -> Object:
        live = self._objects.get(path, {})
        before = leaves(live)
        after = {at: value for at, value in after.items() if value is not None}
        if live:  # the status is the controller's
            after = {at: value for at, value in after.items() if at[0] != "status"}
            after |= {at: value for at, value in before.items() if at[0] == "status"}
        made = tree(after)
        after = leaves(made)  # without the values that a patch has replaced with objects
        metadata, name = made.get("metadata"), path.rpartition("/")[2]
        if not isinstance(metadata, dict) or metadata.get("name") != name:
            raise APIError(400, "BadRequest", f"metadata.name must be {name}, as in the URL")
        made = self._admit(made)
        for at in FIXED:
            if live and after.get(at) != before.get(at):
                raise APIError(422, "Invalid", f"{'.'.join(at)} cannot be changed")
        changed = [at for at in before | after if before.get(at) != after.get(at)]
        if dry:
            return made
        for (other, _), fields in self._managed.items():
            for at in changed:
                if other == path:
                    fields.pop(at, None)
        mine = self._managed.setdefault((path, manager), {})
        mine |= {at: after[at] for at in changed if at in after}
        return self._store(path, made)

    def _store(self, path: str, made: Object) -> Object:
        live = self._objects.get(path)
        metadata = made["metadata"]
        if live is None:
            metadata["uid"] = str(uuid.uuid4())
            metadata["creationTimestamp"] = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            metadata["generation"] = 1
        else:
            metadata |= {key: live["metadata"][key] for key in OURS}
            if made == live:
                return copy.deepcopy(live)
            metadata["generation"] += made.get("spec") != live.get("spec")
        self.version = metadata["resourceVersion"] = str(next(self._versions))
        self._objects[path] = made
        self.deleted.pop(path, None)
        self._tell("MODIFIED" if live else "ADDED", made)
        return copy.deepcopy(made)

    def _tell(self, event: str, found: Object) -> None:
        for queue in self._watches:
            queue.put_nowait({"type": event, "object": copy.deepcopy(found)})


def leaves(value: Object, at: tuple[str, ...] = ()) -> Leaves:
    """The fields of an object by their path; lists and empty maps are leaves."""
    found: Leaves = {}
    for key, each in value.items():
        here = (*at, key)
        found |= leaves(each, here) if isinstance(each, dict) and each else {here: each}
    return found


def tree(fields: Leaves) -> Object:
    """The object with these fields."""
    made: Object = {}
    for at, value in fields.items():
        node = made
        for key in at[:-1]:
            if not isinstance(node.get(key), dict):  # a patch may replace a value with an object
                node[key] = {}
            node = node[key]
        node[at[-1]] = copy.deepcopy(value)
    return made
