"""Whether a share has fallen by less than a margin, from N digits that two versions have read.

A test of non-inferiority: merely to see no difference would prove nothing, least of all with few
digits.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.stats import norm

ALPHA = 0.05
"""The chance that a candidate passes which is worse by exactly the margin."""

Floats = NDArray[np.float64]


def p_value(lost: ArrayLike, won: ArrayLike, count: ArrayLike, margin: float) -> Floats:
    """Return p-values of the null hypothesis that the accuracy falls by ``margin`` or more.

    It is that of the one-sided score test for paired proportions (Tango 1998, Stat. Med. 17:891,
    eq. 7). Unlike Wald's test, it holds its level when hardly any answers differ.

    Args:
        lost: the number of digits that only production reads right; any shape.
        won: the number of digits that only the candidate reads right; the same shape.
        count: the number of all digits, at least 1; the same shape.
        margin: the fall of the accuracy, between 0 and 1.
    """
    return np.asarray(norm.cdf(_score(lost, won, count, margin)), np.float64)


def upper_bound(lost: int, won: int, count: int) -> float:
    """Return the largest fall of accuracy that the score test does not exclude at ``ALPHA``.

    That is the upper end of Tango's one-sided score interval; arguments as in ``p_value``.
    """
    if lost == count:
        return 1.0
    critical = float(norm.ppf(ALPHA))
    seen = (lost - won) / count
    return float(
        brentq(lambda fall: float(_score(lost, won, count, fall)) - critical, seen + 1e-6, 1 - 1e-9)
    )


def _score(lost: ArrayLike, won: ArrayLike, count: ArrayLike, fall: float) -> Floats:
    """Return Tango's statistic, about standard normal if accuracy falls by ``fall``."""
    b, c, n = (np.asarray(number, np.float64) for number in (lost, won, count))
    # The maximum-likelihood share of digits that only the candidate reads right, given the fall.
    half = (2 * n - b + c) * fall - b - c
    root = np.sqrt(half**2 + 8 * n * c * fall * (1 - fall))
    share = (root - half) / (4 * n)
    variance = n * (2 * share + fall * (1 - fall))
    return np.asarray((b - c - n * fall) / np.sqrt(variance), np.float64)
