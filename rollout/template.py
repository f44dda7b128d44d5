"""A template: a component's specification without the percent, which a revision serves."""

import copy
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from rollout.errors import Refused

Object = dict[str, Any]

VERSION = ("MODEL_VERSION", "STORAGE_URI", "MODEL_DIGEST")
"""The environment variables of the predictor that choose the version."""


@dataclass(frozen=True)
class Version:
    """A version of the model, as the predictor's environment variables name it."""

    variable: str
    """``MODEL_VERSION`` for a version in the image, ``STORAGE_URI`` for one in a store."""
    value: str
    digest: str
    """SHA-256 of its ``model.json``."""


def container(template: Object) -> Object:
    """Return the container that serves.

    Raises:
        Refused: the template has no container, but uses a runtime of KServe's.
    """
    if not template.get("containers"):
        raise Refused("what serves is no container of the service's own, but a runtime of KServe's")
    found: Object = template["containers"][0]
    return found


def variables(template: Object) -> dict[str, str | None]:
    """Return the environment; ``None`` for values that come from elsewhere."""
    return {each["name"]: each.get("value") for each in container(template).get("env", ())}


def choose_version(template: Object, chosen: Iterable[Object]) -> None:
    """Replace the variables that choose the version by ``chosen``, in place."""
    serving = container(template)
    others = [each for each in serving.get("env", ()) if each["name"] not in VERSION]
    serving["env"] = [*chosen, *others]


def with_version(template: Object, version: Version) -> Object:
    """Return a copy of ``template`` with ``version``; ``template`` itself if it has it already."""
    found = variables(template)
    is_there = (found.get(version.variable) or "").rstrip("/") == version.value.rstrip("/")
    if is_there and found.get("MODEL_DIGEST", version.digest) == version.digest:
        return template
    changed = copy.deepcopy(template)
    choose_version(
        changed,
        [
            {"name": version.variable, "value": version.value},
            {"name": "MODEL_DIGEST", "value": version.digest},
        ],
    )
    return changed


def with_image(template: Object, image: str) -> Object:
    """Return a copy of ``template`` with another image."""
    changed = copy.deepcopy(template)
    container(changed)["image"] = image
    return changed


def fingerprint(template: Object) -> str:
    """Return a SHA-256 by which to recognise a template."""
    return hashlib.sha256(json.dumps(template, sort_keys=True).encode()).hexdigest()


def describe(template: Object) -> str:
    """Return what a template serves, in words: its version, or its image if it has none."""
    found = variables(template)
    if version := found.get("MODEL_VERSION"):
        return f"version {version}"
    if uri := found.get("STORAGE_URI"):
        return f"version {uri.rstrip('/').rpartition('/')[2]}"
    return str(container(template)["image"])
