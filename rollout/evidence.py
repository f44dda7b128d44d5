"""What the stable version and the canary have done, from the raw counters of their pods.

A pod's counters only grow while its process runs. So what it did since the last look is the
difference, or after a restart the whole count. Nothing is extrapolated, unlike Prometheus'
``increase``. Calls between the last look at a pod and its end are missed.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import NamedTuple

from pydantic import BaseModel

from rollout.canary import Component
from rollout.decision import GUARDRAILS, Arm, Step
from serving.scores import DIGITS

Counts = dict[str, float]
"""Counts of ``calls``, each guardrail, ``lost`` and ``digit_0``, ``digit_1``, …; 0 if missing."""

SLOW = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
"""The possible objectives in seconds: the bucket bounds of the histogram of ``serving.metrics``."""
STARTED = "process_start_time_seconds"
METRICS = (
    "mnist_request_seconds_bucket",
    "mnist_unsure_requests_total",
    "mnist_first_digits_total",
    "mnist_predictor_calls_total",
    STARTED,
)


class Metric(NamedTuple):
    """One sample of a pod's metrics."""

    name: str
    labels: Mapping[str, str]
    value: float


class Pod(NamedTuple):
    """A pod's counters at one look."""

    component: str
    revision: str
    started: float
    """Start of its process, in seconds since 1970; 0 if unknown."""
    counts: Counts


class Seen(BaseModel):
    """A pod's counters at the last look, and the start of its process."""

    started: float
    counts: Counts


class Stage(BaseModel):
    """A period with one wanted split, and what was counted in it."""

    percent: int
    since: datetime
    stable: Counts = {}
    canary: Counts = {}
    lost: float = 0


class Evidence(BaseModel):
    """All stages of a canary, the present one last."""

    slow: float
    """Seconds above which an answer counts as slow."""
    revision: str | None = None
    """The canary's revision."""
    stages: list[Stage] = []
    seen: dict[str, Seen] = {}
    """By pod name."""

    def begin(self, live: Component, since: datetime, pods: Mapping[str, Pod]) -> None:
        """Begin a stage with the split of ``live``; older counts of ``pods`` do not count."""
        percent, self.revision = live.percent or 0, live.created
        self.stages.append(Stage(percent=percent, since=since))
        self.seen = {name: Seen(started=p.started, counts=p.counts) for name, p in pods.items()}

    def add(self, pods: Mapping[str, Pod], live: Component) -> None:
        """Add to the present stage what ``pods`` have counted since the last look.

        Args:
            pods: by name; one that did not answer may be missing, and is caught up later.
            live: the component under canary.
        """
        stage = self.stages[-1]
        for name, pod in pods.items():
            seen = self.seen.get(name)
            if seen and _is_older(pod, seen):
                continue
            grown = self._grown(seen, pod)
            if pod.component != live.name:
                stage.lost += grown.get("lost", 0)
            elif pod.revision == live.created:
                stage.canary = _sum(stage.canary, grown)
            elif pod.revision == live.rolled_out:
                stage.stable = _sum(stage.stable, grown)
            self.seen[name] = Seen(started=pod.started, counts=pod.counts)

    def _grown(self, seen: Seen | None, pod: Pod) -> Counts:
        if seen is None:
            # It is new, or did not answer when the stage began: then part of its count is older.
            is_new = not pod.started or pod.started >= self.stages[-1].since.timestamp()
            return pod.counts if is_new else {}
        if pod.started != seen.started or _has_shrunk(pod, seen):
            return pod.counts
        return {key: value - seen.counts.get(key, 0) for key, value in pod.counts.items()}

    def steps(self) -> list[Step]:
        """Return the stages as ``rollout.decision`` needs them."""
        return [
            Step(stage.percent / 100, _arm(stage.stable), _arm(stage.canary), round(stage.lost))
            for stage in self.stages
        ]

    def total(self) -> tuple[Arm, Arm]:
        """Return the sums over all stages of the stable version and the canary."""
        return (
            _arm(_sum(*(stage.stable for stage in self.stages))),
            _arm(_sum(*(stage.canary for stage in self.stages))),
        )


def _is_older(pod: Pod, seen: Seen) -> bool:
    """Return whether ``pod`` is older than the last look: one of two Prometheus may lag behind."""
    is_same = pod.started == seen.started != 0
    return pod.started < seen.started or (is_same and _has_shrunk(pod, seen))


def _has_shrunk(pod: Pod, seen: Seen) -> bool:
    # Half a call of tolerance, since interpolated values carry rounding errors.
    return any(pod.counts.get(key, 0) < value - 0.5 for key, value in seen.counts.items())


def count(metrics: Iterable[Metric], *, slow: float) -> Counts:
    """Return the counts that a decision needs; answers over ``slow`` seconds count as slow."""
    counts: defaultdict[str, float] = defaultdict(float)
    for name, labels, value in metrics:
        if name == "mnist_request_seconds_bucket":
            if labels["le"] == "+Inf":
                counts["calls"] += value
                counts["slow"] += value
                if bad := _GUARDRAIL.get(labels["outcome"]):
                    counts[bad] += value
            elif float(labels["le"]) == slow:
                counts["slow"] -= value
        elif name == "mnist_unsure_requests_total":
            counts["unsure"] += value
        elif name == "mnist_first_digits_total" and labels["digit"].isdecimal():
            counts[f"digit_{labels['digit']}"] += value
        elif name == "mnist_predictor_calls_total" and labels["outcome"] == "lost":
            counts["lost"] += value
    return dict(counts)


_GUARDRAIL = {"failed": "failed", "overloaded": "failed", "invalid": "unsure"}
"""The guardrail that an outcome of ``mnist_request_seconds`` counts against."""


def _sum(*each: Counts) -> Counts:
    keys = {key for counts in each for key in counts}
    return {key: sum(counts.get(key, 0) for counts in each) for key in sorted(keys)}


def _arm(counts: Counts) -> Arm:
    return Arm(
        round(counts.get("calls", 0)),
        {name: round(counts.get(name, 0)) for name in GUARDRAILS},
        tuple(round(counts.get(f"digit_{digit}", 0)) for digit in range(DIGITS)),
    )
