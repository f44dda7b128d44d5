"""The gate before publication: a candidate must be shown to be as good as the production version.

It is a test of non-inferiority: what has to be shown, with 95 % confidence, is that the candidate
is *not worse by a margin*. That no difference is seen proves nothing, least of all with few
digits. The margins and what the gate does with them: docs/decisions/gate.md.
"""

import dataclasses
import statistics
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.stats import binomtest, norm
from torch.nn import functional

from predictor.artifact import Graph
from training.config import ConfigError
from training.measure import Answers, calibration_error
from training.network import LABELS

ALPHA = 0.05
"""The chance that a candidate which is worse by just the margin passes."""
ROUNDS = 40
"""Pairs of runs that a ratio of times is the median of, for each size of batch."""
BATCH = 64
"""The most images that the predictor runs at once."""

Floats = NDArray[np.float64]


def _limit(default: float, meaning: str, *, below: float = 1) -> Any:
    return field(default=default, metadata={"help": meaning, "below": below})


@dataclass(frozen=True)
class Limits:
    """What a candidate may lose; each is a flag of ``compare`` and ``retrain``.

    Raises:
        ConfigError: a limit is out of its range.
    """

    overall: float = _limit(0.0045, "accuracy that the candidate may lose, as a share")
    per_digit: float = _limit(0.025, "accuracy that it may lose on each of the ten digits")
    accepted: float = _limit(0.0045, "share of the digits that it may accept less")
    calibration: float = _limit(0.01, "its largest expected calibration error")
    slower: float = _limit(0.25, "share of time per image that it may take more", below=100)

    def __post_init__(self) -> None:
        for limit in dataclasses.fields(self):
            value, below = getattr(self, limit.name), limit.metadata["below"]
            if not 0 < value < below:
                raise ConfigError(
                    f"{limit.name} must be above 0 and below {below}, found {value:g}"
                )


@dataclass(frozen=True)
class Comparison:
    """The same N digits, ``labels`` int64 [N], as both versions read them.

    Raises:
        ValueError: there are no digits, or not as many answers.
    """

    labels: torch.Tensor
    production: Answers
    candidate: Answers

    def __post_init__(self) -> None:
        shape = (len(self.labels), len(LABELS))
        found = [answers.probabilities.shape for answers in (self.production, self.candidate)]
        if not len(self.labels) or set(found) != {shape}:
            raise ValueError(
                f"expected probabilities {list(shape)} for at least one digit, "
                f"found {list(found[0])} and {list(found[1])}"
            )

    @property
    def lost(self) -> torch.Tensor:
        """Bool [N]: production reads it right, the candidate wrong."""
        return self._right(self.production) & ~self._right(self.candidate)

    @property
    def won(self) -> torch.Tensor:
        """Bool [N]: the candidate reads it right, production wrong."""
        return self._right(self.candidate) & ~self._right(self.production)

    def mistakes(self, answers: Answers) -> int:
        """Digits that are read wrong."""
        return int((~self._right(answers)).sum())

    def cross_entropy(self, answers: Answers) -> float:
        """Mean of −log p of the digit that was written; p is at least 1e-12."""
        logs = answers.probabilities.double().clamp(1e-12).log()
        return float(functional.nll_loss(logs, self.labels))

    def _right(self, answers: Answers) -> torch.Tensor:
        return answers.probabilities.argmax(1) == self.labels


@dataclass(frozen=True)
class Check:
    """One thing that the candidate must fulfil, and the figures it was decided by."""

    name: str
    passed: bool
    evidence: str


