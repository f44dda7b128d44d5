"""What computes a graph: ONNX Runtime if it can, else torch."""

import logging
from typing import Any

import numpy as np
import pytest
import torch

from predictor.runtime import open_graph
from tests.versions import served
from training.network import export


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("folded", []),
        ("residual", []),
        ("varied", ["torch computes the graph", "torch.ops.aten.to.dtype"]),
    ],
)
def test_torch_computes_what_onnx_runtime_does_not_know(
    name: str, told: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "predictor"):
        graph = open_graph(export(served(name)))
    assert [each in caplog.text for each in told] == [True] * len(told)
    assert bool(caplog.records) == bool(told)
    images = np.random.default_rng(0).integers(0, 256, (13, 28, 28), np.uint8)
    images.flags.writeable = False  # as those of a request's body are
    probabilities, accepted = graph(images)
    expected: Any = served(name)(torch.tensor(images))
    np.testing.assert_allclose(probabilities, expected[0], rtol=0, atol=1e-6)
    assert accepted.tolist() == expected[1].tolist()


@pytest.mark.parametrize(
    ("images", "size"), [(1, 1), (8, 8), (9, 12), (12, 12), (13, 16), (65, 68)]
)
def test_torchs_large_batches_are_of_few_sizes(
    monkeypatch: pytest.MonkeyPatch, images: int, size: int
) -> None:
    sizes = []

    def compute(batch: torch.Tensor) -> list[torch.Tensor]:
        sizes.append(len(batch))
        return [batch.sum((1, 2))]

    monkeypatch.setattr("predictor.graph.read_graph", lambda *_: compute)
    graph = open_graph(export(served("varied")))
    numbers = np.arange(1, images + 1, dtype=np.uint8)
    sums, *_ = graph(np.tile(numbers[:, None, None], (1, 28, 28)))
    assert sizes == [size]
    assert sums.tolist() == [784 * number for number in numbers.tolist()]
