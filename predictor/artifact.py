"""A published model version: which one is served, its files, and the graph in them.

A version is a directory ``<model>/<integer>/``, immutable once published. ``model.json``
describes it and lists every other file with its SHA-256; ``model.pt2`` is the graph with its
weights (``torch.export``). All listed files are verified before anything is deserialised, and
exactly the bytes that were hashed are deserialised. Files that are not listed are never read.

What computes a graph (``predictor.runtime``) is imported only when one is loaded, so that tools can
read ``model.json`` without it.
"""

import hashlib
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from predictor.metadata import Metadata

if TYPE_CHECKING:
    from predictor.runtime import Graph

LONGEST = 500
"""Most characters of what a message quotes of a file."""
METADATA_FILE = "model.json"
GRAPH_FILE = "model.pt2"


class ArtifactError(Exception):
    """The version cannot be served; the message names the file and what to do."""


@dataclass(frozen=True)
class Model:
    """A verified version, ready to be called."""

    metadata: Metadata
    graph: "Graph"


def select_directory(
    environ: Mapping[str, str],
    *,
    models_dir: Path,
    mount_dir: Path,
    name: str,
) -> Path:
    """The directory of the version to serve.

    With ``STORAGE_URI`` it is ``mount_dir``, where KServe's storage initializer puts the files;
    without it, ``models_dir/name/$MODEL_VERSION``.

    Raises:
        ArtifactError: neither variable is set, or ``MODEL_VERSION`` is not a positive integer.
    """
    if environ.get("STORAGE_URI"):
        return mount_dir
    version = environ.get("MODEL_VERSION", "")
    if not version:
        raise ArtifactError("no model version chosen: set MODEL_VERSION (such as 1) or STORAGE_URI")
    if not re.fullmatch("[1-9][0-9]*", version):
        raise ArtifactError(f"MODEL_VERSION must be a positive integer, found {version!r}")
    return models_dir / name / version


def read_metadata(directory: Path, *, digest: str | None = None) -> Metadata:
    """Read ``model.json``.

    Args:
        directory: the version's directory.
        digest: SHA-256 that ``model.json`` must have, in hexadecimal; ``None`` for any.

    Raises:
        ArtifactError: it is missing or malformed, has another digest, or describes another
            version than the one its directory is named after.
    """
    path = directory / METADATA_FILE
    content = _read(path)
    if digest is not None:
        _compare(path, content, expected=digest.lower(), remedy="check MODEL_DIGEST")
    try:
        metadata = Metadata.model_validate_json(content)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, problem['loc'])) or 'document'}: {problem['msg']}"
            for problem in error.errors(include_url=False)
        )
        raise ArtifactError(f"{path} is malformed: {_line(problems)}") from error
    # The storage initializer's directory is not named after the version.
    if directory.name.isdecimal() and directory.name != str(metadata.version):
        raise ArtifactError(f"{path} describes version {metadata.version}; publish it anew")
    return metadata


def verify(directory: Path, *, digest: str | None) -> tuple[Metadata, dict[str, bytes]]:
    """Read ``model.json`` and all files that it lists, and check that none has changed.

    Args:
        directory: the version's directory.
        digest: SHA-256 that ``model.json`` must have, in hexadecimal; ``None`` for any.

    Returns:
        The metadata, and the content of each listed file by its name.

    Raises:
        ArtifactError: a file is missing or malformed, or has another digest.
    """
    metadata = read_metadata(directory, digest=digest)
    if GRAPH_FILE not in metadata.files:
        raise ArtifactError(f"{directory / METADATA_FILE} lists no {GRAPH_FILE}: there is no graph")
    contents = {}
    for name, expected in metadata.files.items():
        path = directory / name
        contents[name] = _read(path)
        _compare(path, contents[name], expected=expected, remedy="fetch or publish it again")
    return metadata, contents


def load(
    directory: Path, *, digest: str | None = None, device: str = "cpu", threads: int = 0
) -> Model:
    """Verify the version in ``directory``, then load it and run its graph once.

    Args:
        directory: the version's directory.
        digest: SHA-256 that ``model.json`` must have, in hexadecimal; ``None`` for any.
        device, threads: see ``runtime.open_graph``.

    Raises:
        ArtifactError: a file is missing or malformed, or has another digest; or the graph does
            not load here, or its outputs are not as ``model.json`` declares.
    """
    from predictor import runtime

    metadata, contents = verify(directory, digest=digest)
    try:
        graph = runtime.open_graph(contents[GRAPH_FILE], device=device, threads=threads)
        runtime.check(graph, metadata)
    except Exception as error:
        # The bytes are as published, so the likely cause is another version of torch.
        raise ArtifactError(
            f"{directory / GRAPH_FILE} cannot be served: {_line(str(error))} "
            f"(written with torch {metadata.training.libraries.get('torch', 'unknown')})"
        ) from error
    return Model(metadata, graph)


def _line(text: str) -> str:
    """Foreign text as one line: names in a file, and torch's errors, may have line breaks."""
    line = " ".join(text.split())
    return line if len(line) <= LONGEST else f"{line[:LONGEST]}…"


def _read(path: Path) -> bytes:
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # such as a pipe, or a device without an end
            raise OSError("it is not a regular file")
        return path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror or error}") from error


def _compare(path: Path, content: bytes, *, expected: str, remedy: str) -> None:
    found = hashlib.sha256(content).hexdigest()
    if found != expected:
        raise ArtifactError(f"{path}: SHA-256 expected {expected}, found {found}; {remedy}")