@dataclass(frozen=True)
class Verdict:
    """All checks; the candidate passes if it passes each."""

    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether the candidate may be published."""
        return all(check.passed for check in self.checks)

    def render(self) -> str:
        """The verdict as Markdown: a sentence and a table."""
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
    """Every check of the candidate against the production version.

    Args:
        held_out: digits of writers on whom neither version was trained.
        time_ratio: see :func:`time_ratio`.
        limits: what the candidate may lose.
        new: the held-out part of the new images; without it there is no check of them.
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
    """Whether a share of the digits is shown to fall by less than the margin."""
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
    adjusted = holm(p_value(lost, won, count, margin))
    worst = int(adjusted.argmax())
    return Check(
        "per digit",
        bool(adjusted[worst] <= ALPHA),
        f"least certain of digit {worst}: {lost[worst]} lost and {won[worst]} won of "
        f"{count[worst]:,}, p = {adjusted[worst]:.2g} (Holm) of a fall by {margin:.2%} or more; "
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
    """Fewer mistakes than production, or as many with a lower cross-entropy."""
    lost, won = int(new.lost.sum()), int(new.won.sum())
    entropies = new.cross_entropy(new.candidate), new.cross_entropy(new.production)
    accepted = int(new.candidate.accepted.sum()), int(new.production.accepted.sum())
    # Exact McNemar: of the pictures that one alone reads right, half are each one's by chance.
    chance = binomtest(won, won + lost).pvalue if won + lost else 1.0
    return Check(
        "new images",
        lost < won or (lost == won and entropies[0] < entropies[1]),
        f"mistakes: {new.mistakes(new.candidate)} of {len(new.labels):,}, production "
        f"{new.mistakes(new.production)} (McNemar's exact p = {chance:.2g}); "
        f"cross-entropy {entropies[0]:.4f}, production {entropies[1]:.4f}; "
        f"accepted: {accepted[0]:,}, production {accepted[1]:,}",
    )


def p_value(lost: ArrayLike, won: ArrayLike, count: ArrayLike, margin: float) -> Floats:
    """How likely as few losses are if the accuracy falls by ``margin``; small: it falls by less.

    The score test for a difference of paired proportions (Tango 1998, Stat. Med. 17:891, eq. 7),
    one-sided. It holds its level when hardly any answers differ, where Wald's does not.

    Args:
        lost: digits that production alone reads right; any shape.
        won: digits that the candidate alone reads right; the same shape.
        count: all digits, at least 1; the same shape.
        margin: fall of the accuracy, between 0 and 1.
    """
    return np.asarray(norm.cdf(_score(lost, won, count, margin)), np.float64)


def upper_bound(lost: int, won: int, count: int) -> float:
    """The largest fall of accuracy that the score test does not exclude at ``ALPHA``.

    The upper end of Tango's score interval, one-sided; the same arguments as ``p_value``.
    """
    if lost == count:
        return 1.0
    critical = float(norm.ppf(ALPHA))
    seen = (lost - won) / count
    return float(
        brentq(lambda fall: float(_score(lost, won, count, fall)) - critical, seen + 1e-6, 1 - 1e-9)
    )


def _score(lost: ArrayLike, won: ArrayLike, count: ArrayLike, fall: float) -> Floats:
    """Tango's statistic: about standard normal if the accuracy falls by ``fall``."""
    b, c, n = (np.asarray(number, np.float64) for number in (lost, won, count))
    # The likeliest share of digits that the candidate alone reads right, given the fall.
    half = (2 * n - b + c) * fall - b - c
    root = np.sqrt(half**2 + 8 * n * c * fall * (1 - fall))
    share = (root - half) / (4 * n)
    variance = n * (2 * share + fall * (1 - fall))
    return np.asarray((b - c - n * fall) / np.sqrt(variance), np.float64)


def holm(p_values: Floats) -> Floats:
    """Holm's adjusted p-values (1979, Scand. J. Stat. 6:65) of the tests along the last axis."""
    order = p_values.argsort(-1)
    factors = np.arange(p_values.shape[-1], 0, -1)
    rising = np.maximum.accumulate(np.take_along_axis(p_values, order, -1) * factors, -1)
    adjusted = np.empty_like(p_values)
    np.put_along_axis(adjusted, order, np.minimum(rising, 1), -1)
    return adjusted


def time_ratio(production: Graph, candidate: Graph, images: torch.Tensor) -> float:
    """The candidate's time per image over production's.

    Both are run in turn, so that what else the machine does hits both. Measured for a single image
    and for a batch: the larger of the two medians.

    Args:
        production: the graph in use.
        candidate: the graph that may replace it.
        images: uint8 [N, 28, 28], of which at most 64 are used.
    """
    return max(_median_ratio(production, candidate, images[:size]) for size in (1, BATCH))


def _median_ratio(production: Graph, candidate: Graph, images: torch.Tensor) -> float:
    _seconds(production, images), _seconds(candidate, images)  # the first runs are slower
    ratios = []
    for turn in range(ROUNDS):
        if turn % 2:
            new, old = _seconds(candidate, images), _seconds(production, images)
        else:
            old, new = _seconds(production, images), _seconds(candidate, images)
        ratios.append(new / old)
    return statistics.median(ratios)


def _seconds(graph: Graph, images: torch.Tensor) -> float:
    start = time.perf_counter()
    graph(images)
    return time.perf_counter() - start
