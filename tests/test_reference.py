"""A version's reference: counted as the service counts, and exported to be compared with it."""

from itertools import accumulate
from pathlib import Path

import numpy as np
import pytest
import torch
from prometheus_client import REGISTRY

import predictor.metrics
from predictor import artifact
from predictor.artifact import ArtifactError
from predictor.metadata import Histogram, Reference
from serving.scores import Scores
from tests import runs, versions
from tests.digits import draw
from training.data import Digits
from training.reference import refer
from transformer import image, metrics
from transformer.answer import Answer, Reading, make_answer
from transformer.traits import area_ratio, ink_ratio

LIVE = {
    "confidence": "mnist_confidence",
    "ink": "mnist_picture_ink_ratio",
    "area": "mnist_picture_area_ratio",
}
"""The histogram that each feature of a reference is compared with."""
PICTURES = [
    image.picture(np.asarray(draw(digit, size, ink=ink))) for digit in (1, 4, 7)
    for size in range(40, 100, 7) for ink in (0, 100, 255)
]  # fmt: skip
"""A third of them blank."""


@pytest.fixture(scope="module")
def answer() -> Answer:
    random = np.random.default_rng(1)
    probabilities = random.dirichlet([0.2] * 10, len(PICTURES)).astype(np.float32)
    accepted = random.random(len(PICTURES)) < 0.5
    return make_answer(PICTURES, Reading.of(Scores(probabilities, accepted, model_version="")))


@pytest.fixture(scope="module")
def reference(answer: Answer) -> Reference:
    images = torch.from_numpy(np.stack([picture.pixels for picture in PICTURES]))
    made_up = Digits("drawn", images, torch.zeros(len(PICTURES), dtype=torch.long))
    return refer(made_up, PICTURES, answer)


def sample(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0


def cumulated(histogram: Histogram) -> list[int]:
    return list(accumulate(histogram.counts))


def test_ink_is_the_mean_brightness_and_area_the_share_that_is_not_blank() -> None:
    quarter = np.zeros((28, 28), np.uint8)
    quarter[:7] = 51
    assert ink_ratio(quarter) == pytest.approx(0.05)
    assert area_ratio(quarter) == 0.25


def test_it_counts_what_the_transformer_counts(reference: Reference, answer: Answer) -> None:
    version = "of this test"

    def live(feature: str) -> list[float]:
        labels = {"model_version": version} if feature == "confidence" else {}
        bounds = [*map(str, reference.histograms[feature].bounds), "+Inf"]
        return [sample(f"{LIVE[feature]}_bucket", le=le, **labels) for le in bounds]

    before = {feature: live(feature) for feature in LIVE}
    metrics.count_pictures(np.stack([picture.pixels for picture in PICTURES]))
    metrics.count_answer(answer, version)
    assert reference.histograms.keys() == LIVE.keys()
    for feature, histogram in reference.histograms.items():
        counted = np.subtract(live(feature), before[feature]).tolist()
        assert counted == cumulated(histogram)
        assert len(set(counted)) > 2, "the images differ"
    for digit, images in reference.digits.items():
        statuses = ("no_digit",) if digit == "none" else ("ok", "uncertain", "multiple")
        assert images == sum(
            sample("mnist_predictions_total", digit=digit, status=status, model_version=version)
            for status in statuses
        )
    assert reference.digits["none"] == len(PICTURES) / 3
    assert reference.images == sum(reference.digits.values()) == len(PICTURES)


def test_the_predictor_exports_it_under_the_labels_of_the_live_counts(
    tmp_path: Path, reference: Reference
) -> None:
    versions.write(tmp_path, b"", version=7, reference=reference)
    predictor.metrics.describe(artifact.read_metadata(tmp_path))
    for feature, histogram in reference.histograms.items():
        *shares, _ = (np.array(cumulated(histogram)) / sum(histogram.counts)).tolist()
        exported = [
            sample(
                "mnist_reference_bucket_ratio", model_version="7", feature=feature, le=str(bound)
            )
            for bound in histogram.bounds
        ]
        assert exported == pytest.approx(shares)
    for digit, images in reference.digits.items():
        share = sample("mnist_reference_digit_ratio", model_version="7", digit=digit)
        assert share == pytest.approx(images / len(PICTURES))


def test_a_version_without_one_exports_none(tmp_path: Path) -> None:
    versions.write(tmp_path, b"", version=8)
    predictor.metrics.describe(artifact.read_metadata(tmp_path))
    exported = [
        sample
        for family in REGISTRY.collect()
        for sample in family.samples
        if sample.name.startswith("mnist_reference")
    ]
    assert all(sample.labels["model_version"] != "8" for sample in exported)
    assert sample("mnist_model_info", model_version="8", torch="2.13.0") == 1


@pytest.mark.parametrize("counts", [(1, 2), (0, 0, 0)])
def test_a_histogram_that_is_none_is_refused(tmp_path: Path, counts: tuple[int, ...]) -> None:
    broken = Histogram.model_construct(bounds=(0.5, 1.0), counts=counts)
    of_it = runs.REFERENCE.model_copy(update={"histograms": {"ink": broken}})
    versions.write(tmp_path, b"", reference=of_it)
    with pytest.raises(ArtifactError, match=r"reference.histograms.ink: .* expected 3 counts"):
        artifact.read_metadata(tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        {"images": 0},
        {"digits": {"7": -1}},
        {"histograms": {"ink": Histogram.model_construct(bounds=(0.5,), counts=(1, -1))}},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_reference_of_no_images_is_refused(tmp_path: Path, changes: dict[str, object]) -> None:
    of_it = runs.REFERENCE.model_copy(update=changes)
    versions.write(tmp_path, b"", reference=of_it)
    with pytest.raises(ArtifactError, match=rf"malformed: reference\.{next(iter(changes))}[.:]"):
        artifact.read_metadata(tmp_path)
