"""Checks objects as the API server and KServe's webhook do."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

from standalone.canary import PERCENT
from standalone.objects import APIError, Object


def admit(made: Object) -> Object:
    """Check an object, and return a copy.

    Raises:
        APIError: its metadata have an unknown or malformed field; or it is an InferenceService
            that has one, lacks containers, or has a percent that is not an integer from 0 to 100.
    """
    if problems := [*unknown(made["metadata"], "V1ObjectMeta", "metadata")]:
        raise APIError(400, "BadRequest", f"strict decoding error: {'; '.join(problems)}")
    if made.get("kind") == "InferenceService":
        written = {key: each for key, each in made.items() if key != "status"}
        if problems := [*unknown(written, "V1beta1InferenceService", "InferenceService")]:
            raise APIError(400, "BadRequest", f"strict decoding error: {'; '.join(problems)}")
        for name in ("predictor", "transformer"):
            component = made.get("spec", {}).get(name, {})
            if not component.get("containers"):
                raise APIError(422, "Invalid", f"spec.{name} has no containers")
            percent = component.get(PERCENT, 0)
            if type(percent) is not int or not 0 <= percent <= 100:
                raise APIError(422, "Invalid", f"spec.{name}.{PERCENT}: {percent} is no percent")
    return copy.deepcopy(made)


def admit_one(name: str) -> Callable[[Object], Object]:
    """``admit`` that refuses any InferenceService but the one served here, ``name``."""

    def admit_here(made: Object) -> Object:
        found = made.get("metadata", {})
        place = (found.get("namespace"), found.get("name"))
        if made.get("kind") == "InferenceService" and place != ("default", name):
            raise APIError(422, "Invalid", f"this machine serves {name} in namespace default alone")
        return admit(made)

    return admit_here


def unknown(value: Any, kind: str, where: str) -> Iterator[str]:
    """Messages on unknown and malformed fields of ``value``, which is found at ``where``.

    ``kind`` is the type of ``value`` in KServe's or Kubernetes' SDK.
    """
    import kserve  # slow, and needed only when somebody writes
    import kubernetes.client

    if kind[:4].lower() in ("list", "dict"):  # list[…], dict(…), and List[…], Dict[…]
        if not isinstance(value, list if kind[0] in "lL" else dict):
            yield f"{where} is no {kind[:4].lower()}"
            return
        inner = kind[5:-1].split(", ")[-1]
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for key, each in pairs:
            yield from unknown(each, inner, f"{where}.{key}")
        return
    model = getattr(kserve, kind, None) or getattr(kubernetes.client, kind, None)
    if model is None:  # a plain value
        return
    if not isinstance(value, dict):
        yield f"{where} is no object"
        return
    fields = {model.attribute_map[name]: model.openapi_types[name] for name in model.attribute_map}
    for key, each in value.items():
        if key in fields:
            yield from unknown(each, fields[key], f"{where}.{key}")
        else:
            yield f"{where}.{key} is unknown"
