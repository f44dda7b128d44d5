"""Measures the graph of a run as it will be published, and writes the model card.

Nothing is chosen by these numbers: temperature and threshold are already part of the graph.
"""

import hashlib
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import JsonValue

from predictor.artifact import GRAPH_FILE
from predictor.metadata import Metrics, Reference
from predictor.runtime import Graph, open_graph
from serving.errors import ServingError
from serving.scores import Scores
from training import card, data, figures, probes, robustness
from training.data import DataError, Digits
from training.figures import Mistake, worst
from training.measure import answer, describe, measure, quality, share
from training.reference import refer
from training.run import Run, check_seeds, read_file, training_data, write_results
from training.uploads import read_uploads
from transformer import image
from transformer.answer import Answer, Reading, make_answer, to_tensors
from transformer.image import Picture

DISTURBED = 2000
"""The number of digits of the test set, its first ones, that are disturbed."""
PROBES = 300
"""The number of image files of each kind of outlier."""


def evaluate(
    directory: Path,
    data_directory: Path,
    *,
    seeds: Sequence[Path] = (),
    uploads: Path | None = None,
    new: Digits | None = None,
) -> tuple[Metrics, ...]:
    """Measure the run in ``directory``, and complete it as ``training.run`` describes.

    Returns the metrics of the MNIST test set, the writers held out, the uploads and the new images
    if any, the disturbed digits, and the outliers, in this order.

    Args:
        directory: the run.
        data_directory: MNIST's files.
        seeds: runs with the same settings and other seeds, measured on the test set too.
        uploads: a folder with ``labels.csv`` (columns ``image``, ``label``); half is measured.
        new: after retraining, the held-out part of the new images.

    Raises:
        RunError: a run is missing, or was trained on other data or with other settings.
        DataError: data is missing or not as expected.
    """
    run = Run.read(directory)
    graph = graph_of(directory)
    others = [(other, Run.read(other)) for other in seeds]
    check_seeds(run, others)
    _, validation = training_data(run.provenance, data_directory, of=str(directory))
    test = data.load_test(data_directory)
    answers = answer(graph, test.images)
    tested = describe(test, answers)
    mistakes = {test.name: worst(test.images, test.labels, answers.probabilities)}
    if others:
        runs = {run.provenance.seed: tested} | {
            other.provenance.seed: measure(graph_of(path), test) for path, other in others
        }
        tested = tested.model_copy(update={"values": {**tested.values, "seeds": _spread(runs)}})
    metrics = [tested, measure(graph, validation)]
    if uploads:
        uploaded, mistakes[uploads.absolute().name] = _measure_uploads(graph, uploads)
        metrics.append(uploaded)
    if new is not None:
        metrics.append(measure(graph, new))
    measured = (*metrics, _measure_disturbed(graph, test), _measure_outliers(graph, test))
    write_results(
        directory,
        measured,
        _reference(graph, validation),
        card=card.render(run, measured),
        figures=figures.draw(measured, mistakes),
    )
    return measured


def graph_of(directory: Path) -> Graph:
    """Return the graph of a run, computed as the predictor computes it."""
    return open_graph(read_file(directory, GRAPH_FILE, writer="train"))


def _spread(runs: dict[int, Metrics]) -> dict[str, JsonValue]:
    """Return, for accuracy and calibration error, each seed's value, the mean and the deviation.

    The standard deviation is that of a sample (n − 1).
    """
    spread: dict[str, JsonValue] = {"seeds": list(runs)}
    for name in ("accuracy", "calibration_error"):
        values: list[Any] = [of_run.values[name] for of_run in runs.values()]
        spread[name] = {
            "values": values,
            "mean": statistics.mean(values),
            "standard_deviation": statistics.stdev(values),
        }
    return spread


def _measure_uploads(graph: Graph, folder: Path) -> tuple[Metrics, list[Mistake]]:
    """Return the metrics of what users would be answered, and the mistakes, worst first.

    ``accepted`` is the share of answers with the status ``ok``. Where no digit is found, the answer
    counts as wrong and its confidence is 0.
    """
    half = read_uploads(folder, 1)
    if not half:
        raise DataError(f"{folder}: none of the images in labels.csv is in the half for scoring")
    pictures = []
    for upload in half:
        try:
            pictures.append(image.read(upload.content))
        except ServingError as error:
            raise DataError(f"{folder / upload.name}: {error}") from error
    answered = answer_pictures(graph, pictures)
    tensors = to_tensors(answered)
    labels = torch.tensor([upload.label for upload in half])
    right = torch.from_numpy(tensors["digit"]) == labels
    accepted = torch.tensor([status == "ok" for status in answered.status])
    metrics = Metrics(
        dataset=f"{folder.absolute().name}, half for scoring, through the transformer",
        digest=hashlib.sha256(
            b"".join(upload.content + bytes([upload.label]) for upload in half)
        ).hexdigest(),
        images=len(half),
        values={
            **quality(torch.from_numpy(tensors["confidence"]), right, accepted),
            "status": {
                status: answered.status.count(status)
                for status in ("ok", "uncertain", "multiple", "no_digit")
            },
        },
    )
    seen = torch.from_numpy(np.stack([picture.pixels for picture in pictures]))
    return metrics, worst(seen, labels, torch.from_numpy(tensors["probabilities"]))


def _measure_disturbed(graph: Graph, test: Digits) -> Metrics:
    digits = Digits(test.name, test.images[:DISTURBED], test.labels[:DISTURBED])

    def right(images: NDArray[np.uint8]) -> float:
        probabilities, _ = answer(graph, torch.from_numpy(images))
        return share(probabilities.argmax(dim=1) == digits.labels)

    return Metrics(
        dataset=f"{test.name}, disturbed",
        digest=digits.digest,
        images=len(digits),
        values=robustness.measure(digits.images.numpy(), right),
    )


def _measure_outliers(graph: Graph, test: Digits) -> Metrics:
    files = probes.make(test.images.numpy(), PROBES)
    values: dict[str, JsonValue] = {}
    for kind, of_kind in files.items():
        answered = answer_pictures(graph, [image.read(file) for file in of_kind])
        values[kind] = probes.flagged(answered.status)
    every = [file for of_kind in files.values() for file in of_kind]
    digest = hashlib.sha256(b"".join(every)).hexdigest()
    return Metrics(dataset="outliers", digest=digest, images=len(every), values=values)


def _reference(graph: Graph, validation: Digits) -> Reference:
    """Count the validation set as the service would see it, through the transformer."""
    pictures = [image.picture(pixels) for pixels in validation.images.numpy()]
    return refer(validation, pictures, answer_pictures(graph, pictures))


def answer_pictures(graph: Graph, pictures: list[Picture]) -> Answer:
    """Return what the service would answer."""
    images = torch.from_numpy(np.stack([picture.pixels for picture in pictures]))
    probabilities, accepted = answer(graph, images)
    scores = Scores(probabilities.numpy(), accepted.numpy(), model_version="")
    return make_answer(pictures, Reading.of(scores))
