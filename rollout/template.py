"""A component's specification without the percent: what one revision of it serves."""

import copy
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from rollout.errors import Refused

Object = dict[str, Any]

VERSION = ("MODEL_VERSION", "STORAGE_URI", "MODEL_DIGEST")
"""The variables of the predictor that choose the version."""


@dataclass(frozen=True)
class Version:
    """What the predictor's variables say of a version of the model."""

    variable: str
    """``MODEL_VERSION`` for one in the image, ``STORAGE_URI`` for one in a store."""
    value: str
    digest: str
    """SHA-256 of its ``model.json``."""


def container(template: Object) -> Object:
    """The container that serves.

    Raises:
        Refused: a runtime of KServe's serves.
    """
    if not template.get("containers"):
        raise Refused("what serves is no container of the service's own, but a runtime of KServe's")
    found: Object = template["containers"][0]
    return found


def variables(template: Object) -> dict[str, str | None]:
    """Its environment; ``None`` for what comes from elsewhere."""
    return {each["name"]: each.get("value") for each in container(template).get("env", ())}


def choose_version(template: Object, chosen: Iterable[Object]) -> None:
    """Have the variables ``chosen`` choose the version, and no others."""
    serving = container(template)
    others = [each for each in serving["env"] if each["name"] not in VERSION]
    serving["env"] = [*chosen, *others]


def with_version(template: Object, version: Version) -> Object:
    """``template`` with another version of the model, or itself if it has this one."""
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
    """``template`` with another image."""
    changed = copy.deepcopy(template)
    container(changed)["image"] = image
    return changed


def fingerprint(template: Object) -> str:
    """By which a template is known again."""
    return hashlib.sha256(json.dumps(template, sort_keys=True).encode()).hexdigest()


def describe(template: Object) -> str:
    """What a template serves, in words: its version, or its image where there is none."""
    found = variables(template)
    if version := found.get("MODEL_VERSION"):
        return f"version {version}"
    if uri := found.get("STORAGE_URI"):
        return f"version {uri.rstrip('/').rpartition('/')[2]}"
    return str(container(template)["image"])
