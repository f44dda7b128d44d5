"""Metrics that count later show what prometheus-client's show."""

import threading
from collections.abc import Callable
from typing import Any

import prometheus_client
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest

from serving.noted import NOTED, Counter, Histogram

BOUNDS = (0.125, 0.5, 1.0, 64.0)
"""Binary fractions: their sums do not depend on the order."""


def made(
    kind: Callable[..., Any], *labels: str, **settings: Any
) -> tuple[Any, Callable[[], bytes]]:
    """A metric, and how it is read."""
    registry = CollectorRegistry()
    metric = kind("x", "X.", labels, registry=registry, **settings)
    return metric, lambda: generate_latest(registry)


def without_times(page: bytes) -> list[bytes]:
    return [line for line in page.splitlines() if b"_created" not in line]


values = st.lists(st.sampled_from([0.0, *BOUNDS, float("inf")]) | st.integers(-(2**40), 2**40))


@given(values, values)
def test_a_histogram_shows_what_prometheus_clients_shows(
    before: list[float], after: list[float]
) -> None:
    ours, read = made(Histogram, buckets=BOUNDS)
    theirs, expected = made(prometheus_client.Histogram, buckets=BOUNDS)
    for some in (before, after):  # read in between
        for value in some:
            ours.observe(value)
            theirs.observe(value)
        assert without_times(read()) == without_times(expected())


@given(*[st.lists(st.integers(0, 2**20))] * 2)
def test_a_counter_shows_what_prometheus_clients_shows(before: list[int], after: list[int]) -> None:
    ours, read = made(Counter)
    theirs, expected = made(prometheus_client.Counter)
    for some in (before, after):
        for amount in some:
            ours.inc(amount)
            theirs.inc(amount)
        assert without_times(read()) == without_times(expected())


def test_each_label_has_its_own_and_shows_before_its_first_value() -> None:
    ours, read = made(Histogram, "stage")
    ours.labels("decode").observe(0.3)
    ours.labels("call")
    page = read()
    assert b'x_count{stage="decode"} 1.0' in page
    assert b'x_count{stage="call"} 0.0' in page


def test_what_nobody_reads_does_not_fill_the_memory() -> None:
    ours, read = made(Counter)
    for _ in range(3 * NOTED + 7):
        ours.inc()
        assert len(ours._noted) < NOTED
    assert f"x_total {3.0 * NOTED + 7}".encode() in read()


@pytest.mark.parametrize(
    ("kind", "note", "shown"),
    [
        (Counter, lambda counter: counter.inc(), "x_total"),
        (Histogram, lambda histogram: histogram.observe(0.7), "x_count"),
    ],
)
def test_what_threads_note_and_read_while_it_is_counted_is_counted_once(
    kind: Callable[..., Any], note: Callable[[Any], None], shown: str
) -> None:
    ours, read = made(kind)
    threads = list[threading.Thread]()

    class Noted(list[float]):
        def __getitem__(self, index: Any) -> Any:
            """What is counted; meanwhile another thread notes something and reads."""
            found = super().__getitem__(index)
            if not threads:
                note(ours)
                threads.append(threading.Thread(target=read))
                threads[0].start()
                threads[0].join(0.1)
            return found

    ours._noted = Noted()
    for _ in range(3):
        note(ours)
    read()
    threads[0].join()
    assert f"{shown} 4.0".encode() in read()
