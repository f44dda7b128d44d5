"""The graph on a GPU answers as it does on the CPU, whatever sizes come in whatever order."""

from pathlib import Path

import numpy as np
import pytest
import torch

from predictor.artifact import load
from predictor.replay import LARGEST
from tests.synthetic import digits

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
VERSIONS = sorted(Path(__file__).parent.parent.glob("models/mnist/*"))


@pytest.mark.parametrize("version", VERSIONS, ids=lambda path: f"version {path.name}")
def test_every_size_has_the_answers_of_the_cpu(version: Path) -> None:
    ours, theirs = load(version).graph, load(version, device="cuda").graph
    images = digits(2 * LARGEST, seed=1).images.numpy()
    for count in (1, 3, 64, 2, 33, 1, LARGEST, LARGEST + 1, 5, 64):
        start = count % 7  # not always the same images
        batch = images[start : start + count]
        (expected, sure), (found, accepted) = ours(batch), theirs(batch)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
        assert sure.tolist() == accepted.tolist()
