"""A training run: a directory that ``train`` begins, ``evaluate`` completes, ``publish`` reads.

======================  =============================================
``model.pt2``           the graph with its weights
``run.json``            what it was made from, and its calibration
``metrics.json``        what ``evaluate`` measured
``reference.json``      its counts of the validation set, to detect drift
``MODEL.md``            the model card, by ``evaluate``
``figures/*.png``       its figures
======================  =============================================
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from predictor.artifact import GRAPH_FILE, METADATA_FILE
from predictor.metadata import Metrics, Provenance, Reference
from training import data
from training.data import Digits

CARD_FILE = "MODEL.md"
FIGURES = "figures"
METRICS_FILE = "metrics.json"
REFERENCE_FILE = "reference.json"
RUN_FILE = "run.json"

_METRICS = TypeAdapter(tuple[Metrics, ...])
Content = TypeVar("Content")


class RunError(Exception):
    """The run is incomplete or does not fit the data; the message says what to do."""


class Run(BaseModel):
    """The content of ``run.json``."""

    model_config = ConfigDict(frozen=True)

    temperature: float
    threshold: float
    multiply_adds: int
    parameters: int
    provenance: Provenance

    @classmethod
    def read(cls, directory: Path) -> Self:
        """Read ``run.json``; raises RunError if it is missing or malformed."""
        return _read(directory, RUN_FILE, TypeAdapter(cls), writer="train")

    def write(self, directory: Path, *, graph: bytes) -> None:
        """Begin the run ``directory`` with this and its graph; removes earlier results."""
        directory.mkdir(parents=True, exist_ok=True)
        for stale in (RUN_FILE, METRICS_FILE, REFERENCE_FILE, CARD_FILE):
            (directory / stale).unlink(missing_ok=True)
        (directory / GRAPH_FILE).write_bytes(graph)
        (directory / RUN_FILE).write_bytes(self.model_dump_json(indent=2).encode() + b"\n")


def check_directory(directory: Path) -> None:
    """Raise RunError if ``directory`` is a published version."""
    if (directory / METADATA_FILE).exists():
        raise RunError(
            f"{directory} is a published version, which never changes: "
            "choose another directory with --run"
        )


def training_data(
    provenance: Provenance, data_directory: Path, *, of: str
) -> tuple[Digits, Digits]:
    """Return MNIST's digits that were trained on, and those of the writers held out.

    ``of`` names the run or version of ``provenance`` in messages.

    Raises:
        RunError: the digits are not those that ``provenance`` records.
        DataError: the data is missing or not as expected.
    """
    share: Any = provenance.configuration.get("validation_share")
    if share is None:
        raise RunError(f"{of} is not of `python -m training`: it does not say who was held out")
    both = data.load_training(data_directory, validation_share=share, seed=provenance.seed)
    used = {digits.name: digits.digest for digits in both}
    if not used.items() <= provenance.data.items():  # retraining uses more
        raise RunError(f"{of} was not trained on the data in {data_directory}: train again")
    return both


def check_seeds(run: Run, others: Sequence[tuple[Path, Run]]) -> None:
    """Raise RunError unless all runs have different seeds and otherwise the same settings."""
    seeds = {run.provenance.seed}
    for directory, other in others:
        found = {**other.provenance.configuration, "seed": None}
        expected = {**run.provenance.configuration, "seed": None}
        names = found.keys() | expected.keys()
        different = sorted(name for name in names if found.get(name) != expected.get(name))
        if different:
            raise RunError(
                f"{directory} was trained with another {', '.join(different)}: "
                "train it with the same settings and another seed"
            )
        if other.provenance.seed in seeds:
            raise RunError(f"{directory} repeats seed {other.provenance.seed}: give it another one")
        seeds.add(other.provenance.seed)


def read_metrics(directory: Path) -> tuple[Metrics, ...]:
    """Read ``metrics.json``; raises RunError if it is missing or malformed."""
    return _read(directory, METRICS_FILE, _METRICS, writer="evaluate")


def read_reference(directory: Path) -> Reference:
    """Read ``reference.json``; raises RunError if it is missing or malformed."""
    return _read(directory, REFERENCE_FILE, TypeAdapter(Reference), writer="evaluate")


def write_results(
    directory: Path,
    metrics: tuple[Metrics, ...],
    reference: Reference,
    *,
    card: str,
    figures: Mapping[str, bytes],
) -> None:
    """Complete the run with metrics, reference, card and figures, PNG by file name.

    ``metrics.json`` is there only if all others are whole: it goes first and comes last.
    """
    (directory / METRICS_FILE).unlink(missing_ok=True)
    (directory / FIGURES).mkdir(exist_ok=True)
    for name, content in figures.items():
        (directory / FIGURES / name).write_bytes(content)
    (directory / CARD_FILE).write_bytes(card.encode())
    (directory / REFERENCE_FILE).write_bytes(reference.model_dump_json(indent=2).encode() + b"\n")
    (directory / METRICS_FILE).write_bytes(_METRICS.dump_json(metrics, indent=2) + b"\n")


def _read(directory: Path, name: str, content: TypeAdapter[Content], *, writer: str) -> Content:
    try:
        return content.validate_json(read_file(directory, name, writer=writer))
    except ValidationError as error:
        raise RunError(
            f"{directory / name} is malformed: run `python -m training {writer}` again: {error}"
        ) from error


def read_file(directory: Path, name: str, *, writer: str) -> bytes:
    """Return a file of the run, or raise RunError with the command, ``writer``, that writes it."""
    try:
        return (directory / name).read_bytes()
    except OSError as error:
        raise RunError(
            f"{directory / name} cannot be read ({error.strerror}): "
            f"run `python -m training {writer}` first"
        ) from error


def code_digest() -> str:
    """Return the SHA-256 of the names and texts of the modules of ``training``."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(f"{path.name}\n{path.read_text(encoding='utf-8')}".encode())
    return digest.hexdigest()
