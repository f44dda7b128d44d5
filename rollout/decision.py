"""Decides on the evidence whether a canary may go on; valid however often one looks.

The unit is the *call* that the split routed; a call is bad if any of its answers is bad. Images are
not the unit: all images of a merged call are one draw of the split, so counting each would inflate
the evidence.

If both versions are equally good, each bad call is the canary's with a probability equal to its
wanted share of the calls. The alternative is a mixture of worse canaries, a beta-binomial. The
ratio of the two likelihoods is an e-value: its expectation is at most 1 as long as the canary is no
worse, whenever one chooses to stop (Lindon and Malek, "Anytime-valid inference for multinomial
count data", arXiv 2011.03567; Lindon et al., "Rapid regression detection in software deployments",
arXiv 2205.14762). By Ville's inequality, the probability that it ever exceeds 1/α is at most α. The
e-values of several steps, each under its own split, are multiplied.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
from scipy.special import betaincc, betaln

from serving.scores import DIGITS

GUARDRAILS = ("failed", "slow", "unsure")
"""What makes a call bad: answered with 5xx or 429; slower than the objective; with an answer that
is not one sure digit."""
TESTS = len(GUARDRAILS) + 2
"""The tests that can condemn; the error α is divided among them. The other two are those of lost
calls and of labelled images. They count even if there are none: the bound must not depend on it."""
DISTANCE = 0.1
"""The Jensen-Shannon distance between two mixes of digits from which it matters."""


class Verdict(Enum):
    """What to do with the canary."""

    HEALTHY = "healthy"
    HOLD = "hold"
    BAD = "bad"


@dataclass(frozen=True)
class Arm:
    """What one version did in one step."""

    calls: int
    """The calls that it has answered."""
    bad: Mapping[str, int]
    """The number of bad calls by guardrail."""
    digits: tuple[int, ...] = (0,) * DIGITS
    """How often each digit was predicted for the first image of a call: the unit is the call."""


@dataclass(frozen=True)
class Step:
    """A period with one wanted split, and what was counted in it."""

    share: float
    """The fraction of the calls that the canary should get, between 0 and 1."""
    stable: Arm
    canary: Arm
    lost: int = 0
    """Calls with no answer, or only a proxy's: it is unknown which version got them."""


@dataclass(frozen=True)
class Labels:
    """Of labelled images on which the versions disagree, how many each has right."""

    stable_right: int
    canary_right: int


@dataclass(frozen=True)
class Check:
    """The result of one check, its text for people."""

    name: str
    verdict: Verdict
    text: str


@dataclass(frozen=True)
class Decision:
    """The overall verdict and the checks that it comes from."""

    verdict: Verdict
    checks: tuple[Check, ...]

    @property
    def reason(self) -> str:
        """The first check with the verdict, as text."""
        check = next(each for each in self.checks if each.verdict is self.verdict)
        return f"{check.name}: {check.text}"

    @property
    def lines(self) -> list[str]:
        """All checks, one line each."""
        return [f"{each.verdict.value:<7}  {each.name:<6}  {each.text}" for each in self.checks]


def log_e_value(canary: Any, total: Any, share: float, *, one_sided: bool) -> Any:
    """Return the natural logarithm of an e-value, a number or an array like the arguments.

    The null hypothesis: each of ``total`` calls is the canary's with the probability ``share``. The
    alternative is a uniform mixture of all probabilities, or with ``one_sided`` of those above
    ``share``. One-sided, the e-value is also valid for the null hypothesis "at most ``share``",
    since a smaller probability only makes each likelihood ratio smaller.

    Args:
        canary: how many of the calls are the canary's; a number or an array.
        total: how many calls there are; likewise.
        share: the probability under the null hypothesis.
        one_sided: whether the alternative is "more than ``share``", and not "other than".
    """
    canary = np.asarray(canary, float)
    others = np.asarray(total, float) - canary
    mixed = betaln(canary + 1, others + 1)
    if one_sided:
        with np.errstate(divide="ignore"):
            mixed = mixed + np.log(betaincc(canary + 1, others + 1, share)) - math.log1p(-share)
    found = mixed - canary * math.log(share) - others * math.log1p(-share)
    # The tail may underflow. A lower bound has a closed form: the likelihood with the share itself,
    # the smallest probability in the tail, for the canary's calls.
    return np.maximum(found, -np.log1p(others)) if one_sided else found


def judge(
    steps: Sequence[Step], *, alpha: float = 0.05, minimum: int = 100, labels: Labels | None = None
) -> Decision:
    """Decide on all steps so far.

    If the split is not as wanted, nothing that was counted can be trusted: that check alone then
    decides.

    Args:
        steps: at least one, the present one last.
        alpha: the highest probability of ever condemning a canary that is no worse.
        minimum: calls that the canary must have answered in the present step to go on.
        labels: labelled images on which the versions disagree, if there are any.
    """
    limit = math.log(TESTS / alpha)
    split = _split(steps, limit)
    if split.verdict is not Verdict.HEALTHY:
        return Decision(split.verdict, (split,))
    checks = [split, *(_guardrail(steps, name, limit) for name in GUARDRAILS)]
    checks.append(_digits(steps[-1], limit))
    if labels:
        checks.append(_labelled(labels, limit))
    checks.append(_enough(steps[-1], minimum))
    verdicts = {check.verdict for check in checks}
    worst = next(each for each in (Verdict.BAD, Verdict.HOLD, Verdict.HEALTHY) if each in verdicts)
    return Decision(worst, tuple(checks))


