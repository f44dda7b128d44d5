"""What the predictor says of the version that it serves."""

from prometheus_client import Gauge

from predictor.artifact import Metadata

INFO = Gauge("mnist_model_info", "1, for the version served.", ("model_version", "torch"))
METRIC = Gauge(
    "mnist_model_metric",
    "What was measured of the version before it was published.",
    ("model_version", "dataset", "metric"),
)


def describe(metadata: Metadata) -> None:
    """Export what the version's ``model.json`` says of it, its single numbers."""
    version = str(metadata.version)
    INFO.labels(version, metadata.training.libraries.get("torch", "")).set(1)
    for each in metadata.metrics:
        for name, value in each.values.items():
            if isinstance(value, int | float):
                METRIC.labels(version, each.dataset, name).set(value)
