"""Judges one published version by another, on digits of writers that neither has seen."""

import tempfile
from pathlib import Path

from predictor import artifact
from predictor.artifact import Graph, Model
from training import data
from training.data import Digits
from training.evaluate import answer
from training.gate import Comparison, Limits, Verdict, judge, time_ratio
from training.store import Store

TIMED = 640
"""Digits whose time is taken."""


class CompareError(Exception):
    """The versions cannot be compared; the message says why."""


def compare(
    store: Store, production: int, candidate: int, *, data_directory: Path, limits: Limits
) -> Verdict:
    """Judge ``candidate`` by ``production``, both versions in ``store``.

    Raises:
        CompareError: the two were not trained with the same writers held out.
        StoreError, ArtifactError, DataError: a version or the data cannot be had.
    """
    old, new = load(store, production), load(store, candidate)
    held_out = held_out_by(old, data_directory)
    if new.metadata.training.data.get(held_out.name) != held_out.digest:
        raise CompareError(
            f"versions {production} and {candidate} have other writers held out: train with the "
            "seed and validation_share of the production version"
        )
    return verdict(old.graph, new.graph, held_out, limits=limits)


def load(store: Store, version: int) -> Model:
    """Fetch, verify and load a version."""
    with tempfile.TemporaryDirectory() as directory:
        store.fetch(version, Path(directory))
        return artifact.load(Path(directory))


def held_out_by(model: Model, data_directory: Path) -> Digits:
    """The digits of the writers that the version has not seen.

    Raises:
        CompareError: those that the data give are not those that the version records.
    """
    training = model.metadata.training
    share = training.configuration["validation_share"]
    _, held_out = data.load_training(
        data_directory, validation_share=float(str(share)), seed=training.seed
    )
    if training.data.get(held_out.name) != held_out.digest:
        raise CompareError(
            f"version {model.metadata.version} was not trained on the data in {data_directory}"
        )
    return held_out


def verdict(
    production: Graph,
    candidate: Graph,
    held_out: Digits,
    *,
    limits: Limits,
    new: Digits | None = None,
) -> Verdict:
    """Judge on ``held_out``, and on the held-out part of new images if there are any."""

    def compared(digits: Digits) -> Comparison:
        answers = (answer(graph, digits.images)[0] for graph in (production, candidate))
        return Comparison(digits.labels, *answers)

    return judge(
        compared(held_out),
        time_ratio=time_ratio(production, candidate, held_out.images[:TIMED]),
        limits=limits,
        new=None if new is None else compared(new),
    )
