"""How each of ATen's operators is said in ONNX."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from predictor.program import FLOAT

if TYPE_CHECKING:
    from predictor.translation import Translation

# Each takes the operator's arguments by their names; those that are not there are not translated.


def _amax(
    to: Translation, output: str, *, self: str, dim: list[int], keepdim: bool = False
) -> None:
    to.within(self, *dim)
    to.node("ReduceMax", [self, np.array(dim)], output, keepdims=int(keepdim))


def _conv2d(
    to: Translation,
    output: str,
    *,
    input: str,  # noqa: A002
    weight: str,
    bias: str | None = None,
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1),
    groups: int = 1,
) -> None:
    to.node(
        "Conv",
        [input, weight, bias],
        output,
        strides=stride,
        pads=[*padding, *padding],
        dilations=dilation,
        group=groups,
    )


def _div(to: Translation, output: str, *, self: str, other: Any) -> None:
    to.node("Div", [to.floats(self, output), to.floats(other, output)], output)


def _flatten(to: Translation, output: str, *, self: str, start_dim: int) -> None:
    if start_dim != 1:
        raise ValueError("not of all but the first dimension")
    to.node("Flatten", [self], output)


def _ge(to: Translation, output: str, *, self: str, other: float) -> None:
    if to.dtype(self) != FLOAT:
        raise ValueError("of integers: torch compares as many bits as they have")
    to.node("GreaterOrEqual", [self, np.float32(other)], output)


def _linear(
    to: Translation,
    output: str,
    *,
    input: str,  # noqa: A002
    weight: str,
    bias: str | None = None,
) -> None:
    if to.rank(input) != 2:
        raise ValueError("of more than two dimensions")
    to.node("Gemm", [input, weight, bias], output, transB=1)


def _max_pool2d(
    to: Translation,
    output: str,
    *,
    self: str,
    kernel_size: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0, 0),
) -> None:
    to.node(
        "MaxPool",
        [self],
        output,
        kernel_shape=kernel_size,
        strides=stride or kernel_size,
        pads=[*padding, *padding],
    )


def _relu(to: Translation, output: str, *, self: str) -> None:
    to.node("Relu", [self], output)


def _slice(to: Translation, output: str, *, self: str, dim: int, start: int, end: int) -> None:
    if (start, end) != (0, 2**63 - 1):  # all of them, as ``x[:, 1]`` says of the images
        to.within(self, dim)
    to.node("Slice", [self, *(np.array([each]) for each in (start, end, dim))], output)


def _softmax(to: Translation, output: str, *, self: str, dim: int) -> None:
    to.within(self, dim)
    to.node("Softmax", [self], output, axis=dim)


def _unsqueeze(to: Translation, output: str, *, self: str, dim: int) -> None:
    if dim in (0, -1 - to.rank(self)):
        raise ValueError("before the images of a batch")
    to.node("Unsqueeze", [self, np.array([dim])], output)


OPERATORS: dict[str, Callable[..., None]] = {
    "amax.default": _amax,
    "conv2d.default": _conv2d,
    "div.Tensor": _div,
    "flatten.using_ints": _flatten,
    "ge.Scalar": _ge,
    "linear.default": _linear,
    "max_pool2d.default": _max_pool2d,
    "relu.default": _relu,
    "slice.Tensor": _slice,
    "softmax.int": _softmax,
    "unsqueeze.default": _unsqueeze,
}
"""ATen's operators that are translated."""
