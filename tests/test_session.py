"""Programs in ONNX Runtime: they give the numbers that torch gives, or are left to torch."""

import io
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from predictor.operators import OPERATORS
from predictor.program import Program, read_program
from predictor.session import PART, open_session
from predictor.translation import Translation, Untranslated
from tests.versions import served
from training.network import export

BATCH = torch.export.Dim("batch", min=1)


class Module(nn.Module):
    """A program of one function; it has a weight of each kind that one may need."""

    def __init__(self, function: Callable[..., torch.Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.function = function
        self.conv = nn.Parameter(
            torch.randn(6, 2, 3, 3).contiguous(memory_format=torch.channels_last)
        )
        self.bias = nn.Parameter(torch.randn(6))
        self.matrix, self.offsets = nn.Parameter(torch.randn(5, 7)), nn.Parameter(torch.randn(5))
        self.even = nn.Parameter(torch.randn(3, 4, 2, 4))
        self.norm = nn.ParameterList(torch.rand(4) + 0.5 for _ in range(4))
        self.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(self, x)


def exported(module: nn.Module, example: torch.Tensor) -> Program:
    file = io.BytesIO()
    with warnings.catch_warnings(action="ignore"):
        program = torch.export.export(module, (example,), dynamic_shapes=({0: BATCH},))
        torch.export.save(program, file)
    return read_program(file.getvalue())


def numbers(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return (torch.randn(PART + 1, *shape, generator=generator) * 50).to(dtype)


IMAGES, ROWS, BYTES = numbers(4, 9, 8), numbers(7), numbers(4, 9, 8, dtype=torch.uint8)
CASES: dict[str, tuple[Callable[[Any, torch.Tensor], Any], torch.Tensor]] = {
    "adaptive_avg_pool2d": (lambda m, x: functional.adaptive_avg_pool2d(x, 1), IMAGES),
    "adaptive_avg_pool2d to more": (lambda m, x: functional.adaptive_avg_pool2d(x, (3, 4)), IMAGES),
    "adaptive_avg_pool2d of one number": (
        lambda m, x: functional.adaptive_avg_pool2d(x[..., :1, 1:2], (7, 3)),
        IMAGES,
    ),
    "add": (lambda m, x: x + x.amax(1, keepdim=True), IMAGES),
    "add a number to integers": (lambda m, x: x + 0.5, BYTES),
    "add a weight": (lambda m, x: x + m.matrix, numbers(5, 7)),
    "add, in place": (lambda m, x: x.relu().add_(x), IMAGES),
    "amax": (lambda m, x: x.amax(1), ROWS),
    "amax, dimension kept": (lambda m, x: x.amax((1, -1), keepdim=True), IMAGES),
    "avg_pool2d": (lambda m, x: functional.avg_pool2d(x, 2), IMAGES),
    "avg_pool2d, strides and so on": (
        lambda m, x: functional.avg_pool2d(x, (3, 2), (2, 1), 1),
        IMAGES,
    ),
    "avg_pool2d, padding left out": (
        lambda m, x: functional.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
        IMAGES,
    ),
    "batch_norm": (lambda m, x: functional.batch_norm(x, *m.norm), IMAGES),
    "batch_norm of rows": (
        lambda m, x: functional.batch_norm(x, m.norm[0], m.norm[1], m.norm[2], m.norm[3], eps=0.1),
        numbers(4),
    ),
    "cat": (lambda m, x: torch.cat([x, x.relu(), x], 1), IMAGES),
    "cat along the last": (lambda m, x: torch.cat([x, x], -1), BYTES),
    "conv2d": (lambda m, x: functional.conv2d(x, m.conv, m.bias, groups=2), IMAGES),
    "conv2d, strides and so on": (
        lambda m, x: functional.conv2d(x, m.conv, None, (2, 1), (0, 1), (1, 2), 2),
        IMAGES,
    ),
    "conv2d, as large": (lambda m, x: functional.conv2d(x, m.even, padding="same"), IMAGES),
    "conv2d, as large and dilated": (
        lambda m, x: functional.conv2d(x, m.even, padding="same", dilation=(3, 1)),
        IMAGES,
    ),
    "conv2d, no padding": (lambda m, x: functional.conv2d(x, m.even, padding="valid"), IMAGES),
    "div": (lambda m, x: x / 1.7, ROWS),
    "div of integers": (lambda m, x: x / 255, BYTES),
    "div by a tensor": (lambda m, x: x / x.amax(1, keepdim=True), BYTES),
    "div, of one number each": (lambda m, x: x.amax((1, 2, 3)) / x.mean((1, 2, 3)), IMAGES),
    "dropout": (lambda m, x: functional.dropout(x, 0.5, training=False), ROWS),
    "dropout, in place": (lambda m, x: functional.dropout(x * 2, 0.5, False, True), ROWS),
    "feature_dropout": (lambda m, x: functional.dropout2d(x, 0.5, training=False), IMAGES),
    "flatten": (lambda m, x: x.flatten(1), IMAGES),
    "flatten in part": (lambda m, x: x.flatten(1, 2), IMAGES),
    "gelu": (lambda m, x: functional.gelu(x / 20), ROWS),
    "ge": (lambda m, x: x >= 0.5, ROWS),
    "hardsigmoid": (lambda m, x: functional.hardsigmoid(x / 20), ROWS),
    "hardswish": (lambda m, x: functional.hardswish(x / 20), ROWS),
    "hardswish, in place": (lambda m, x: functional.hardswish(x / 20, inplace=True), ROWS),
    "hardtanh": (lambda m, x: functional.hardtanh(x), ROWS),
    "hardtanh, other limits, in place": (
        lambda m, x: functional.hardtanh(x * 2, -20, 30, inplace=True),
        ROWS,
    ),
    "leaky_relu": (lambda m, x: functional.leaky_relu(x), ROWS),
    "leaky_relu, another slope": (lambda m, x: functional.leaky_relu(x, 0.2), ROWS),
    "linear": (lambda m, x: functional.linear(x, m.matrix, m.offsets), ROWS),
    "linear, no bias": (lambda m, x: functional.linear(x, m.matrix), ROWS),
    "log_softmax": (lambda m, x: torch.log_softmax(x / 50, -1), ROWS),
    "max_pool2d": (lambda m, x: functional.max_pool2d(x, 2), IMAGES),
    "max_pool2d, strides and so on": (lambda m, x: functional.max_pool2d(x, (3, 2), 1, 1), IMAGES),
    "mean": (lambda m, x: x.mean((2, 3)), IMAGES),
    "mean, dimension kept": (lambda m, x: x.mean(-1, keepdim=True), IMAGES),
    "mul": (lambda m, x: x * x.mean((2, 3), keepdim=True), IMAGES),
    "mul by a number": (lambda m, x: x * 3, ROWS),
    "relu": (lambda m, x: torch.relu(x), IMAGES),
    "relu, in place after another has read it": (
        lambda m, x: [y := x * 2, z := y * 3, y.relu_(), z + y][3],
        ROWS,
    ),
    "relu6": (lambda m, x: functional.relu6(x), ROWS),
    "reshape": (lambda m, x: x.reshape(x.shape[0], 6, -1), IMAGES),
    "rsub": (lambda m, x: 255 - x / 2, BYTES),
    "sigmoid": (lambda m, x: torch.sigmoid(x / 20), ROWS),
    "silu": (lambda m, x: functional.silu(x / 20), ROWS),
    "slice": (lambda m, x: x[:, 1:3], IMAGES),
    "slice from the end": (lambda m, x: x[..., -3:-1], IMAGES),
    "softmax": (lambda m, x: torch.softmax(x / 50, 1), ROWS),
    "sub": (lambda m, x: x - 0.13, ROWS),
    "sub of a tensor": (lambda m, x: x - x.mean(1, keepdim=True), ROWS),
    "tanh": (lambda m, x: torch.tanh(x / 20), ROWS),
    "unsqueeze": (lambda m, x: x.unsqueeze(1), ROWS),
    "view": (lambda m, x: x.view(x.size(0), -1), IMAGES),
    "view of any number": (lambda m, x: x.view(-1, 2, 2, 72), BYTES),
}


@pytest.mark.parametrize("name", CASES)
def test_an_operator_does_what_torchs_does(name: str) -> None:
    function, example = CASES[name]
    module = Module(function)
    compute = open_session(exported(module, example), threads=1)
    for count in (1, len(example)):
        (found,), expected = compute(example[:count].numpy()), module(example[:count]).detach()
        assert found.dtype == expected.numpy().dtype
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)


def test_every_operator_has_a_case() -> None:
    assert {name.partition(".")[0] for name in OPERATORS} == {
        name.replace(",", " ").split()[0] for name in CASES
    }


OTHERS: dict[str, tuple[Callable[[Any, torch.Tensor], Any], torch.Tensor]] = {
    "elu": (lambda m, x: functional.elu(x), ROWS),
    "softmax in another type": (lambda m, x: torch.softmax(x, 1, torch.float64), ROWS),
    "ge of integers": (lambda m, x: x >= 300, BYTES),
    "integers beyond float32": (lambda m, x: x / 3, ROWS.long()),
    "doubles": (lambda m, x: x / 3, ROWS.double()),
    "a dilated pool": (lambda m, x: functional.max_pool2d(x, 2, dilation=2), IMAGES),
    "images in one": (lambda m, x: x.flatten(0, 1), IMAGES),
    "other images": (lambda m, x: x.view(-1, 9, 8), IMAGES),
    "linear of three dimensions": (lambda m, x: functional.linear(x, m.matrix), numbers(2, 7)),
    "every other one": (lambda m, x: x[:, ::2], IMAGES),
    "a maximum of all images": (lambda m, x: x / x.amax((-2, 1), keepdim=True), ROWS),
    "a maximum of everything": (lambda m, x: x / x.amax(), ROWS),
    "shares among images": (lambda m, x: torch.softmax(x, -2), ROWS),
    "all but the first image": (lambda m, x: x[-1:], ROWS),
    "images in the second dimension": (lambda m, x: x.unsqueeze(-3), ROWS),
    "images by images": (lambda m, x: x.amax(1) / x.amax(1, keepdim=True), ROWS),
    "images one after another": (lambda m, x: torch.cat([x, x]), ROWS),
    "a mean of all images": (lambda m, x: x - x.mean(0, keepdim=True), ROWS),
    "a mean of everything": (lambda m, x: x - x.mean((0, 1)), ROWS),
    "a mean in another type": (lambda m, x: x.mean(1, dtype=torch.float64), ROWS),
    "logarithms of shares among images": (lambda m, x: torch.log_softmax(x, 0), ROWS),
    "a sum of integers": (lambda m, x: (x + x) / 2, BYTES),
    "a product of integers": (lambda m, x: x * 2 / 3, BYTES),
    "a multiple added": (lambda m, x: x.add(x, alpha=2), ROWS),
    "a multiple subtracted": (lambda m, x: x.sub(1, alpha=2), ROWS),
    "a multiple subtracted from": (lambda m, x: torch.rsub(x, 1, alpha=2), ROWS),
    "a quotient rounded": (lambda m, x: torch.div(x, 2, rounding_mode="floor"), ROWS),
    "means of unequal windows": (lambda m, x: functional.adaptive_avg_pool2d(x, 5), IMAGES),
    "means of windows in part": (lambda m, x: functional.avg_pool2d(x, 2, ceil_mode=True), IMAGES),
    "sums of windows": (lambda m, x: functional.avg_pool2d(x, 2, divisor_override=1), IMAGES),
    "maxima in part": (lambda m, x: functional.max_pool2d(x, 2, ceil_mode=True), IMAGES),
    "a batch's own mean": (
        lambda m, x: functional.batch_norm(x, None, None, training=True),
        IMAGES,
    ),
    "a norm without weights": (lambda m, x: functional.batch_norm(x, *m.norm[:2]), IMAGES),
    "chance": (lambda m, x: functional.dropout(x), ROWS),
    "gelu by tanh": (lambda m, x: functional.gelu(x, approximate="tanh"), ROWS),
    "clipped integers": (lambda m, x: functional.hardtanh(x, 0, 6), ROWS.int()),
    "sigmoid of integers": (lambda m, x: torch.sigmoid(x), BYTES),
    "the input overwritten": (lambda m, x: x.relu_(), ROWS),
    "the input overwritten by another name": (lambda m, x: x.view(-1, 7).relu_(), ROWS),
    "a weight overwritten": (lambda m, x: [m.offsets.relu_(), x * 2][1], ROWS),
    "what is overwritten is read by another name": (
        lambda m, x: [y := x * 2, z := y.view(-1, 7), y.relu_() + z][2],
        ROWS,
    ),
    "what is overwritten by another name is read": (
        lambda m, x: [y := x * 2, functional.dropout(y, training=False).relu_() + y][1],
        ROWS,
    ),
    "what is overwritten is given by another name": (
        lambda m, x: [y := x * 2, y.view(-1, 7), y.relu_()][1],
        ROWS,
    ),
    "two outputs": (lambda m, x: x.max(1)[0], ROWS),
    "what ONNX Runtime computes of floats alone": (lambda m, x: torch.relu(x), BYTES),
    "a weight of halves": (lambda m, x: x.half() / m.halves, ROWS),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_not_known_is_left_to_torch(name: str) -> None:
    function, example = OTHERS[name]
    module = Module(function)
    if "halves" in name:  # a program has all weights of its module, used or not
        module.halves = nn.Parameter(torch.ones(7).half())
    with pytest.raises(Untranslated):
        open_session(exported(module, example), threads=1)


def test_weights_that_are_not_finite_are_left_to_torch() -> None:
    """It gives no finite number then, and the version is refused."""
    program = exported(Module(CASES["linear"][0]), ROWS)
    tensor = program.tensors["matrix"]
    nan = tensor._replace(numbers=np.full(35, np.nan, np.float32).tobytes())
    with pytest.raises(Untranslated, match="not finite"):
        open_session(Program(program.module, {**program.tensors, "matrix": nan}), threads=1)


def test_a_weight_lies_within_its_numbers() -> None:
    program = exported(Module(CASES["linear"][0]), ROWS)
    tensor = program.tensors["matrix"]
    for changes in ({"sizes": [5, 8]}, {"strides": [8, 1]}, {"offset": 1}, {"offset": -1}):
        altered = tensor._replace(**changes)
        with pytest.raises((TypeError, ValueError), match="buffer|strides|offset"):
            open_session(Program(program.module, {**program.tensors, "matrix": altered}), threads=1)


def test_a_session_does_not_keep_the_translation(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has all weights, as the session has."""
    made = []

    def translation(program: Program) -> Translation:
        result = Translation(program)
        made.append(weakref.ref(result))
        return result

    monkeypatch.setattr("predictor.session.Translation", translation)
    compute = open_session(exported(Module(CASES["linear"][0]), ROWS), threads=1)
    assert [each() for each in made] == [None]
    assert compute(ROWS.numpy())[0].shape == (len(ROWS), 5)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("count", [PART, PART + 1, 4 * PART + 1])
@pytest.mark.parametrize("name", ["folded", "linear"])
def test_networks_give_the_numbers_of_torch(name: str, count: int, threads: int) -> None:
    network = served(name)
    compute = open_session(read_program(export(network)), threads=threads)
    images = torch.randint(0, 256, (count, 28, 28), dtype=torch.uint8)
    (probabilities, accepted), expected = compute(images.numpy()), network(images)
    np.testing.assert_allclose(probabilities, expected[0], rtol=0, atol=1e-6)
    assert accepted.tolist() == expected[1].tolist()
