"""Shows the state of a release, as data or as a table, and the history."""

from typing import Any

from rollout import canary
from rollout.decision import GUARDRAILS
from rollout.evidence import Evidence
from rollout.record import UNKNOWN, Record
from rollout.template import Object, describe

COLUMNS = (
    *("component", "role", "serves", "revision", "wanted", "split", "ready"),
    *("calls", *GUARDRAILS),  # counted since the canary began, of the component that has it
)


def state(service: Object, record: Record, evidence: Evidence | None) -> dict[str, Any]:
    """Return what ``status`` shows: a row for each component, two for one with a canary.

    ``evidence`` is that of the running canary.
    """
    return {
        "service": service["metadata"]["name"],
        "namespace": service["metadata"]["namespace"],
        "revisions": [
            row
            for name in canary.COMPONENTS
            if name in service["spec"]
            for row in _rows(canary.read(service, name), record, evidence)
        ],
    }


def _rows(
    live: canary.Component, record: Record, evidence: Evidence | None
) -> list[dict[str, Any]]:
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
    if evidence:
        for row, arm in zip((stable, latest), evidence.total(), strict=True):
            row |= {"calls": arm.calls, **arm.bad}
    return [stable, latest]


def table(found: dict[str, Any]) -> str:
    """Format what ``state`` returned as a table."""
    rows = [
        row
        | {name: f"{row[name]} %" for name in ("wanted", "split")}
        | {"ready": "yes" if row["ready"] else "no"}
        for row in found["revisions"]
    ]
    cells = [[str(row.get(name, "")) for name in COLUMNS] for row in rows]
    return aligned([[name.upper() for name in COLUMNS], *cells])


def history(record: Record) -> str:
    """Format the history as a table, newest entry last, with the evidence below each."""
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
    first, *lines = aligned([titles, *rows]).splitlines()
    shown = [first]
    for line, entry in zip(lines, record.history, strict=True):
        shown += [line, *(f"    {each}" for each in entry.evidence)]
    return "\n".join(shown)


def aligned(rows: list[list[str]]) -> str:
    """Join rows of cells to lines with aligned columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
