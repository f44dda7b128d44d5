"""A published model version: which one is served, its ``model.json``, and its graph.

A version is a directory ``<model>/<integer>/``, immutable once published. ``model.json``
describes it and lists every other file with its SHA-256; ``model.pt2`` is the graph with its
weights (``torch.export``). All listed files are verified before anything is deserialised, and
exactly the bytes that were hashed are deserialised. Files that are not listed are never read.

torch is imported only when a graph is loaded, so that tools can read ``model.json`` without it.
"""

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    JsonValue,
    NonNegativeInt,
    PositiveInt,
    StringConstraints,
    ValidationError,
    model_validator,
)

if TYPE_CHECKING:
    import torch

METADATA_FILE = "model.json"
GRAPH_FILE = "model.pt2"

Graph = Callable[["torch.Tensor"], "tuple[torch.Tensor, torch.Tensor]"]
"""``images`` uint8 [N, 28, 28] → ``probabilities`` float32 [N, 10], ``accepted`` bool [N]."""

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
# A relative path of plain names, which cannot lead out of the directory, not even on Windows:
# no "..", no backslash, no drive.
_PLAIN = r"[A-Za-z0-9_][A-Za-z0-9_.-]*"
FileName = Annotated[str, StringConstraints(pattern=rf"^{_PLAIN}(/{_PLAIN})*$")]


class ArtifactError(Exception):
    """The version cannot be served; the message names the file and what to do."""


class _Record(BaseModel):
    # Unknown keys are ignored: a newer version may have more.
    model_config = ConfigDict(frozen=True, strict=True, allow_inf_nan=False)


class TensorSpec(_Record):
    """An input or output as in V2 metadata; −1 in ``shape`` is the batch dimension."""

    name: str
    datatype: Literal["UINT8", "FP32", "BOOL"]
    shape: tuple[int, ...]

    def shape_for(self, batch: int) -> tuple[int, ...]:
        """The shape for ``batch`` images."""
        return tuple(batch if size == -1 else size for size in self.shape)


INPUTS = (TensorSpec(name="images", datatype="UINT8", shape=(-1, 28, 28)),)
"""The inputs that the predictor passes to a graph."""


def outputs(labels: int) -> tuple[TensorSpec, ...]:
    """The outputs that the predictor expects from a graph with this number of ``labels``."""
    return (
        TensorSpec(name="probabilities", datatype="FP32", shape=(-1, labels)),
        TensorSpec(name="accepted", datatype="BOOL", shape=(-1,)),
    )


class Metrics(_Record):
    """Results of the evaluation on one data set."""

    dataset: str
    digest: Sha256
    images: PositiveInt
    values: dict[str, JsonValue]


class Provenance(_Record):
    """What the version was made from."""

    seed: int
    configuration: dict[str, JsonValue]
    data: dict[str, Sha256]
    code: Sha256
    libraries: dict[str, str]
    hardware: str = "not recorded"
    """The processors that it was trained on."""


