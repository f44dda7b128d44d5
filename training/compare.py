"""Compares two published versions on digits of writers on whom neither was trained."""

import tempfile
from pathlib import Path

from predictor import artifact
from predictor.artifact import ArtifactError, Model
from predictor.runtime import Graph
from training.data import Digits
from training.gate import Comparison, Limits, Verdict, judge
from training.measure import answer
from training.run import training_data
from training.speed import time_ratio
from training.store import Store


class CompareError(Exception):
    """The versions cannot be compared; the message says why."""


def compare(
    store: Store, production: int, candidate: int, *, data_directory: Path, limits: Limits
) -> Verdict:
    """Judge whether ``candidate`` is as good as ``production``, both versions in ``store``.

    Raises:
        CompareError: the two were not trained with the same writers held out.
        StoreError, ArtifactError: a version cannot be fetched or loaded.
        DataError, RunError: the data is missing, wrong, or not what the version was trained on.
    """
    old, new = load(store, production), load(store, candidate)
    _, held_out = data_of(old, data_directory)
    if new.metadata.training.data.get(held_out.name) != held_out.digest:
        raise CompareError(
            f"versions {production} and {candidate} have other writers held out: train with the "
            "seed and validation_share of the production version"
        )
    return verdict(old.graph, new.graph, held_out, limits=limits)


def load(store: Store, version: int) -> Model:
    """Fetch, verify and load a version; raises StoreError and ArtifactError."""
    with tempfile.TemporaryDirectory() as directory:
        store.fetch(version, Path(directory))
        try:
            return artifact.load(Path(directory))
        except ArtifactError as error:  # it names a temporary file
            raise ArtifactError(f"version {version} of {store.location}: {error}") from error


def data_of(model: Model, data_directory: Path) -> tuple[Digits, Digits]:
    """Return the digits of MNIST that the version was trained on, and those of held-out writers."""
    metadata = model.metadata
    return training_data(metadata.training, data_directory, of=f"version {metadata.version}")


def verdict(
    production: Graph,
    candidate: Graph,
    held_out: Digits,
    *,
    limits: Limits,
    new: Digits | None = None,
) -> Verdict:
    """Judge ``candidate`` on ``held_out``, and on ``new``, the held-out new images, if any."""

    def compared(digits: Digits) -> Comparison:
        before, now = (answer(graph, digits.images) for graph in (production, candidate))
        return Comparison(digits.labels, before, now)

    return judge(
        compared(held_out),
        time_ratio=time_ratio(production, candidate, held_out.images.numpy()),
        limits=limits,
        new=None if new is None else compared(new),
    )
