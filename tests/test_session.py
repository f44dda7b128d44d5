"""Programs in ONNX Runtime: they give the numbers that torch gives, or are left to torch."""

import io
import warnings
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
from predictor.translation import Untranslated
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
    return (torch.randn(3, *shape, generator=generator) * 50).to(dtype)


IMAGES, ROWS, BYTES = numbers(4, 9, 8), numbers(7), numbers(4, 9, 8, dtype=torch.uint8)
CASES: dict[str, tuple[Callable[[Any, torch.Tensor], Any], torch.Tensor]] = {
    "amax": (lambda m, x: x.amax(1), ROWS),
    "amax, dimension kept": (lambda m, x: x.amax((1, -1), keepdim=True), IMAGES),
    "conv2d": (lambda m, x: functional.conv2d(x, m.conv, m.bias, groups=2), IMAGES),
    "conv2d, strides and so on": (
        lambda m, x: functional.conv2d(x, m.conv, None, (2, 1), (0, 1), (1, 2), 2),
        IMAGES,
    ),
    "div": (lambda m, x: x / 1.7, ROWS),
    "div of integers": (lambda m, x: x / 255, BYTES),
    "div by a tensor": (lambda m, x: x / x.amax(1, keepdim=True), BYTES),
    "flatten": (lambda m, x: x.flatten(1), IMAGES),
    "ge": (lambda m, x: x >= 0.5, ROWS),
    "linear": (lambda m, x: functional.linear(x, m.matrix, m.offsets), ROWS),
    "linear, no bias": (lambda m, x: functional.linear(x, m.matrix), ROWS),
    "max_pool2d": (lambda m, x: functional.max_pool2d(x, 2), IMAGES),
    "max_pool2d, strides and so on": (lambda m, x: functional.max_pool2d(x, (3, 2), 1, 1), IMAGES),
    "relu": (lambda m, x: torch.relu(x), IMAGES),
    "slice": (lambda m, x: x[:, 1:3], IMAGES),
    "slice from the end": (lambda m, x: x[..., -3:-1], IMAGES),
    "softmax": (lambda m, x: torch.softmax(x / 50, 1), ROWS),
    "unsqueeze": (lambda m, x: x.unsqueeze(1), ROWS),
}


@pytest.mark.parametrize("name", CASES)
def test_an_operator_does_what_torchs_does(name: str) -> None:
    function, example = CASES[name]
    module = Module(function)
    compute = open_session(exported(module, example), threads=1)
    for count in (1, 3):
        (found,), expected = compute(example[:count].numpy()), module(example[:count]).detach()
        assert found.dtype == expected.numpy().dtype
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)


def test_every_operator_has_a_case() -> None:
    assert {name.partition(".")[0] for name in OPERATORS} == {
        name.replace(",", " ").split()[0] for name in CASES
    }


OTHERS: dict[str, tuple[Callable[[Any, torch.Tensor], Any], torch.Tensor]] = {
    "sigmoid": (lambda m, x: torch.sigmoid(x), ROWS),
    "softmax in another type": (lambda m, x: torch.softmax(x, 1, torch.float64), ROWS),
    "ge of integers": (lambda m, x: x >= 300, BYTES),
    "integers beyond float32": (lambda m, x: x / 3, ROWS.long()),
    "doubles": (lambda m, x: x / 3, ROWS.double()),
    "a dilated pool": (lambda m, x: functional.max_pool2d(x, 2, dilation=2), IMAGES),
    "flatten in part": (lambda m, x: x.flatten(1, 2), IMAGES),
    "flatten from elsewhere": (lambda m, x: x.flatten(2), IMAGES),
    "linear of three dimensions": (lambda m, x: functional.linear(x, m.matrix), numbers(2, 7)),
    "every other one": (lambda m, x: x[:, ::2], IMAGES),
    "a maximum of all images": (lambda m, x: x / x.amax((-2, 1), keepdim=True), ROWS),
    "a maximum of everything": (lambda m, x: x / x.amax(), ROWS),
    "shares among images": (lambda m, x: torch.softmax(x, -2), ROWS),
    "all but the first image": (lambda m, x: x[-1:], ROWS),
    "images in the second dimension": (lambda m, x: x.unsqueeze(-3), ROWS),
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
