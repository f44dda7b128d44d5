"""Metrics that describe the version served."""

from itertools import accumulate

from prometheus_client import Gauge

from predictor.metadata import Metadata, Reference

INFO = Gauge("mnist_model_info", "1, for the version served.", ("model_version", "torch"))
METRIC = Gauge(
    "mnist_model_metric",
    "Result of evaluating the version before it was published.",
    ("model_version", "dataset", "metric"),
)
REFERENCE_BUCKET = Gauge(
    "mnist_reference_bucket_ratio",
    "Share of the version's validation set in a bucket of confidence, ink or area, or below it.",
    ("model_version", "feature", "le"),
)
REFERENCE_DIGIT = Gauge(
    "mnist_reference_digit_ratio",
    "Share of the version's validation set that was read as this digit.",
    ("model_version", "digit"),
)


def describe(metadata: Metadata) -> None:
    """Export what ``model.json`` says of the version: single numbers, and the reference."""
    version = str(metadata.version)
    INFO.labels(version, metadata.training.libraries.get("torch", "")).set(1)
    for each in metadata.metrics:
        for name, value in each.values.items():
            if isinstance(value, int | float):
                METRIC.labels(version, each.dataset, name).set(value)
    if metadata.reference:
        _describe_reference(version, metadata.reference)


def _describe_reference(version: str, reference: Reference) -> None:
    """Export shares in the buckets, and under the labels, by which live images are counted."""
    for digit, count in reference.digits.items():
        REFERENCE_DIGIT.labels(version, digit).set(count / reference.images)
    for feature, histogram in reference.histograms.items():
        *below, images = accumulate(histogram.counts)
        for bound, count in zip(histogram.bounds, below, strict=True):
            REFERENCE_BUCKET.labels(version, feature, str(bound)).set(count / images)
