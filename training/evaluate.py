"""Measures a run on the validation writers and on the test set, and writes the model card."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from predictor.artifact import GRAPH_FILE, Metrics
from predictor.graph import read_graph
from training import card, data
from training.data import Digits
from training.run import Run, RunError, read_file, write_metrics

Graph = Callable[[torch.Tensor], tuple[torch.Tensor, ...]]


def evaluate(directory: Path, data_directory: Path) -> tuple[Metrics, ...]:
    """Measure the run in ``directory``; write ``metrics.json`` and ``MODEL.md`` there.

    What is measured is the graph as it will be published, read as the predictor reads it.

    Raises:
        RunError: the run is not there, or was trained on other data.
        DataError: the data is not there or not what it should be.
    """
    run = Run.read(directory)
    graph = read_graph(read_file(directory, GRAPH_FILE, writer="train"))
    configuration: dict[str, Any] = run.provenance.configuration
    training, validation = data.load_training(
        data_directory,
        validation_share=configuration["validation_share"],
        seed=run.provenance.seed,
    )
    if {digits.name: digits.digest for digits in (training, validation)} != run.provenance.data:
        raise RunError(f"{directory} was not trained on the data in {data_directory}: train again")
    metrics = (measure(graph, data.load_test(data_directory)), measure(graph, validation))
    write_metrics(directory, metrics, card=card.render(run, metrics))
    return metrics


def measure(graph: Graph, digits: Digits) -> Metrics:
    """What the graph does with a data set.

    ``confusion[i][j]`` counts the images of digit i that were read as j, ``recall[i]`` is the share
    of those of digit i that were read as i (null if there are none), ``accepted`` the share of
    images for which the graph said so.
    """
    with torch.inference_mode():
        outputs = [graph(images) for images in torch.split(digits.images, 256)]
    probabilities = torch.cat([output[0] for output in outputs])
    accepted = torch.cat([output[1] for output in outputs])
    predicted = probabilities.argmax(dim=1)
    right = predicted == digits.labels
    confusion = torch.bincount(digits.labels * 10 + predicted, minlength=100).reshape(10, 10)
    rows = confusion.sum(dim=1).tolist()
    return Metrics(
        dataset=digits.name,
        digest=digits.digest,
        images=len(digits),
        values={
            "accuracy": _share(right),
            "calibration_error": calibration_error(probabilities.amax(dim=1), right),
            "accepted": _share(accepted),
            "accuracy_of_accepted": _share(right[accepted]) if accepted.any() else None,
            "recall": [
                int(confusion[i, i]) / count if count else None for i, count in enumerate(rows)
            ],
            "confusion": confusion.tolist(),
        },
    )


def calibration_error(confidence: torch.Tensor, right: torch.Tensor, bins: int = 15) -> float:
    """Expected calibration error (Guo et al. 2017, arXiv:1706.04599), from 0 to 1.

    The images fall into ``bins`` of equal width by confidence; the error is the mean over images
    of the distance between their bin's accuracy and its mean confidence.

    Args:
        confidence: float [N], from 0 to 1.
        right: bool [N].
    """
    index = (confidence * bins).ceil().long().clamp(1, bins) - 1
    gaps = torch.zeros(bins, dtype=torch.float64).index_add_(
        0, index, right.double() - confidence.double()
    )
    return float(gaps.abs().sum()) / len(confidence)


def _share(of: torch.Tensor) -> float:
    return int(of.sum()) / len(of)
