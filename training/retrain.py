"""Trains on MNIST and new images, and publishes the result if it passes the gate."""

from dataclasses import dataclass
from pathlib import Path

from predictor.metadata import Metadata
from training import data, incoming
from training.compare import data_of, load, verdict
from training.config import Config, ConfigError
from training.data import Digits
from training.evaluate import evaluate, graph_of
from training.gate import Limits
from training.publish import Published, publish
from training.store import Store
from training.train import train_on

REPORT_FILE = "report.md"
_NOTHING_NEW = "Nothing new: version {} was trained on these"


class RetrainError(Exception):
    """There is no version that can be retrained; the message says why."""


@dataclass(frozen=True)
class Outcome:
    """The report in Markdown, and the published version if the candidate passed the gate."""

    report: str
    published: Published | None
    is_new: bool = True
    """Whether no version was made of these images already."""


def retrain(
    new: str,
    store: Store,
    *,
    production: int | None,
    directory: Path,
    data_directory: Path,
    limits: Limits,
    device: str,
) -> Outcome:
    """Train on MNIST and ``new`` with the production version's settings, judge, and publish.

    Seed and held-out writers are those of the production version. The MNIST test set plays no part
    in the decision.

    Args:
        new: folder or URL with ``labels.csv``; see ``training.incoming``.
        store: the store of the versions, to which a good result is published.
        production: the version to start from; the latest in ``store`` if ``None``.
        directory: the run; it also gets ``report.md``, for people.
        data_directory: MNIST's files; missing ones are downloaded.
        limits: the limits of the gate.
        device: ``cpu`` or ``cuda``.

    Raises:
        RetrainError: the store is empty, or the version has other settings than this code.
        DataError: MNIST or the new images are missing or wrong; nothing was trained.
        ArtifactError, CheckpointError, ConfigError, RunError, StoreError: as their classes say.
    """
    old = load(store, _latest(store) if production is None else production)
    try:
        config = Config.of(old.metadata.training.configuration)
    except ConfigError as error:
        raise RetrainError(
            f"version {old.metadata.version} cannot be retrained: {error}; publish one first "
            "with `python -m training train`, and name it with --production"
        ) from error
    training, held_out = data_of(old, data_directory)
    known = [training, held_out, data.load_test(data_directory)]
    images = incoming.read(new, known=known, reference=training)
    if same := _same(store, old.metadata, images.training):
        return Outcome(f"{images.report}\n\n{_NOTHING_NEW.format(same)}", None, is_new=False)
    with store.claim():
        pass  # a store that cannot be written to is found out now, not after hours of training
    together = [training, images.training]
    checkpoint = train_on(directory, together, held_out, config, device=device)
    candidate = graph_of(directory)
    judged = verdict(old.graph, candidate, held_out, limits=limits, new=images.held_out)
    gate = f"Judged by version {old.metadata.version} of {store.location}.\n\n{judged.render()}"
    report = f"{images.report}\n\n## The gate\n\n{gate}\n"
    (directory / REPORT_FILE).write_text(report, encoding="utf-8")
    published = None
    if judged.passed:
        evaluate(directory, data_directory, new=images.held_out)
        # Another may have been retraining at the same time.
        if same := _same(store, old.metadata, images.training):
            report += f"\n{_NOTHING_NEW.format(same)}"
        else:
            published = publish(directory, store)
    checkpoint.remove()  # only now: if interrupted before, the same command need not train again
    return Outcome(report, published, is_new=not same)


def _same(store: Store, old: Metadata, images: Digits) -> int | None:
    """Return the version, ``old`` or a later one, that was trained on ``images`` as it would be."""
    for version in store.versions():
        if version >= old.version:
            made = load(store, version).metadata.training
            alike = made.configuration == old.training.configuration
            if alike and images.digest in made.data.values():
                return version
    return None


def _latest(store: Store) -> int:
    versions = store.versions()
    if not versions:
        raise RetrainError(f"{store.location} holds no version to begin from: publish one first")
    return versions[-1]
