"""How much longer a candidate takes than the version in use."""

import time
from typing import Any

import numpy as np
import pytest

from serving.scores import Images
from training.speed import time_ratio


def sleeper(single: float, batch: float) -> Any:
    """A graph that takes so many seconds for one image, and for more."""

    def graph(images: Images) -> None:
        time.sleep(single if len(images) == 1 else batch)

    return graph


@pytest.mark.parametrize(
    ("candidate", "ratio"), [((0.001, 0.009), 3), ((0.006, 0.003), 6), ((0.001, 0.003), 1)]
)
def test_the_time_ratio_is_that_of_single_images_or_of_batches(
    candidate: tuple[float, float], ratio: float
) -> None:
    images = np.zeros((100, 28, 28), np.uint8)
    found = time_ratio(sleeper(0.001, 0.003), sleeper(*candidate), images)
    assert found == pytest.approx(ratio, rel=0.3)
