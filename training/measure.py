"""What a graph says of digits, and how good that is."""

from typing import NamedTuple

import torch
from pydantic import JsonValue

from predictor.artifact import Graph, Metrics
from training.data import Digits

BINS = 15
"""Of confidence, each as wide as the others."""


class Answers(NamedTuple):
    """What a graph says of N digits."""

    probabilities: torch.Tensor
    """float32 [N, 10]."""
    accepted: torch.Tensor
    """bool [N]."""


def answer(graph: Graph, images: torch.Tensor) -> Answers:
    """Put images, uint8 [N, 28, 28], to the graph, 256 at a time."""
    with torch.inference_mode():
        outputs = [graph(part) for part in torch.split(images, 256)]
    return Answers(*(torch.cat(parts) for parts in zip(*outputs, strict=True)))


def measure(graph: Graph, digits: Digits) -> Metrics:
    """What the graph does with a data set; see ``describe``."""
    return describe(digits, answer(graph, digits.images))


def describe(digits: Digits, answers: Answers) -> Metrics:
    """What was answered for a data set.

    ``confusion[i][j]`` counts the images of digit i that were read as j, ``recall[i]`` is the share
    of those of digit i that were read as i (null if there are none), ``accepted`` the share of
    images for which the graph said so. ``reliability`` has a row for each bin of confidence, and
    ``confidence_when_wrong`` and ``_right`` say how the confidence of these answers is distributed.
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
                for images, sum_confidence, sum_right in _binned(confidence, right, BINS).T.tolist()
            ],
            "confidence_when_wrong": _distribution(confidence[~right]),
            "confidence_when_right": _distribution(confidence[right]),
        },
    )


def quality(
    confidence: torch.Tensor, right: torch.Tensor, accepted: torch.Tensor
) -> dict[str, JsonValue]:
    """Of answers, each with its confidence: how many are right, and are accepted."""
    return {
        "accuracy": share(right),
        "calibration_error": calibration_error(confidence, right),
        "accepted": share(accepted),
        "accuracy_of_accepted": share(right[accepted]) if accepted.any() else None,
    }


def calibration_error(confidence: torch.Tensor, right: torch.Tensor, bins: int = BINS) -> float:
    """Expected calibration error (Guo et al. 2017, arXiv:1706.04599), from 0 to 1.

    The images fall into ``bins`` of equal width by confidence; the error is the mean over images
    of the distance between their bin's accuracy and its mean confidence.

    Args:
        confidence: float [N], from 0 to 1.
        right: bool [N].
    """
    _, confidences, rights = _binned(confidence, right, bins)
    return float((rights - confidences).abs().sum()) / len(confidence)


def _binned(confidence: torch.Tensor, right: torch.Tensor, bins: int) -> torch.Tensor:
    """Float64 [3, bins]: the images in each bin (closed above), sums of confidence and right."""
    index = (confidence * bins).ceil().long().clamp(1, bins) - 1
    summed = torch.ones_like(right), confidence, right
    return torch.stack([torch.bincount(index, each.double(), minlength=bins) for each in summed])


def _distribution(confidence: torch.Tensor) -> dict[str, JsonValue] | None:
    if not len(confidence):
        return None
    return {
        "mean": float(confidence.double().mean()),
        "median": float(confidence.double().median()),
        "at_least_0.9": share(confidence >= 0.9),
    }


def share(of: torch.Tensor) -> float:
    """Of bool [N], those that are true."""
    return int(of.sum()) / len(of)
