"""Publishes a run as a version of the model; a version never changes."""

import hashlib
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from predictor import artifact
from predictor.artifact import GRAPH_FILE, METADATA_FILE
from predictor.metadata import INPUTS, Metadata, outputs
from serving.scores import LABELS
from training.run import CARD_FILE, FIGURES, Run, read_file, read_metrics, read_reference
from training.store import Store

_FIGURE = re.compile(rf"!\[[^\]]+\]\(({FIGURES}/\S+)\)")
"""A figure in the Markdown of the card."""


@dataclass(frozen=True)
class Published:
    """A published version, as an InferenceService refers to it."""

    version: int
    uri: str
    """The value of ``STORAGE_URI``."""
    digest: str
    """SHA-256 of ``model.json`` in hexadecimal, the value of ``MODEL_DIGEST``."""


def publish(directory: Path, store: Store, *, version: int | None = None) -> Published:
    """Write the run in ``directory`` to the store, completely or not at all.

    Args:
        directory: the run, trained and evaluated.
        store: the store of the model's versions; the model takes its name.
        version: the number of the version; the next free one if ``None``.

    Raises:
        RunError: the run is not complete.
        ArtifactError: a predictor could not serve the result.
        StoreError: the version exists already, or the store refuses.
    """
    run = Run.read(directory)
    metrics = read_metrics(directory)
    reference = read_reference(directory)
    contents = {
        GRAPH_FILE: read_file(directory, GRAPH_FILE, writer="train"),
        CARD_FILE: read_file(directory, CARD_FILE, writer="evaluate"),
    }
    for figure in _FIGURE.findall(contents[CARD_FILE].decode()):
        contents[figure] = read_file(directory, figure, writer="evaluate")
    with store.claim(version) as number:
        metadata = Metadata(
            name=store.name,
            version=number,
            created=datetime.now(UTC).replace(microsecond=0),
            inputs=INPUTS,
            outputs=outputs(len(LABELS)),
            labels=LABELS,
            temperature=run.temperature,
            threshold=run.threshold,
            metrics=metrics,
            reference=reference,
            training=run.provenance,
            files={name: hashlib.sha256(content).hexdigest() for name, content in contents.items()},
        )
        contents[METADATA_FILE] = metadata.to_json()
        _check(contents)
        store.write(number, contents)
    digest = hashlib.sha256(contents[METADATA_FILE]).hexdigest()
    return Published(number, store.uri(number), digest)


def _check(contents: Mapping[str, bytes]) -> None:
    """Raise ArtifactError if a predictor could not serve these files."""
    with tempfile.TemporaryDirectory() as draft:
        for name, content in contents.items():
            path = Path(draft, name)
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content)
        artifact.load(Path(draft))
