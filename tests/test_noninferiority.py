"""The statistics of the gate, against their definitions and closed forms."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.stats import norm

from training.noninferiority import ALPHA, p_value, upper_bound


@given(st.data(), st.integers(1, 60), st.floats(0.02, 0.9))
def test_the_score_is_that_of_the_likeliest_shares(
    data: st.DataObject, count: int, margin: float
) -> None:
    lost = data.draw(st.integers(0, count))
    won = data.draw(st.integers(0, count - lost))

    def unlikelihood(share: float) -> float:
        terms = [(lost, share + margin), (won, share), (count - lost - won, 1 - 2 * share - margin)]
        logs = [number * math.log(max(share, 1e-300)) for number, share in terms]
        return -sum(logs)

    found = minimize_scalar(unlikelihood, bounds=(0, (1 - margin) / 2), options={"xatol": 1e-10})
    share = found.x if found.fun < unlikelihood(0.0) else 0.0
    error = np.sqrt((2 * share + margin - margin**2) / count)
    expected = norm.cdf(((lost - won) / count - margin) / error)
    assert p_value(lost, won, count, margin) == pytest.approx(expected, abs=1e-5)


@given(st.data(), st.integers(1, 10_000))
def test_the_bound_is_where_the_test_turns(data: st.DataObject, count: int) -> None:
    lost = data.draw(st.integers(0, count))
    won = data.draw(st.integers(0, count - lost))
    bound = upper_bound(lost, won, count)
    assert (lost - won) / count < bound or lost == count
    if 1e-3 < bound < 0.99:
        below, above = (p_value(lost, won, count, bound * by) for by in (0.99, 1.01))
        assert above < ALPHA < below


@pytest.mark.parametrize("count", [1, 161, 600, 10_000, 1_000_000])
def test_bounds_of_the_extremes_are_known_in_closed_form(count: int) -> None:
    share = norm.ppf(ALPHA) ** 2 / (count + norm.ppf(ALPHA) ** 2)
    assert upper_bound(0, 0, count) == pytest.approx(share)
    assert upper_bound(0, count, count) == pytest.approx(2 * share - 1)
    assert upper_bound(count, 0, count) == 1
