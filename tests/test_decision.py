"""The decision on a canary: what it may conclude, and how seldom it is wrong."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from rollout.decision import (
    GUARDRAILS,
    TESTS,
    Arm,
    Labels,
    Step,
    Verdict,
    jensen_shannon,
    judge,
    log_e_value,
)

ALPHA = 0.05
MIX = (10,) * 10


def arm(calls: int, digits: tuple[int, ...] = MIX, **bad: int) -> Arm:
    return Arm(calls, {name: bad.get(name, 0) for name in GUARDRAILS}, digits)


def step(stable: Arm, canary: Arm, share: float = 0.1, lost: int = 0) -> Step:
    return Step(share, stable, canary, lost)


def verdicts(*steps: Step, labels: Labels | None = None) -> tuple[Verdict, dict[str, Verdict]]:
    found = judge(steps, alpha=ALPHA, labels=labels)
    return found.verdict, {check.name: check.verdict for check in found.checks}


def test_a_healthy_canary_with_enough_calls_may_go_on() -> None:
    assert verdicts(step(arm(900, failed=9), arm(100, failed=1)))[0] is Verdict.HEALTHY


@pytest.mark.parametrize("calls", [0, 1, 99])
def test_too_little_traffic_is_no_evidence(calls: int) -> None:
    found = verdicts(step(arm(9 * calls), arm(calls)))
    assert found[0] is Verdict.HOLD
    assert found[1]["sample"] is Verdict.HOLD


def test_no_traffic_is_no_evidence_even_where_none_is_asked_for() -> None:
    assert judge([step(arm(100), arm(0), share=0.01)], minimum=0).verdict is Verdict.HOLD


@pytest.mark.parametrize("guardrail", GUARDRAILS)
def test_a_canary_with_too_many_bad_calls_is_condemned(guardrail: str) -> None:
    found = verdicts(step(arm(900, MIX, **{guardrail: 9}), arm(100, MIX, **{guardrail: 20})))
    assert found[0] is Verdict.BAD
    assert found[1][guardrail] is Verdict.BAD


def test_a_canary_that_always_fails_is_condemned_within_three_calls_at_10_percent() -> None:
    assert verdicts(step(arm(18), arm(2, failed=2)))[0] is Verdict.HOLD
    assert verdicts(step(arm(27), arm(3, failed=3)))[0] is Verdict.BAD


def test_a_canary_that_is_better_is_not_condemned() -> None:
    assert verdicts(step(arm(900, slow=400), arm(100, slow=0)))[0] is Verdict.HEALTHY


@pytest.mark.parametrize(("share", "bad"), [(0.5, 1200), (0.25, 5000), (0.1, 20_000)])
def test_a_canary_that_was_much_better_is_condemned_all_the_same_when_it_breaks(
    share: float, bad: int
) -> None:
    """What it was good for is a finite amount, however small the chance of it."""
    calls = round(100 * bad * share / (1 - share))
    good = step(arm(100 * bad, slow=bad), arm(calls), share)
    assert verdicts(good)[0] is Verdict.HEALTHY
    assert verdicts(good, step(arm(2500), arm(7500, slow=7500), 0.75))[1]["slow"] is Verdict.BAD


def test_evidence_of_steps_adds_up_each_under_its_own_split() -> None:
    first = step(arm(900, failed=3), arm(100, failed=3))
    second = step(arm(500, failed=3), arm(500, failed=13), share=0.5)
    assert verdicts(first)[1]["failed"] is Verdict.HEALTHY
    assert verdicts(second)[1]["failed"] is Verdict.HEALTHY
    assert verdicts(first, second)[1]["failed"] is Verdict.BAD


@pytest.mark.parametrize("canary", [20, 300])
def test_a_split_that_is_not_as_wanted_holds_whatever_else_is_seen(canary: int) -> None:
    found = verdicts(step(arm(900), arm(canary, failed=20)))
    assert found == (Verdict.HOLD, {"split": Verdict.HOLD})


@pytest.mark.parametrize(("share", "answered"), [(0.1, 0), (0.1, 40), (0.5, 0)])
def test_a_canary_that_loses_its_calls_is_condemned(share: float, answered: int) -> None:
    calls = round(1000 * share)
    found = verdicts(step(arm(1000 - calls), arm(answered), share, lost=calls - answered))
    assert found == (Verdict.BAD, {"split": Verdict.BAD})


def test_lost_calls_that_fit_both_versions_condemn_nobody() -> None:
    assert verdicts(step(arm(900), arm(100), lost=50))[0] is Verdict.HEALTHY


def test_lost_calls_condemn_no_canary_that_got_more_than_its_share() -> None:
    found = verdicts(step(arm(900), arm(140)), step(arm(60), arm(30), share=0.5, lost=20))
    assert found == (Verdict.HOLD, {"split": Verdict.HOLD})


@pytest.mark.parametrize(("canary", "verdict"), [(146, Verdict.HEALTHY), (147, Verdict.HOLD)])
def test_a_split_that_is_off_by_chance_is_as_wanted(canary: int, verdict: Verdict) -> None:
    """The odds are 99 and 138 to 1; at 100 to 1 it holds."""
    assert verdicts(step(arm(900), arm(canary)))[0] is verdict


def test_another_mix_of_digits_holds_but_does_not_condemn() -> None:
    shifted = (0, 0, 0, 0, 0, 0, 0, 0, 0, 100)
    found = verdicts(step(arm(900, (90,) * 10), arm(100, shifted)))
    assert found[0] is Verdict.HOLD
    assert found[1]["digits"] is Verdict.HOLD


def test_that_one_of_ten_digits_is_seen_often_may_be_chance() -> None:
    """For that digit alone it would be no accident."""
    canary = (27, *(8,) * 9)
    assert jensen_shannon((90,) * 10, canary) > 0.1
    assert verdicts(step(arm(900, (90,) * 10), arm(100, canary)))[0] is Verdict.HEALTHY


def test_digits_and_sample_are_those_of_the_present_step() -> None:
    shifted = (0, 0, 0, 0, 0, 0, 0, 0, 0, 100)
    found = verdicts(
        step(arm(900, (90,) * 10), arm(100, shifted)), step(arm(99), arm(99), share=0.5)
    )
    assert (found[1]["digits"], found[1]["sample"]) == (Verdict.HEALTHY, Verdict.HOLD)


@pytest.mark.parametrize(("zeros", "verdict"), [(15_000, Verdict.HEALTHY), (15_500, Verdict.HOLD)])
def test_a_significant_shift_of_the_digits_holds_if_it_is_large_enough_to_matter(
    zeros: int, verdict: Verdict
) -> None:
    stable = (90_000,) * 10
    canary = (zeros, 20_000 - zeros, *(10_000,) * 8)
    assert (jensen_shannon(stable, canary) >= 0.1) is (verdict is Verdict.HOLD)
    found = verdicts(step(arm(900_000, stable), arm(100_000, canary)))
    assert found[1]["digits"] is verdict


@pytest.mark.parametrize(
    ("stable_right", "canary_right", "verdict"),
    [
        (20, 2, Verdict.BAD),
        (2, 20, Verdict.HEALTHY),
        (12, 10, Verdict.HEALTHY),
        (9, 0, Verdict.BAD),
        (12, 1, Verdict.HEALTHY),
    ],
)
def test_labels_decide_by_the_disagreements(
    stable_right: int, canary_right: int, verdict: Verdict
) -> None:
    """The last two are 102 and 90 to 1."""
    labels = Labels(stable_right=stable_right, canary_right=canary_right)
    assert verdicts(step(arm(900), arm(100)), labels=labels)[0] is verdict


def test_alpha_is_divided_among_all_checks_that_can_condemn() -> None:
    failing = step(arm(900), arm(100, MIX, **dict.fromkeys(GUARDRAILS, 100)))
    losing = step(arm(900), arm(0), lost=100)
    found = [verdicts(failing, labels=Labels(100, 0))[1], verdicts(losing)[1]]
    condemning = [name for each in found for name in each if each[name] is Verdict.BAD]
    assert len(condemning) == len(set(condemning)) == TESTS


def test_every_decision_says_its_evidence_in_words() -> None:
    found = judge([step(arm(900, failed=9), arm(100, failed=20))])
    texts = {check.name: check.text for check in found.checks}
    assert texts["split"] == "the canary answered 100 of 1000 calls, wanted 10%"
    assert texts["failed"].startswith("canary 20 of 100 calls, stable 9 of 900 (")
    assert "; 100 to 1 would condemn" in texts["failed"]
    assert found.reason == f"failed: {texts['failed']}"


@given(st.integers(1, 12), st.floats(0.01, 0.99), st.booleans())
def test_an_e_value_expects_one_if_nothing_is_wrong(
    total: int, share: float, one_sided: bool
) -> None:
    values = np.exp([log_e_value(k, total, share, one_sided=one_sided) for k in range(total + 1)])
    chances = [
        math.comb(total, k) * share**k * (1 - share) ** (total - k) for k in range(total + 1)
    ]
    assert float(np.dot(values, chances)) == pytest.approx(1)


@given(st.integers(1, 12), st.floats(0.05, 0.95), st.floats(0, 1))
def test_a_better_canary_only_makes_it_smaller(total: int, share: float, better: float) -> None:
    values = np.exp([log_e_value(k, total, share, one_sided=True) for k in range(total + 1)])
    rate = share * better
    chances = [math.comb(total, k) * rate**k * (1 - rate) ** (total - k) for k in range(total + 1)]
    assert float(np.dot(values, chances)) <= 1 + 1e-9


@given(st.integers(0, 50), st.floats(0.01, 0.99))
def test_more_bad_calls_of_the_canary_are_more_evidence(total: int, share: float) -> None:
    values = [float(log_e_value(k, total, share, one_sided=True)) for k in range(total + 1)]
    assert all(one < two for one, two in pairwise(values))


@pytest.mark.parametrize(
    ("one", "two", "distance"),
    [
        (MIX, MIX, 0.0), ((1, 0), (0, 1), 1.0), ((1, 1), (1, 0), 0.5579),
        ((0, 0), (1, 0), 0.0), ((1, 0), (0, 0), 0.0),
    ],
)  # fmt: skip
def test_the_distance_of_two_mixes(
    one: tuple[int, ...], two: tuple[int, ...], distance: float
) -> None:
    assert jensen_shannon(one, two) == pytest.approx(distance, abs=1e-4)


CALLS = 600
BATCH = 1000
"""Canaries that are simulated at a time."""
Counts = NDArray[np.int64]


def worst(bad: Counts, routed: NDArray[np.bool_], share: float) -> NDArray[np.float64]:
    """The e-values (as logarithms) after every call, of ``bad`` units in calls that were routed."""
    canary, total = np.cumsum(bad * routed, axis=1), np.cumsum(bad, axis=1)
    # Most calls leave the counts as others have had them.
    pairs, which = np.unique(canary + 1j * total, return_inverse=True)
    found: NDArray[np.float64] = log_e_value(pairs.real, pairs.imag, share, one_sided=True)
    return found[which].reshape(bad.shape)


def simulate(unit: str, canaries: int) -> float:
    """The share of null canaries that are condemned, at 10 % and then 50 %, looking at every call.

    Calls hold 1 to 64 images; an image is bad by 0.2 to 5 %, differently in each call, as callers
    with bad images come in bursts.
    """
    random = np.random.default_rng(1)
    condemned = 0
    for _ in range(canaries // BATCH):
        condemning = np.zeros(BATCH, bool)
        before = np.zeros((len(GUARDRAILS), BATCH))
        before_split = np.zeros(BATCH)
        for share in (0.1, 0.5):
            shape = (BATCH, CALLS // 2)
            routed = random.random(shape) < share
            so_far = np.arange(1, shape[1] + 1)
            split = log_e_value(np.cumsum(routed, axis=1), so_far, share, one_sided=False)
            split += before_split[:, None]
            condemning |= split.max(axis=1) >= math.log(TESTS / ALPHA)
            before_split = split[:, -1]
            for i in range(len(GUARDRAILS)):
                images = random.integers(1, 65, shape)
                bad = random.binomial(images, random.uniform(0.002, 0.05, shape))
                counts = bad if unit == "image" else (bad > 0).astype(np.int64)
                evidence = worst(counts, routed, share) + before[i][:, None]
                condemning |= evidence.max(axis=1) >= math.log(TESTS / ALPHA)
                before[i] = evidence[:, -1]
        condemned += int(condemning.sum())
    return condemned / canaries


def test_of_10_000_null_canaries_fewer_than_alpha_are_ever_condemned() -> None:
    assert simulate("call", 10_000) <= ALPHA


def test_images_counted_one_by_one_would_condemn_far_more() -> None:
    assert simulate("image", 1000) > 3 * ALPHA


@pytest.mark.parametrize(
    ("stable", "canary", "calls"), [(0.01, 0.2, 100), (0.01, 0.1, 300), (0.05, 0.2, 400)]
)
def test_a_worse_canary_is_condemned_nearly_always(
    stable: float, canary: float, calls: int
) -> None:
    """The power at 10 %: nine of ten are condemned within so many calls of the canary."""
    random = np.random.default_rng(2)
    shape = (1000, 10 * calls)
    routed = random.random(shape) < 0.1
    bad = (random.random(shape) < np.where(routed, canary, stable)).astype(np.int64)
    power = (worst(bad, routed, 0.1).max(axis=1) >= math.log(TESTS / ALPHA)).mean()
    assert power > 0.9
