"""Runs a graph on digits and measures how good its answers are."""

from typing import NamedTuple

import torch
from pydantic import JsonValue

from predictor.metadata import Metrics
from predictor.runtime import Graph
from training.data import Digits

BINS = 15
"""The number of bins of confidence, of equal width."""


class Answers(NamedTuple):
    """The outputs of a graph for N digits."""

    probabilities: torch.Tensor
    """float32 [N, 10]."""
    accepted: torch.Tensor
    """bool [N]."""


def answer(graph: Graph, images: torch.Tensor) -> Answers:
    """Run the graph on images, uint8 [N, 28, 28], 256 at a time."""
    outputs = [graph(part.numpy()) for part in torch.split(images, 256)]
    parts = (map(torch.from_numpy, each) for each in zip(*outputs, strict=True))
    return Answers(*(torch.cat(tuple(each)) for each in parts))


def measure(graph: Graph, digits: Digits) -> Metrics:
    """Run the graph on a data set and return its metrics; see ``describe``."""
    return describe(digits, answer(graph, digits.images))


def describe(digits: Digits, answers: Answers) -> Metrics:
    """Return the metrics of the answers for a data set.

    ``confusion[i][j]`` counts the images of digit i that were read as j. ``recall[i]`` is the share
    of the images of digit i that were read as i (null if there are none), ``accepted`` the share
    of accepted images. ``reliability`` has a row for each bin of confidence;
    ``confidence_when_wrong`` and ``_right`` describe the confidence of wrong and right answers.
    """
    confidence, predicted = answers.probabilities.max(dim=1)
    right = predicted == digits.labels
    size = answers.probabilities.shape[1]
    pairs = digits.labels * size + predicted
    confusion = torch.bincount(pairs, minlength=size**2).reshape(size, size)
    rows = confusion.sum(dim=1).tolist()
    return Metrics(
        dataset=digits.name,
        digest=digits.digest,
        images=len(digits),
        values={
            **quality(confidence, right, answers.accepted),
            "recall": [
                int(confusion[i, i]) / count if count else None for i, count in enumerate(rows)
            ],
            "confusion": confusion.tolist(),
            "reliability": [
                {
                    "images": int(images),
                    "confidence": sum_confidence / images if images else None,
                    "accuracy": sum_right / images if images else None,
                }
                for images, sum_confidence, sum_right in _binned(confidence, right).T.tolist()
            ],
            "confidence_when_wrong": _distribution(confidence[~right]),
            "confidence_when_right": _distribution(confidence[right]),
        },
    )


def quality(
    confidence: torch.Tensor, right: torch.Tensor, accepted: torch.Tensor
) -> dict[str, JsonValue]:
    """Return accuracy, calibration error, share accepted, and the accuracy of the accepted.

    Arguments: float, bool and bool [N]; the last value is null if none is accepted.
    """
    return {
        "accuracy": share(right),
        "calibration_error": calibration_error(confidence, right),
        "accepted": share(accepted),
        "accuracy_of_accepted": share(right[accepted]) if accepted.any() else None,
    }


def calibration_error(confidence: torch.Tensor, right: torch.Tensor) -> float:
    """Return the expected calibration error (Guo et al. 2017, arXiv:1706.04599), from 0 to 1.

    The images are sorted by confidence into ``BINS`` bins. The error is the mean over images of the
    distance between their bin's accuracy and its mean confidence.

    Args:
        confidence: float [N], from 0 to 1.
        right: bool [N].
    """
    _, confidences, rights = _binned(confidence, right)
    return float((rights - confidences).abs().sum()) / len(confidence)


def _binned(confidence: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Return float64 [3, BINS]: the number of images, the sum of confidences, and the right ones.

    A bin includes its upper bound.
    """
    index = (confidence * BINS).ceil().long().clamp(1, BINS) - 1
    summed = torch.ones_like(right), confidence, right
    return torch.stack([torch.bincount(index, each.double(), minlength=BINS) for each in summed])


def _distribution(confidence: torch.Tensor) -> dict[str, JsonValue] | None:
    if not len(confidence):
        return None
    return {
        "mean": float(confidence.double().mean()),
        "median": float(confidence.double().median()),
        "at_least_0.9": share(confidence >= 0.9),
    }


def share(of: torch.Tensor) -> float:
    """Return the share of true values in bool [N]."""
    return int(of.sum()) / len(of)
