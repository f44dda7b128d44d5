"""The simulated canaries: they meet the rule that decides on real ones, and at the right call."""

import inspect

import numpy as np
import pytest
from scipy.stats import ks_2samp

from benchmarks.power import (
    ALPHA,
    EFFECTS,
    LOSSES,
    MINIMUM,
    SHARES,
    Effect,
    answered,
    draw,
    false_alarms,
    merged,
    percent,
    quantile,
    simulate,
    z_test,
)
from rollout.decision import GUARDRAILS, Arm, Step, Verdict, judge


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(0)


def arm(calls: int, failed: int) -> Arm:
    return Arm(calls, {name: failed if name == "failed" else 0 for name in GUARDRAILS})


def judged(share: float, effect: Effect, random: np.random.Generator) -> tuple[int, int]:
    """The calls, and the canary's, after which ``judge`` condemns, asked after each of them."""
    calls, bad = [0, 0], [0, 0]
    while True:
        its = int(random.random() < share)
        calls[its] += 1
        bad[its] += random.random() < effect[its]
        stable, canary = (arm(*each) for each in zip(calls, bad, strict=True))
        found = judge([Step(share, stable, canary)]).checks
        if any(check.verdict is Verdict.BAD for check in found):
            return sum(calls), calls[1]


def test_the_rule_is_simulated_with_its_defaults() -> None:
    parameters = inspect.signature(judge).parameters
    assert (parameters["alpha"].default, parameters["minimum"].default) == (ALPHA, MINIMUM)


@pytest.mark.parametrize(("share", "effect"), [(0.5, Effect(0.1, 0.6)), (0.25, Effect(0.01, 0.7))])
def test_canaries_are_condemned_when_judge_condemns_them(
    share: float, effect: Effect, random: np.random.Generator
) -> None:
    found = simulate(share, effect, random)
    expected = np.array([judged(share, effect, random) for _ in range(150)])
    assert ks_2samp(found.calls, expected[:, 0]).pvalue > 0.05
    assert ks_2samp(found.own, expected[:, 1]).pvalue > 0.05


@pytest.mark.parametrize("share", SHARES)
def test_a_canary_that_always_fails_is_condemned_at_the_first_call_that_judge_condemns(
    share: float, random: np.random.Generator
) -> None:
    found = simulate(share, Effect(0.0, 1.0), random, canaries=100)
    calls = set(found.own)
    assert len(calls) == 1
    last = int(calls.pop())
    verdicts = [
        judge([Step(share, arm(round(n * (1 - share) / share), 0), arm(n, n))]).verdict
        for n in (last - 1, last)
    ]
    assert verdicts == [Verdict.HOLD, Verdict.BAD]
    assert found.calls.mean() == pytest.approx(last / share, rel=0.1)


@pytest.mark.parametrize("share", SHARES)
def test_canaries_that_are_as_good_are_condemned_less_often_than_alpha(
    share: float, random: np.random.Generator
) -> None:
    alarms = false_alarms(share, random, canaries=2000, horizon=10_000)
    assert 0 < alarms <= ALPHA


def test_a_z_test_that_is_looked_at_often_condemns_far_more(random: np.random.Generator) -> None:
    once, often = z_test(0.1, 0.05, random)
    assert once == pytest.approx(ALPHA, abs=0.02)
    assert often > 3 * ALPHA


def test_what_is_not_condemned_within_the_horizon_never_is(random: np.random.Generator) -> None:
    found = simulate(0.1, Effect(0.01, 0.05), random, horizon=1000)
    seen = np.isfinite(found.calls)
    assert 0.2 < seen.mean() < 0.5
    assert found.calls[seen].max() <= 1000
    assert np.isinf(found.own[~seen]).all()
    assert (found.own[seen] <= found.calls[seen]).all()


@pytest.mark.parametrize("loss", LOSSES)
def test_a_canary_that_loses_calls_is_seen_by_the_split(
    loss: float, random: np.random.Generator
) -> None:
    found = simulate(0.5, answered(loss), random, one_sided=False, canaries=200)
    middle = int(np.median(found.calls))
    sent = middle // 2
    lost = round(loss * sent)

    def split(times: float) -> Verdict:
        """After so many times the calls that half of the canaries need."""
        stable, its = round(times * (middle - sent)), round(times * (sent - lost))
        step = Step(0.5, arm(stable, 0), arm(its, 0), lost=round(times * lost))
        return judge([step]).checks[0].verdict

    assert split(0.5) is Verdict.HEALTHY
    assert split(1.5) is Verdict.BAD


def test_a_call_is_bad_if_one_of_its_images_is() -> None:
    assert merged(Effect(0.5, 0.1), 1) == pytest.approx((0.5, 0.1))
    assert merged(Effect(0.5, 0.1), 2) == pytest.approx((0.75, 0.19))


@pytest.mark.parametrize(
    ("share", "shown"),
    [(0.0, "0"), (0.002, "<1"), (0.12, "12"), (0.998, ">99"), (1.0, "100")],
)
def test_percent_does_not_round_to_certainty(share: float, shown: str) -> None:
    assert percent(share) == shown


@pytest.mark.parametrize(("level", "shown"), [(0.25, "12"), (0.5, "3,500"), (0.9, "–")])
def test_a_quantile_beyond_the_horizon_is_a_dash(level: float, shown: str) -> None:
    assert quantile(np.array([12.0, 3456.0, np.inf, np.inf]), level) == shown


def test_the_plot_shows_every_effect_at_every_share(random: np.random.Generator) -> None:
    effects = (EFFECTS[0], EFFECTS[1], EFFECTS[-1])
    figure = draw(
        {(e, share): simulate(share, e, random, canaries=20) for e in effects for share in SHARES}
    )
    panels = figure.get_axes()
    assert len(panels) == 2 * len(SHARES)
    drawn = [len(panel.get_legend_handles_labels()[1]) for panel in panels]
    assert drawn == [2] * len(SHARES) + [1] * len(SHARES)