def _split(steps: Sequence[Step], limit: float) -> Check:
    """Check the split: HOLD if it is wrong, BAD if lost calls of the canary explain it."""

    def evidence(lost: int) -> float:
        """Return the log e-value with ``lost`` times the lost calls counted as the canary's."""
        return sum(
            float(
                log_e_value(
                    step.canary.calls + lost * step.lost,
                    step.stable.calls + step.canary.calls + lost * step.lost,
                    step.share,
                    one_sided=False,
                )
            )
            for step in steps
        )

    now = steps[-1]
    total = now.stable.calls + now.canary.calls
    text = f"the canary answered {now.canary.calls} of {total} calls, wanted {now.share:.0%}"
    if evidence(0) < limit:
        return Check("split", Verdict.HEALTHY, text)
    expected = sum(step.share * (step.stable.calls + step.canary.calls) for step in steps)
    if sum(step.canary.calls for step in steps) < expected and evidence(1) < limit:
        lost = sum(step.lost for step in steps)
        return Check("split", Verdict.BAD, f"{text}; the {lost} calls that were lost were its own")
    return Check("split", Verdict.HOLD, f"{text}: the split is not what it should be")


def _guardrail(steps: Sequence[Step], name: str, limit: float) -> Check:
    """Check whether the canary has more than its share of the bad calls."""
    evidence = 0.0
    for step in steps:
        bad = step.canary.bad[name]
        total = bad + step.stable.bad[name]
        evidence += float(log_e_value(bad, total, step.share, one_sided=True))

    def counted(arms: Sequence[Arm]) -> str:
        return f"{sum(arm.bad[name] for arm in arms)} of {sum(arm.calls for arm in arms)}"

    canary = counted([step.canary for step in steps])
    stable = counted([step.stable for step in steps])
    text = f"canary {canary} calls, stable {stable}"
    odds = f"{_odds(evidence)} that it is worse; {_odds(limit)} would condemn"
    verdict = Verdict.BAD if evidence >= limit else Verdict.HEALTHY
    return Check(name, verdict, f"{text} ({odds})")


def _digits(step: Step, limit: float) -> Check:
    """Check whether the mixes of digits differ, significantly and enough to matter."""
    pairs = list(zip(step.canary.digits, step.stable.digits, strict=True))
    # The mean of e-values is an e-value.
    each = [float(log_e_value(one, one + two, step.share, one_sided=False)) for one, two in pairs]
    evidence = float(np.logaddexp.reduce(each)) - math.log(len(each))
    distance = jensen_shannon(step.canary.digits, step.stable.digits)
    shifted = evidence >= limit and distance >= DISTANCE
    text = f"Jensen-Shannon distance {distance:.2f} between the predicted digits"
    if shifted:
        text += f": more than {DISTANCE}, and no accident ({_odds(evidence)}); look at them"
    return Check("digits", Verdict.HOLD if shifted else Verdict.HEALTHY, text)


def _labelled(labels: Labels, limit: float) -> Check:
    """McNemar's test in sequential form: a sign test on the disagreements."""
    total = labels.stable_right + labels.canary_right
    evidence = float(log_e_value(labels.stable_right, total, 0.5, one_sided=True))
    verdict = Verdict.BAD if evidence >= limit else Verdict.HEALTHY
    text = f"of {total} labelled disagreements the stable version is right in {labels.stable_right}"
    return Check("labels", verdict, f"{text} ({_odds(evidence)} that it is better)")


def _enough(step: Step, minimum: int) -> Check:
    """Check that the canary has answered enough calls: no traffic is no evidence."""
    calls = step.canary.calls
    if calls == 0:
        return Check("sample", Verdict.HOLD, "the canary has had no traffic: no evidence")
    if calls < minimum:
        return Check("sample", Verdict.HOLD, f"{calls} of the {minimum} calls that are needed")
    return Check("sample", Verdict.HEALTHY, f"{calls} calls, {minimum} are needed")


def jensen_shannon(one: Sequence[int], two: Sequence[int]) -> float:
    """Return the Jensen-Shannon distance of two mixes, from 0 (equal) to 1; 0 if one is empty.

    It is the square root of the divergence to base 2: Endres and Schindelin, IEEE Transactions on
    Information Theory 49 (2003), 1858-1860.
    """
    if not sum(one) or not sum(two):
        return 0.0
    first, second = (np.asarray(each, float) / sum(each) for each in (one, two))
    middle = (first + second) / 2

    def divergence(mix: Any) -> float:
        there = mix > 0
        return float((mix[there] * np.log2(mix[there] / middle[there])).sum())

    return math.sqrt(max(0.0, (divergence(first) + divergence(second)) / 2))


def _odds(evidence: float) -> str:
    """Return the logarithm of an e-value in words, as odds."""
    if evidence < 0.5:
        return "no evidence"
    if evidence > math.log(1e6):
        return "over a million to 1"
    return f"{math.exp(evidence):,.0f} to 1"
