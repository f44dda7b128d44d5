"""Publishes a run as the next version of the model: a directory that never changes again."""

import hashlib
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from predictor import artifact
from predictor.artifact import GRAPH_FILE, METADATA_FILE, Metadata
from training.network import INPUTS, LABELS, OUTPUTS
from training.run import CARD_FILE, Run, read_file, read_metrics


class PublishError(Exception):
    """Nothing was published; the message says why."""


def publish(directory: Path, models: Path, *, version: int | None = None) -> tuple[Path, str]:
    """Write the run in ``directory`` to ``models/<version>``, whole or not at all.

    Args:
        directory: of the run, evaluated.
        models: of the model's versions; its last part is the name of the model.
        version: the next free one if ``None``.

    Returns:
        The version's directory, and the SHA-256 of its ``model.json``.

    Raises:
        PublishError: the version is there already.
        RunError: the run is not complete.
        ArtifactError: what would be published cannot be served.
    """
    if version is None:
        numbers = [int(path.name) for path in models.glob("*") if path.name.isdecimal()]
        version = 1 + max(numbers, default=0)
    run = Run.read(directory)
    contents = {
        GRAPH_FILE: read_file(directory, GRAPH_FILE, writer="train"),
        CARD_FILE: read_file(directory, CARD_FILE, writer="evaluate"),
    }
    metadata = Metadata(
        name=models.resolve().name,
        version=version,
        created=datetime.now(UTC).replace(microsecond=0),
        inputs=INPUTS,
        outputs=OUTPUTS,
        labels=LABELS,
        temperature=run.temperature,
        threshold=run.threshold,
        metrics=read_metrics(directory),
        training=run.provenance,
        files={name: hashlib.sha256(content).hexdigest() for name, content in contents.items()},
    )
    contents[METADATA_FILE] = metadata.to_json()
    target = models / str(version)
    _write(target, contents)
    return target, hashlib.sha256(contents[METADATA_FILE]).hexdigest()


def _write(target: Path, contents: dict[str, bytes]) -> None:
    """Make ``target`` with the contents, in one step and only if they can be served."""
    taken = f"{target} exists already, and a published version never changes: take the next number"
    if target.exists():
        raise PublishError(taken)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".publish-") as temporary:
        draft = Path(temporary, target.name)
        draft.mkdir()
        for name, content in contents.items():
            (draft / name).write_bytes(content)
        artifact.load(draft)
        try:
            draft.rename(target)
        except OSError as error:
            raise PublishError(f"{taken} ({error.strerror})") from error