class Histogram(_Record):
    """How many images have a feature in each bucket; bucket bounds are as in Prometheus."""

    bounds: tuple[float, ...]
    """A bucket holds the values above the previous bound, up to and including its own."""
    counts: tuple[NonNegativeInt, ...]
    """Images per bucket, not cumulative; the last bucket, without a bound, is for all above."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(self.counts) != len(self.bounds) + 1 or not any(self.counts):
            raise ValueError(f"expected {len(self.bounds) + 1} counts, not all of them 0")
        return self


class Reference(_Record):
    """The validation set, counted as the service counts its images, to detect drift."""

    dataset: str
    digest: Sha256
    images: PositiveInt
    digits: dict[str, NonNegativeInt]
    """Images by predicted digit; ``none`` for those without a digit."""
    histograms: dict[str, Histogram]
    """``confidence``, ``ink`` and ``area``; see ``transformer.traits``."""


class Metadata(_Record):
    """The content of ``model.json``."""

    name: str
    version: PositiveInt
    created: datetime
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    labels: tuple[str, ...]
    temperature: float
    """The graph divides the logits by this."""
    threshold: float
    """The graph accepts an image if its score for being a known digit is at least this."""
    metrics: tuple[Metrics, ...]
    reference: Reference | None = None
    """``None`` in versions 1 and 2, which are older than this field."""
    training: Provenance
    files: dict[FileName, Sha256]

    @model_validator(mode="after")
    def _check_signature(self) -> Self:
        if (self.inputs, self.outputs) != (INPUTS, outputs(len(self.labels))):
            raise ValueError(
                "inputs or outputs are not those that the predictor serves: images UINT8"
                f" {list(INPUTS[0].shape)}; probabilities FP32 [-1, {len(self.labels)}],"
                " accepted BOOL [-1]"
            )
        return self

    def to_json(self) -> bytes:
        """The bytes of ``model.json``."""
        return (self.model_dump_json(indent=2) + "\n").encode()


@dataclass(frozen=True)
class Model:
    """A verified version, ready to be called."""

    metadata: Metadata
    graph: Graph


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
        raise ArtifactError(f"{path} is malformed: {problems}") from error
    # The storage initializer's directory is not named after the version.
    if directory.name.isdecimal() and directory.name != str(metadata.version):
        raise ArtifactError(f"{path} describes version {metadata.version}; publish it anew")
    return metadata


def verify(directory: Path, *, digest: str | None = None) -> tuple[Metadata, dict[str, bytes]]:
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


def load(directory: Path, *, digest: str | None = None, device: str = "cpu") -> Model:
    """Verify the version in ``directory``, then load it and run its graph once.

    Args:
        directory: the version's directory.
        digest: SHA-256 that ``model.json`` must have, in hexadecimal; ``None`` for any.
        device: ``cpu`` or ``cuda``; inputs and outputs are in main memory with either.

    Raises:
        ArtifactError: a file is missing or malformed, or has another digest; or the graph does
            not load here, or its outputs are not as ``model.json`` declares.
    """
    metadata, contents = verify(directory, digest=digest)
    try:
        graph = _callable(contents[GRAPH_FILE], device)
        _check(graph, metadata)
    except Exception as error:
        # The bytes are as published, so the likely cause is another version of torch.
        raise ArtifactError(
            f"{directory / GRAPH_FILE} cannot be served: {error} "
            f"(written with torch {metadata.training.libraries.get('torch', 'unknown')})"
        ) from error
    return Model(metadata, graph)


def _callable(content: bytes, device: str) -> Graph:
    import torch

    from predictor.graph import read_graph

    compute: Callable[..., tuple[torch.Tensor, ...]] = read_graph(content, device)
    if device == "cuda":
        from predictor.replay import Replay

        # TF32 keeps 10 bits: the answers would differ from those evaluated and calibrated.
        torch.backends.cudnn.allow_tf32 = False
        compute = Replay(compute)

    def graph(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.inference_mode():
            probabilities, accepted = compute(images)
        return probabilities, accepted

    return graph


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror or error}") from error


def _compare(path: Path, content: bytes, *, expected: str, remedy: str) -> None:
    found = hashlib.sha256(content).hexdigest()
    if found != expected:
        raise ArtifactError(f"{path}: SHA-256 expected {expected}, found {found}; {remedy}")


def _check(graph: Graph, metadata: Metadata) -> None:
    """Run zeros through the graph; raise ValueError if the outputs are not as declared."""
    import torch

    datatypes = {"UINT8": torch.uint8, "FP32": torch.float32, "BOOL": torch.bool}
    for batch in (1, 3):  # two sizes, in case the export has fixed one
        inputs = [
            torch.zeros(spec.shape_for(batch), dtype=datatypes[spec.datatype])
            for spec in metadata.inputs
        ]
        found = [(output.dtype, tuple(output.shape)) for output in graph(*inputs)]
        expected = [(datatypes[spec.datatype], spec.shape_for(batch)) for spec in metadata.outputs]
        if found != expected:
            raise ValueError(f"declared are outputs {expected}, found {found}")
