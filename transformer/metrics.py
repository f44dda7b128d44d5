"""The transformer's metrics besides ``serving.metrics``: images, pictures, digits, calls."""

from functools import cache

from serving import metrics
from serving.noted import Counter, Histogram
from serving.scores import VERSION, Images
from transformer.answer import Answer
from transformer.traits import (
    AREA_BOUNDS,
    CONFIDENCE_BOUNDS,
    INK_BOUNDS,
    area_ratio,
    ink_ratio,
)

IMAGES = Counter("mnist_images_total", "Images decoded.", ("format",))
IMAGE_BYTES = Histogram(
    "mnist_image_bytes",
    "Size of an image file.",
    buckets=[4**power for power in range(4, 13)],
)
INK = Histogram(
    "mnist_picture_ink_ratio",
    "Mean brightness of a scored picture, 1 for all ink; blank ones left out.",
    buckets=INK_BOUNDS,
)
AREA = Histogram(
    "mnist_picture_area_ratio",
    "Share of a scored picture's pixels that have any ink; blank ones left out.",
    buckets=AREA_BOUNDS,
)
PREDICTIONS = Counter(
    "mnist_predictions_total",
    "Images answered, by digit (none where there is no digit) and status.",
    ("digit", "status", "model_version"),
)
CONFIDENCE = Histogram(
    "mnist_confidence",
    "Calibrated probability of the digit that was named.",
    ("model_version",),
    buckets=CONFIDENCE_BOUNDS,
)
PREDICTOR_CALLS = Counter(
    "mnist_predictor_calls_total",
    "Attempts to call the predictor: ok; failed, answered with an error by the version named; "
    "lost, not answered by any version.",
    ("model_version", "outcome"),
)


# `labels` takes a lock and checks its arguments, which costs more than the counting.
_images = cache(IMAGES.labels)
_predictions = cache(PREDICTIONS.labels)
_confidence = cache(CONFIDENCE.labels)


def count_image(file_bytes: int, file_format: str) -> None:
    """Count an image that was decoded."""
    _images(file_format).inc()
    IMAGE_BYTES.observe(file_bytes)


def count_pictures(pictures: Images) -> None:
    """Count what the pictures of a call that was answered are like.

    One after another, they take less time than each while its request is decoded.
    """
    for picture in pictures:
        if area := area_ratio(picture):
            AREA.observe(area)
            INK.observe(ink_ratio(picture))


def count_answer(answer: Answer, model_version: str) -> None:
    """Count what an answer says."""
    digits, confidences, _, statuses = answer
    metrics.count_answer(
        model_version,
        unsure=statuses.count("ok") < len(statuses),
        first_digit=digits[0],
    )
    confidence = _confidence(model_version)
    for digit, status, value in zip(digits, statuses, confidences, strict=True):
        _predictions(metrics.digit_label(digit), status, model_version).inc()
        if digit >= 0:
            confidence.observe(float(value))


def count_call(model_version: str | None, *, ok: bool) -> None:
    """Count an attempt to call the predictor; an invalid version counts as none, like ``None``."""
    version = model_version if model_version and VERSION.fullmatch(model_version) else ""
    outcome = "ok" if ok else "failed" if version else "lost"
    PREDICTOR_CALLS.labels(version, outcome).inc()
