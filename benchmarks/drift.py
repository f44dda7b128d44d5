"""How far images are from a version's reference: ``python -m benchmarks.drift``.

The reference is made from MNIST's validation set, as the evaluation makes it. The distances of
other images are those of the recording rules: the largest difference between the cumulative shares
of confidence, ink and area, and the total variation of the digits.
"""

from collections.abc import Iterable
from itertools import accumulate
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.data import MNIST
from benchmarks.flags import flags, in_a_line
from predictor import artifact
from predictor.artifact import ArtifactError
from predictor.metadata import Histogram, Reference
from predictor.runtime import Graph
from training import data, evaluate, robustness
from training.data import DataError, Digits
from training.reference import refer
from training.run import RunError, training_data
from training.uploads import read_uploads
from transformer import image
from transformer.image import Picture

SAMPLES = 100
"""Samples of each size that are drawn from the validation set, with replacement."""
SIZES = (200, 500, 2000)
DISTURBED = 2000
DISTURBANCES = (("rotation", 30), ("blur", 1), ("noise", 50), ("stroke width", 2),
                ("stroke width", -1.5), ("contrast", 0.4))  # fmt: skip


def main() -> None:
    """Measure, and print the table."""
    parser = flags(__doc__)
    parser.add_argument(
        "--version", type=Path, default=Path("models/mnist/2"), help="directory of the version"
    )
    parser.add_argument("--uploads", type=Path, help="directory of users' images and labels.csv")
    args = parser.parse_args()
    halves = (0, 1) if args.uploads else ()
    uploads = [upload for half in halves for upload in read_uploads(args.uploads, half)]
    model = artifact.load(args.version)
    _, validation = training_data(model.metadata.training, MNIST, of=str(args.version))
    seen = [image.picture(pixels) for pixels in validation.images.numpy()]
    reference = _count(model.graph, seen)
    print("| images | confidence | ink | area | digit |\n| --- | ---: | ---: | ---: | ---: |")
    random = np.random.default_rng(0)
    for size in SIZES:
        drawn = [
            _distances(reference, _count(model.graph, [seen[i] for i in chosen]))
            for chosen in random.integers(len(seen), size=(SAMPLES, size))
        ]
        _print(f"{size} of the validation set, the largest of {SAMPLES}", np.max(drawn, axis=0))
    test = data.load_test(MNIST).images.numpy()
    rows = {"the test set": list(map(image.picture, test))}
    for name, level in DISTURBANCES:
        changed = robustness.DISTURBANCES[name].change(test[:DISTURBED], level)
        unit = robustness.DISTURBANCES[name].unit
        rows[f"{DISTURBED} of it, {name} {level:g} {unit}"] = list(map(image.picture, changed))
    if args.uploads:
        rows[f"{args.uploads.name}, {len(uploads)} drawings"] = [
            image.read(upload.content) for upload in uploads
        ]
    for name, pictures in rows.items():
        _print(name, _distances(reference, _count(model.graph, pictures)))


def _count(graph: Graph, pictures: list[Picture]) -> Reference:
    unnamed = Digits("", torch.zeros(len(pictures), 1), torch.zeros(len(pictures)))
    return refer(unnamed, pictures, evaluate.answer_pictures(graph, pictures))


def _distances(reference: Reference, live: Reference) -> list[float]:
    """The distances of confidence, ink, area and digit."""
    cumulated = [
        np.max(np.abs(_shares(reference.histograms[name]) - _shares(live.histograms[name])))
        for name in ("confidence", "ink", "area")
    ]
    more = [
        live.digits[digit] / live.images - count / reference.images
        for digit, count in reference.digits.items()
    ]
    return [*cumulated, sum(each for each in more if each > 0)]


def _shares(histogram: Histogram) -> NDArray[np.float64]:
    return np.array(list(accumulate(histogram.counts))) / sum(histogram.counts)


def _print(name: str, distances: Iterable[float]) -> None:
    print(f"| {name} | {' | '.join(f'{each:.2f}' for each in distances)} |")


if __name__ == "__main__":
    with in_a_line(ArtifactError, DataError, RunError):
        main()
