"""The content of ``model.json``: what a version is, what it was made from, and how good it is."""

from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    JsonValue,
    NonNegativeInt,
    PositiveInt,
    StringConstraints,
    model_validator,
)

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
# A relative path of plain names, which cannot lead out of the directory, not even on Windows:
# no "..", no backslash, no drive.
_PLAIN = r"[A-Za-z0-9_][A-Za-z0-9_.-]*"
FileName = Annotated[str, StringConstraints(pattern=rf"^{_PLAIN}(/{_PLAIN})*$")]


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
