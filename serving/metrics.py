"""The metrics of both programs, for Prometheus, on a port of their own.

A request to the predictor is a *call* of the transformer, which may hold the images of several
clients. The traffic split routes calls, and ``rollout`` judges a canary by them.
"""

import sys
from functools import cache
from typing import Any

from prometheus_client import Gauge, start_http_server

from serving.listener import unavailable
from serving.noted import Counter, Histogram

TIMEOUT = 10
"""Seconds that a connection to the metrics may be silent, since each takes a thread."""
CLIENT_GONE = 499
"""nginx's status for a client that hung up before it was answered."""

REQUEST_SECONDS = Histogram(
    "mnist_request_seconds",
    "Time from the last byte of a request to its answer.",
    ("protocol", "outcome", "model_version"),
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
"""``protocol`` is v1, v2, grpc or form; ``outcome`` ok, invalid (the client's fault), overloaded
(429), failed (our fault), or cancelled (the client had gone); ``model_version`` is empty if no
version has answered."""
UNSURE = Counter(
    "mnist_unsure_requests_total",
    "Answers with an image that is not taken for one sure digit.",
    ("model_version",),
)
FIRST_DIGITS = Counter(
    "mnist_first_digits_total",
    "Digits of the first image of each answer.",
    ("digit", "model_version"),
)
STAGE_SECONDS = Histogram(
    "mnist_stage_seconds",
    "Time of a stage: decode an image, wait for a batch, compute or call for a batch.",
    ("stage",),
    buckets=(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1, 10),
)
BATCH_IMAGES = Histogram(
    "mnist_batch_images",
    "Images that share a forward pass, or a call to the predictor.",
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
)
PENDING_IMAGES = Gauge("mnist_pending_images", "Images waiting for a batch or in one.")


# `labels` checks its arguments and takes a lock, which takes longer than the counting.
_request_seconds = cache(REQUEST_SECONDS.labels)
_first_digits = cache(FIRST_DIGITS.labels)


def export_zeros(model_version: str) -> None:
    """Export the series that alerts use as 0 before their first event.

    Prometheus's ``rate`` does not see the first value of a series: without the 0 it would miss the
    events before the first scrape.
    """
    for protocol in ("v1", "v2", "grpc", "form"):
        for outcome in ("failed", "overloaded"):
            _request_seconds(protocol, outcome, model_version)


def observe(protocol: str, status: int, model_version: str, seconds: float) -> str:
    """Count a request that ended with this HTTP status, 0 for no answer.

    Returns:
        The outcome, see ``REQUEST_SECONDS``.
    """
    if status >= 500:
        outcome = "failed"
    elif status == 429:
        outcome = "overloaded"
    elif status in (0, CLIENT_GONE):
        outcome = "cancelled"
    else:
        outcome = "invalid" if status >= 400 else "ok"
    _request_seconds(protocol, outcome, model_version).observe(seconds)
    return outcome


def count_answer(model_version: str, *, unsure: bool, first_digit: int) -> None:
    """Count the content of an answer; ``first_digit`` is -1 if there is none."""
    _first_digits(digit_label(first_digit), model_version).inc()
    if unsure:
        UNSURE.labels(model_version).inc()


def digit_label(digit: int) -> str:
    """A digit as a label; ``none`` for -1."""
    return str(digit) if digit >= 0 else "none"


def serve(host: str, port: int) -> None:
    """Serve the metrics in threads, so that a busy event loop does not delay them."""
    try:
        server, _ = start_http_server(port, host)
    except OSError as error:
        sys.exit(unavailable(host, port, "--metrics_port", error))
    handler: Any = server.RequestHandlerClass
    handler.timeout = TIMEOUT
