"""What the sides of a canary have done, from counters that only grow."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollout.canary import Component
from rollout.evidence import SLOW, Counts, Evidence, Metric, Pod, count
from serving import metrics

SINCE = datetime(2026, 1, 1, tzinfo=UTC)
EARLIER, LATER = SINCE.timestamp() - 60, SINCE.timestamp() + 60
LIVE = Component("predictor", {}, 10, "new", "new", "old", {"old": 90, "new": 10})


def pod(
    revision: str, started: float = EARLIER, component: str = "predictor", **counts: float
) -> Pod:
    return Pod(component, revision, started, dict(counts))


def begun(**pods: Pod) -> Evidence:
    evidence = Evidence(slow=0.5)
    evidence.begin(LIVE, SINCE, pods)
    return evidence


def test_what_was_counted_before_the_stage_does_not_count() -> None:
    evidence = begun(a=pod("old", calls=100, failed=7), b=pod("new", calls=3))
    evidence.add({"a": pod("old", calls=150, failed=8), "b": pod("new", calls=9, slow=2)}, LIVE)
    (step,) = evidence.steps()
    assert step.share == 0.1
    assert (step.stable.calls, step.stable.bad) == (50, {"failed": 1, "slow": 0, "unsure": 0})
    assert (step.canary.calls, step.canary.bad) == (6, {"failed": 0, "slow": 2, "unsure": 0})


@pytest.mark.parametrize(
    "again",
    [
        pod("old", LATER, calls=30),  # another process, which has counted less
        pod("old", LATER, calls=300),  # or more
    ],
)
def test_a_pod_that_was_restarted_counts_from_its_start(again: Pod) -> None:
    evidence = begun(a=pod("old", calls=100))
    evidence.add({"a": pod("old", calls=110)}, LIVE)
    evidence.add({"a": again}, LIVE)
    assert evidence.steps()[0].stable.calls == 10 + again.counts["calls"]


@pytest.mark.parametrize("calls", [30, 99])
def test_where_the_start_is_not_known_a_counter_that_has_shrunk_is_a_restart(calls: int) -> None:
    evidence = begun(a=pod("old", 0, calls=100))
    evidence.add({"a": pod("old", 0, calls=calls)}, LIVE)
    assert evidence.steps()[0].stable.calls == calls


@pytest.mark.parametrize("older", [pod("old", calls=90), pod("old", EARLIER - 60, calls=500)])
def test_what_was_read_before_the_last_look_is_no_restart(older: Pod) -> None:
    """Of two Prometheus servers one is behind, and both are behind the pods themselves."""
    evidence = begun(a=pod("old", calls=100))
    for again in (older, pod("old", calls=110), older, pod("old", calls=120)):
        evidence.add({"a": again}, LIVE)
    assert evidence.steps()[0].stable.calls == 20


def test_the_last_digit_of_what_is_interpolated_is_no_restart() -> None:
    """``slow`` is a difference of floats, and may be off by some of the smallest."""
    evidence = begun(a=pod("old", calls=100.5, slow=2.5 + 1e-11))
    evidence.add({"a": pod("old", calls=110.5, slow=2.5)}, LIVE)
    evidence.add({"a": pod("old", calls=120.5, slow=2.5)}, LIVE)
    (step,) = evidence.steps()
    assert (step.stable.calls, step.stable.bad["slow"]) == (20, 0)


@pytest.mark.parametrize("started", [LATER, 0], ids=["known", "unknown"])
def test_a_pod_that_has_started_since_counts_whole(started: float) -> None:
    evidence = begun()
    evidence.add({"b": pod("new", started, calls=5)}, LIVE)
    assert evidence.steps()[0].canary.calls == 5


def test_a_pod_that_did_not_answer_at_the_beginning_counts_from_its_first_answer() -> None:
    """Else all it ever did would count as done in this stage."""
    evidence = begun()
    evidence.add({"a": pod("old", EARLIER, calls=1_000_000)}, LIVE)
    evidence.add({"a": pod("old", EARLIER, calls=1_000_007)}, LIVE)
    assert evidence.steps()[0].stable.calls == 7


def test_a_pod_that_did_not_answer_when_the_split_changed_counts_from_its_next_answer() -> None:
    """Else what it did under the split before would count as done under this one."""
    evidence = begun(a=pod("old", calls=100))
    evidence.begin(replace(LIVE, percent=50), SINCE + timedelta(minutes=2), {})
    for more in (0, 7):
        pods = {"a": pod("old", calls=130 + more), "b": pod("new", LATER, calls=9 + more)}
        evidence.add(pods, LIVE)
    assert [(step.stable.calls, step.canary.calls) for step in evidence.steps()] == [(0, 0), (7, 7)]


def test_a_pod_that_does_not_answer_for_a_while_is_caught_up_with() -> None:
    evidence = begun(a=pod("old", calls=100))
    evidence.add({}, LIVE)
    evidence.add({"a": pod("old", calls=120)}, LIVE)
    assert evidence.steps()[0].stable.calls == 20


def test_other_revisions_are_left_out_and_lost_calls_are_the_transformers() -> None:
    evidence = begun()
    transformer = pod("t", LATER, "transformer", calls=50, lost=3, failed=3)
    evidence.add({"t": transformer, "x": pod("older", LATER, calls=9, lost=9)}, LIVE)
    (step,) = evidence.steps()
    assert (step.lost, step.stable.calls, step.canary.calls) == (3, 0, 0)


def test_lost_calls_add_up_over_the_looks() -> None:
    evidence = begun(t=pod("any", component="transformer", lost=1))
    for lost in (3, 7):
        evidence.add({"t": pod("any", component="transformer", lost=lost)}, LIVE)
    assert evidence.steps()[0].lost == 6


def test_each_stage_has_its_own_split_and_all_of_them_are_kept() -> None:
    evidence = begun(b=pod("new"))
    evidence.add({"b": pod("new", calls=5, digit_7=4)}, LIVE)
    evidence.begin(replace(LIVE, percent=50), SINCE, {"b": pod("new", calls=8, digit_7=4)})
    evidence.add({"b": pod("new", calls=10, digit_7=5)}, LIVE)
    assert [(step.share, step.canary.calls) for step in evidence.steps()] == [(0.1, 5), (0.5, 2)]
    assert [step.canary.digits[7] for step in evidence.steps()] == [4, 1]
    assert evidence.total()[1].calls == 7


@given(st.lists(st.integers(0, 50), min_size=1), st.sets(st.integers(0, 20)))
def test_nothing_is_counted_twice_or_lost_however_often_one_looks(
    growth: list[int], missed: set[int]
) -> None:
    evidence, total = begun(a=pod("old", calls=5)), 5
    for look, more in enumerate(growth):
        total += more
        if look not in missed or look == len(growth) - 1:
            evidence = Evidence.model_validate_json(evidence.model_dump_json())  # as it is recorded
            evidence.add({"a": pod("old", calls=total)}, LIVE)
    assert evidence.steps()[0].stable.calls == sum(growth)


def requests(outcome: str, quick: float, total: float, bound: str = "0.5") -> list[Metric]:
    name = "mnist_request_seconds_bucket"
    return [
        Metric(name, {"outcome": outcome, "le": bound}, quick),
        Metric(name, {"outcome": outcome, "le": "+Inf"}, total),
    ]


@pytest.mark.parametrize(
    ("counted", "counts"),
    [
        (requests("ok", 8, 10), {"calls": 10, "slow": 2}),
        (requests("ok", 5, 5, bound="0.25"), {"calls": 5, "slow": 5}),
        (requests("ok", 5, 5, bound="1.0"), {"calls": 5, "slow": 5}),
        (requests("failed", 2, 2), {"calls": 2, "failed": 2}),
        (requests("overloaded", 2, 2), {"calls": 2, "failed": 2}),
        (requests("invalid", 2, 2), {"calls": 2, "unsure": 2}),
        (requests("cancelled", 1, 2), {"calls": 2, "slow": 1}),
        ([Metric("mnist_unsure_requests_total", {"model_version": "1"}, 4)], {"unsure": 4}),
        ([Metric("mnist_first_digits_total", {"digit": "7"}, 4)], {"digit_7": 4}),
        ([Metric("mnist_first_digits_total", {"digit": "none"}, 4)], {}),
        ([Metric("mnist_predictor_calls_total", {"outcome": "lost"}, 4)], {"lost": 4}),
        ([Metric("mnist_predictor_calls_total", {"outcome": "ok"}, 4)], {}),
    ],
)
def test_what_a_pod_exports_becomes_counts(counted: list[Metric], counts: Counts) -> None:
    found = count(counted, slow=0.5)
    assert {key: value for key, value in found.items() if value} == counts


def test_the_objectives_are_bounds_of_the_histogram() -> None:
    assert tuple(metrics.REQUEST_SECONDS._upper_bounds[:-1]) == SLOW
