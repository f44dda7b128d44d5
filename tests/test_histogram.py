"""The histogram that counts later shows what prometheus-client's shows."""

import threading
from collections.abc import Callable
from typing import Any

import prometheus_client
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest

from serving.histogram import NOTED, Histogram

BOUNDS = (0.125, 0.5, 1.0, 64.0)
"""Binary fractions: their sums do not depend on the order."""


def made(kind: Callable[..., Any], *labels: str) -> tuple[Any, Callable[[], bytes]]:
    """A histogram, and how it is read."""
    registry = CollectorRegistry()
    histogram = kind("x_seconds", "X.", labels, buckets=BOUNDS, registry=registry)
    return histogram, lambda: generate_latest(registry)


def without_times(page: bytes) -> list[bytes]:
    return [line for line in page.splitlines() if b"_created" not in line]


values = st.lists(st.sampled_from([0.0, *BOUNDS, float("inf")]) | st.integers(-(2**40), 2**40))


@given(values, values)
def test_it_shows_what_prometheus_clients_shows(before: list[float], after: list[float]) -> None:
    ours, read = made(Histogram)
    theirs, expected = made(prometheus_client.Histogram)
    for some in (before, after):  # read in between
        for value in some:
            ours.observe(value)
            theirs.observe(value)
        assert without_times(read()) == without_times(expected())


def test_each_label_has_its_own_and_shows_before_its_first_value() -> None:
    ours, read = made(Histogram, "stage")
    ours.labels("decode").observe(0.3)
    ours.labels("call")
    page = read()
    assert b'x_seconds_count{stage="decode"} 1.0' in page
    assert b'x_seconds_count{stage="call"} 0.0' in page


def test_what_threads_observe_while_it_is_read_is_counted_once() -> None:
    ours, read = made(Histogram)

    def observe() -> None:
        for _ in range(20 * NOTED + 7):
            ours.observe(0.7)

    threads = [threading.Thread(target=observe) for _ in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        read()
    for thread in threads:
        thread.join()
    assert f"x_seconds_count {4.0 * (20 * NOTED + 7)}".encode() in read()
