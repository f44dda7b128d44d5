"""The state of a release, as data, as a table, and its history."""

from typing import Any

from rollout import canary
from rollout.record import UNKNOWN, Record
from rollout.template import Object, describe


def state(service: Object, record: Record) -> dict[str, Any]:
    """What ``status`` shows, a row to each revision that is named in the traffic."""
    return {
        "service": service["metadata"]["name"],
        "namespace": service["metadata"]["namespace"],
        "revisions": [
            row
            for name in canary.COMPONENTS
            if name in service["spec"]
            for row in _rows(canary.read(service, name), record)
        ],
    }


def _rows(live: canary.Component, record: Record) -> list[dict[str, Any]]:
    latest = {
        "component": live.name,
        "role": "canary" if live.has_canary else "stable",
        "serves": describe(live.template),
        "revision": live.created,
        "wanted": live.percent if live.has_canary else 100,
        "split": live.traffic.get(live.created or "", 0),
        "ready": live.is_ready,
    }
    if not live.has_canary:
        return [latest]
    release = record.release_of(live)
    stable = {
        **latest,
        "role": "stable",
        "serves": release.stable if release else UNKNOWN,
        "revision": live.rolled_out,
        "wanted": 100 - (live.percent or 0),
        "split": live.traffic.get(live.rolled_out or "", 0),
        "ready": live.rolled_out is not None,
    }
    return [stable, latest]


def table(found: dict[str, Any]) -> str:
    """The state for a person."""
    rows = [
        [
            row["component"],
            row["role"],
            row["serves"],
            str(row["revision"]),
            f"{row['wanted']} %",
            f"{row['split']} %",
            "yes" if row["ready"] else "no",
        ]
        for row in found["revisions"]
    ]
    return aligned([[name.upper() for name in found["revisions"][0]], *rows])


def history(record: Record) -> str:
    """The history for a person, the newest last."""
    rows = [
        [
            f"{each.time:%Y-%m-%d %H:%M:%S}",
            each.by,
            each.component,
            each.action,
            f"{each.stable} → {each.canary}",
            f"{each.percent} %",
            each.reason,
        ]
        for each in record.history
    ]
    titles = ["TIME (UTC)", "WHO", "COMPONENT", "WHAT", "FROM → TO", "AT", "WHY"]
    return aligned([titles, *rows])


def aligned(rows: list[list[str]]) -> str:
    """Rows of cells with their columns under one another."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
