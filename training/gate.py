"""The gate before publication: a candidate must be shown to be as good as the production version.

It must be shown, with 95 % confidence, that the candidate is *not worse by a margin*.
docs/decisions/gate.md explains the margins.
"""

import functools
from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import binomtest
from torch.nn import functional

from serving.scores import LABELS
from training.config import Settings, setting
from training.measure import Answers, calibration_error
from training.noninferiority import ALPHA, p_value, upper_bound

_limit = functools.partial(setting, least=0.0001, below=1)


@dataclass(frozen=True)
class Limits(Settings):
    """The limits of the gate; each is a flag of ``compare`` and ``retrain``."""

    overall: float = _limit(0.0045, "accuracy that the candidate may lose, 0 to 1")
    per_digit: float = _limit(0.025, "accuracy that it may lose on any digit, 0 to 1")
    accepted: float = _limit(0.0045, "how much smaller its share of accepted digits may be")
    calibration: float = _limit(0.01, "largest expected calibration error, 0 to 1")
    slower: float = _limit(0.25, "how much longer it may take, 0.25 is 25 percent", below=100)


@dataclass(frozen=True)
class Comparison:
    """N digits, ``labels`` int64 [N], and the answers of both versions for them."""

    labels: torch.Tensor
    production: Answers
    candidate: Answers

    @property
    def lost(self) -> torch.Tensor:
        """Bool [N]: production is right, the candidate wrong."""
        return self._right(self.production) & ~self._right(self.candidate)

    @property
    def won(self) -> torch.Tensor:
        """Bool [N]: the candidate is right, production wrong."""
        return self._right(self.candidate) & ~self._right(self.production)

    def mistakes(self, answers: Answers) -> int:
        """Return the number of wrong answers."""
        return int((~self._right(answers)).sum())

    def cross_entropy(self, answers: Answers) -> float:
        """Return the mean of −log p of the true digit; p is at least 1e-12."""
        logs = answers.probabilities.double().clamp(1e-12).log()
        return float(functional.nll_loss(logs, self.labels))

    def _right(self, answers: Answers) -> torch.Tensor:
        return answers.probabilities.argmax(1) == self.labels


@dataclass(frozen=True)
class Check:
    """One check of the candidate, with the figures that decided it."""

    name: str
    passed: bool
    evidence: str


@dataclass(frozen=True)
class Verdict:
    """All checks; the candidate passes if it passes every one."""

    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether the candidate may be published."""
        return all(check.passed for check in self.checks)

    def render(self) -> str:
        """Return the verdict as Markdown: a sentence and a table."""
        failed = [check.name for check in self.checks if not check.passed]
        sentence = f"Not good enough: {', '.join(failed)}." if failed else "Good enough."
        rows = [
            f"| {check.name} | {'passed' if check.passed else '**failed**'} | {check.evidence} |"
            for check in self.checks
        ]
        return "\n".join(
            [sentence, "", "| check | result | evidence |", "| --- | --- | --- |", *rows]
        )


def judge(
    held_out: Comparison, *, time_ratio: float, limits: Limits, new: Comparison | None = None
) -> Verdict:
    """Check the candidate against the production version.

    Args:
        held_out: digits of writers on whom neither version was trained.
        time_ratio: see ``training.speed``.
        limits: what the candidate may lose.
        new: the held-out part of the new images, if there are any to check.
    """
    checks = [
        _fall("overall", "accuracy", held_out.lost, held_out.won, limits.overall),
        _per_digit(held_out, limits.per_digit),
        _accepted(held_out, limits.accepted),
        _calibration(held_out, limits.calibration),
        Check(
            "speed",
            time_ratio <= 1 + limits.slower,
            f"{time_ratio:.2f} times production's time per image, "
            f"at most {1 + limits.slower:.2f} times",
        ),
    ]
    if new is not None:
        checks.append(_new_data(new))
    return Verdict(tuple(checks))


def _fall(name: str, share: str, lost: torch.Tensor, won: torch.Tensor, margin: float) -> Check:
    """Check that a share of the digits falls by less than ``margin``, with 95 % confidence."""
    count, fewer, more = len(lost), int(lost.sum()), int(won.sum())
    bound = upper_bound(fewer, more, count)
    return Check(
        name,
        bound < margin,
        f"{fewer} lost and {more} won of {count:,}: {share} falls by {(fewer - more) / count:.2%}, "
        f"by {bound:.2%} at most (95 % confidence); margin {margin:.2%}",
    )


def _accepted(digits: Comparison, margin: float) -> Check:
    before, now = digits.production.accepted, digits.candidate.accepted
    return _fall("accepted", "the share accepted", before & ~now, now & ~before, margin)


def _per_digit(digits: Comparison, margin: float) -> Check:
    count, lost, won = (
        torch.bincount(digits.labels[chosen], minlength=len(LABELS)).numpy()
        for chosen in (slice(None), digits.lost, digits.won)
    )
    if not count.all():
        absent = ", ".join(str(digit) for digit in np.flatnonzero(count == 0))
        return Check("per digit", False, f"cannot be judged: none held out of {absent}")
    # All must pass, so a fall on any one digit is missed at ALPHA at most: nothing to correct for.
    found = p_value(lost, won, count, margin)
    worst = int(found.argmax())
    return Check(
        "per digit",
        bool(found[worst] <= ALPHA),
        f"least certain of digit {worst}: {lost[worst]} lost and {won[worst]} won of "
        f"{count[worst]:,}, p = {found[worst]:.2g} of a fall by {margin:.2%} or more; "
        f"at most {ALPHA}",
    )


def _calibration(digits: Comparison, limit: float) -> Check:
    confidence, predicted = digits.candidate.probabilities.max(1)
    error = calibration_error(confidence, predicted == digits.labels)
    return Check(
        "calibration",
        error <= limit,
        f"expected calibration error {error:.2%}, at most {limit:.2%}",
    )


def _new_data(new: Comparison) -> Check:
    """Check for fewer mistakes than production, or as many with a lower cross-entropy."""
    lost, won = int(new.lost.sum()), int(new.won.sum())
    entropies = new.cross_entropy(new.candidate), new.cross_entropy(new.production)
    accepted = int(new.candidate.accepted.sum()), int(new.production.accepted.sum())
    # McNemar's exact test: by chance, each wins half of the pictures that only one reads right.
    chance = binomtest(won, won + lost).pvalue if won + lost else 1.0
    return Check(
        "new images",
        lost < won or (lost == won and entropies[0] < entropies[1]),
        f"mistakes: {new.mistakes(new.candidate)} of {len(new.labels):,}, production "
        f"{new.mistakes(new.production)} (McNemar's exact p = {chance:.2g}); "
        f"cross-entropy {entropies[0]:.4f}, production {entropies[1]:.4f}; "
        f"accepted: {accepted[0]:,}, production {accepted[1]:,}",
    )
