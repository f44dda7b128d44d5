"""How each of ATen's operators is said in ONNX."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from predictor.program import FLOAT

if TYPE_CHECKING:
    from predictor.translation import Translation

# Each takes the operator's first argument, and the others by their names; those that are not there
# are not translated. ``Translation`` checks of each result that the images of a batch are its first
# dimension.

Operator = Callable[..., None]


def _adaptive_avg_pool2d(
    to: Translation, output: str, images: str, *, output_size: Sequence[int]
) -> None:
    sides = to.sizes(images)[2:]
    if sides == [1, 1]:  # the same mean everywhere, as in a VGG of small pictures
        to.node("Expand", [images, np.array([1, 1, *output_size])], output)
        return
    if any(side % size for side, size in zip(sides, output_size, strict=True)):
        raise ValueError("of windows that are not of one size")
    kernel = [side // size for side, size in zip(sides, output_size, strict=True)]
    to.node("AveragePool", [images], output, kernel_shape=kernel, strides=kernel)


def _avg_pool2d(
    to: Translation,
    output: str,
    images: str,
    *,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    **windows: Sequence[int],
) -> None:
    if ceil_mode:
        raise ValueError("with windows that reach beyond the padding")
    attributes = {**_windows(**windows), "count_include_pad": int(count_include_pad)}
    to.node("AveragePool", [images], output, **attributes)


def _batch_norm(
    to: Translation,
    output: str,
    numbers: str,
    *,
    weight: str,
    bias: str,
    running_mean: str,
    running_var: str,
    training: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool,
) -> None:
    if training or None in (weight, bias):
        raise ValueError("of a batch's own mean, or without weights")
    inputs = [numbers, weight, bias, running_mean, running_var]
    to.node("BatchNormalization", inputs, output, epsilon=eps)


def _cat(to: Translation, output: str, parts: list[str], *, dim: int) -> None:
    to.node("Concat", parts, output, axis=dim)


def _conv2d(
    to: Translation,
    output: str,
    images: str,
    *,
    weight: str,
    bias: str | None = None,
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] | str = (0, 0),
    dilation: Sequence[int] = (1, 1),
    groups: int = 1,
) -> None:
    before = after = padding
    if isinstance(padding, str):
        sides = to.sizes(weight)[2:] if padding == "same" else (1, 1)
        both = [step * (side - 1) for step, side in zip(dilation, sides, strict=True)]
        before, after = [each // 2 for each in both], [each - each // 2 for each in both]
    to.node(
        "Conv",
        [images, weight, bias],
        output,
        strides=stride,
        pads=[*before, *after],
        dilations=dilation,
        group=groups,
    )


def _dropout(to: Translation, output: str, numbers: str, *, p: float, train: bool) -> None:
    if train:
        raise ValueError("at random")
    to.node("Identity", [numbers], output)


def _ge(to: Translation, output: str, numbers: str, *, other: float) -> None:
    if to.dtype(numbers) != FLOAT:
        raise ValueError("of integers: torch compares as many bits as they have")
    to.node("GreaterOrEqual", [numbers, np.float32(other)], output)


def _gelu(to: Translation, output: str, numbers: str) -> None:
    shrunk = to.node("Mul", [numbers, np.float32(0.5**0.5)], f"{output} shrunk")
    error = to.node("Erf", [shrunk], f"{output} error")
    share = to.node("Add", [error, np.float32(1)], f"{output} share")
    half = to.node("Mul", [numbers, np.float32(0.5)], f"{output} half")
    to.node("Mul", [half, share], output)


def _hardtanh(
    to: Translation, output: str, numbers: str, *, min_val: float = -1, max_val: float = 1
) -> None:
    to.node("Clip", [numbers, np.float32(min_val), np.float32(max_val)], output)


def _leaky_relu(
    to: Translation, output: str, numbers: str, *, negative_slope: float = 0.01
) -> None:
    to.node("LeakyRelu", [numbers], output, alpha=negative_slope)


def _linear(
    to: Translation, output: str, rows: str, *, weight: str, bias: str | None = None
) -> None:
    if len(to.sizes(rows)) != 2:
        raise ValueError("of more than two dimensions")
    to.node("Gemm", [rows, weight, bias], output, transB=1)


def _max_pool2d(to: Translation, output: str, images: str, **windows: Sequence[int]) -> None:
    to.node("MaxPool", [images], output, **_windows(**windows))


def _rsub(to: Translation, output: str, numbers: str, *, other: float) -> None:
    _arithmetic("Sub")(to, output, other, other=numbers)


def _silu(to: Translation, output: str, numbers: str) -> None:
    share = to.node("Sigmoid", [numbers], f"{output} share")
    to.node("Mul", [numbers, share], output)


def _slice(to: Translation, output: str, numbers: str, *, dim: int, start: int, end: int) -> None:
    to.node("Slice", [numbers, *(np.array([each]) for each in (start, end, dim))], output)


def _unsqueeze(to: Translation, output: str, numbers: str, *, dim: int) -> None:
    to.node("Unsqueeze", [numbers, np.array([dim])], output)


def _view(to: Translation, output: str, numbers: str, **_: Any) -> None:
    """Also of other operators that change no more than the shape, which the result has."""
    _, *sizes = to.sizes(output)
    to.node("Reshape", [numbers, np.array([0, *sizes])], output)  # 0: as many images


def _windows(
    kernel_size: Sequence[int], stride: Sequence[int] = (), padding: Sequence[int] = (0, 0)
) -> dict[str, Any]:
    """The attributes of a pool."""
    return {
        "kernel_shape": kernel_size,
        "strides": stride or kernel_size,
        "pads": [*padding, *padding],
    }


def _alone(operator: str, **attributes: float) -> Operator:
    """Of each number alone."""

    def translate(to: Translation, output: str, numbers: str) -> None:
        to.node(operator, [numbers], output, **attributes)

    return translate


def _arithmetic(operator: str) -> Operator:
    """Of two tensors, or a tensor and a number."""

    def translate(to: Translation, output: str, one: Any, *, other: Any) -> None:
        if to.dtype(output) != FLOAT:
            raise ValueError("of integers: torch computes with as many bits as they have")
        to.node(operator, [to.floats(one, output), to.floats(other, output)], output)

    return translate


def _reduction(operator: str) -> Operator:
    """Of all numbers along some dimensions to one."""

    def translate(
        to: Translation, output: str, numbers: str, *, dim: list[int], keepdim: bool = False
    ) -> None:
        to.node(operator, [numbers, np.array(dim)], output, keepdims=int(keepdim))

    return translate


def _shares(operator: str) -> Operator:
    """Of all numbers along a dimension."""

    def translate(to: Translation, output: str, numbers: str, *, dim: int) -> None:
        if dim % len(to.sizes(numbers)) == 0:
            raise ValueError("across the images of a batch")
        to.node(operator, [numbers], output, axis=dim)

    return translate


OPERATORS: dict[str, Operator] = {
    "adaptive_avg_pool2d.default": _adaptive_avg_pool2d,
    "add.Tensor": _arithmetic("Add"),
    "amax.default": _reduction("ReduceMax"),
    "avg_pool2d.default": _avg_pool2d,
    "batch_norm.default": _batch_norm,
    "cat.default": _cat,
    "conv2d.default": _conv2d,
    "conv2d.padding": _conv2d,
    "div.Tensor": _arithmetic("Div"),
    "dropout.default": _dropout,
    "feature_dropout.default": _dropout,
    "flatten.using_ints": _view,
    "ge.Scalar": _ge,
    "gelu.default": _gelu,
    "hardsigmoid.default": _alone("HardSigmoid", alpha=1 / 6, beta=0.5),
    "hardswish.default": _alone("HardSwish"),
    "hardtanh.default": _hardtanh,
    "leaky_relu.default": _leaky_relu,
    "linear.default": _linear,
    "log_softmax.int": _shares("LogSoftmax"),
    "max_pool2d.default": _max_pool2d,
    "mean.dim": _reduction("ReduceMean"),
    "mul.Tensor": _arithmetic("Mul"),
    "relu.default": _alone("Relu"),
    "relu6.default": partial(_hardtanh, min_val=0, max_val=6),
    "reshape.default": _view,
    "rsub.Scalar": _rsub,
    "sigmoid.default": _alone("Sigmoid"),
    "silu.default": _silu,
    "slice.Tensor": _slice,
    "softmax.int": _shares("Softmax"),
    "sub.Tensor": _arithmetic("Sub"),
    "tanh.default": _alone("Tanh"),
    "unsqueeze.default": _unsqueeze,
    "view.default": _view,
}
"""ATen's operators that are translated; those in place, whose names end in ``_``, are, too."""
VIEWS = (_dropout, _slice, _unsqueeze, _view)
"""Those whose result may be in the memory of what they are given."""
