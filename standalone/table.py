"""The columns that ``kubectl get`` shows."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from standalone.objects import Object

HOUR = 3600


def table(kind: str, items: list[Object], version: str) -> Object:
    """The table of objects of one kind; ``version`` is where a watch behind it begins."""
    columns: dict[str, Callable[[Object], Any]] = {"Name": lambda each: each["metadata"]["name"]}
    if kind == "InferenceService":
        columns |= COLUMNS
    columns["Age"] = _age
    return {
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": {"resourceVersion": version},
        "columnDefinitions": [{"name": name, "type": "string"} for name in columns],
        "rows": [
            {"cells": [cell(each) for cell in columns.values()], "object": each} for each in items
        ],
    }


def _age(each: Object) -> str:
    created = datetime.fromisoformat(each["metadata"]["creationTimestamp"])
    seconds = int((datetime.now(UTC) - created).total_seconds())
    for unit, length, end in (("s", 1, 120), ("m", 60, 3 * HOUR), ("h", HOUR, 48 * HOUR)):
        if seconds < end:
            return f"{seconds // length}{unit}"
    return f"{seconds // (24 * HOUR)}d"


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
