"""The steps of a canary as patches, and what tells that one is done. None of it needs a cluster.

The order is that of docs/release.md: a version and its share in one patch, never a share alone on a
version that has all the traffic; and a share is taken away only from a version that may have all.
"""

import time
from collections.abc import Callable
from typing import Any

from scipy.stats import binomtest

Object = dict[str, Any]
Patch = list[Object]
"""A JSON patch, RFC 6902."""

PERCENT = "/spec/predictor/canaryTrafficPercent"


def version(service: Object, number: int, digest: str) -> Patch:
    """Put another version into the predictor."""
    wanted = {"MODEL_VERSION": str(number), "MODEL_DIGEST": digest}
    found = []
    for i, variable in enumerate(service["spec"]["predictor"]["containers"][0]["env"]):
        if variable["name"] in wanted:
            path = f"/spec/predictor/containers/0/env/{i}"
            # Whoever has changed the list since it was read is not overwritten.
            found += [
                {"op": "test", "path": f"{path}/name", "value": variable["name"]},
                {"op": "replace", "path": f"{path}/value", "value": wanted.pop(variable["name"])},
            ]
    if wanted:
        raise ValueError(f"the predictor has no variable {' nor '.join(sorted(wanted))}")
    return found


def share(percent: int) -> Patch:
    """Give the latest revision a share of the traffic."""
    return [{"op": "add", "path": PERCENT, "value": percent}]


def all_of_it() -> Patch:
    """Give the latest revision all of the traffic, and take the field away."""
    return [{"op": "remove", "path": PERCENT}]


def latest(service: Object, component: str = "predictor") -> str:
    """The revision that was made last."""
    return str(service["status"]["components"][component]["latestCreatedRevision"])


def is_ready(service: Object, before: str, component: str = "predictor") -> bool:
    """Whether the revision after ``before`` is there and ready.

    The condition Ready is about the old one for a second after a patch, and ``observedGeneration``
    counts something else.
    """
    status = service.get("status", {}).get("components", {}).get(component, {})
    made = status.get("latestCreatedRevision", before)
    return bool(made != before and made == status.get("latestReadyRevision"))


def gets(service: Object, percent: int) -> bool:
    """Whether the latest revision gets this share, as far as the gateway has been told."""
    status = service["status"]["components"]["predictor"]
    revision = status["latestReadyRevision"]
    given = sum(
        each.get("percent", 0)
        for each in status.get("traffic", ())
        if each.get("revisionName") == revision
    )
    return bool(status["latestCreatedRevision"] == revision and given == percent)


def is_plausible(count: int, total: int, percent: int) -> bool:
    """Whether ``count`` of ``total`` may come from a split at ``percent``.

    A right split is taken for a wrong one once in 10,000 times.
    """
    return bool(binomtest(count, total, percent / 100).pvalue > 1e-4)


def wait(what: str, until: Callable[[], bool], *, timeout: float, pause: float = 1) -> None:
    """Ask again and again; fails with ``what`` it waited for."""
    end = time.monotonic() + timeout
    while not until():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {timeout:g} s, and still not: {what}")
        time.sleep(pause)
