"""Disturbances: each changes digits in its own way, by its unit, save at its neutral level."""

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.synthetic import digits
from training.robustness import (
    DISTURBANCES,
    add_noise,
    blur,
    change_stroke,
    fade,
    measure,
    rotate,
    shift,
)

Images = NDArray[np.uint8]


def page(*, left: int, top: int, width: int, height: int) -> Images:
    """A block of ink."""
    images = np.zeros((1, 28, 28), np.uint8)
    images[0, top : top + height, left : left + width] = 255
    return images


def box(images: Images) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of what has more than half the ink; all inside."""
    rows, columns = np.nonzero(images[0] > 127)
    return int(columns.min()), int(rows.min()), int(columns.max()), int(rows.max())


@pytest.mark.parametrize("name", DISTURBANCES)
def test_every_level_changes_digits_but_the_neutral_one(name: str) -> None:
    images = digits(8, seed=1).images.numpy()
    before = images.copy()
    _, levels, neutral, change = DISTURBANCES[name]
    assert neutral in levels
    for level in levels:
        changed = change(images, level)
        assert (changed.dtype, changed.shape) == (np.dtype(np.uint8), images.shape)
        assert np.array_equal(changed, images) == (level == neutral), level
    assert np.array_equal(images, before)


@pytest.mark.parametrize("name", DISTURBANCES)
def test_the_same_images_are_always_disturbed_alike(name: str) -> None:
    images = digits(4, seed=1).images.numpy()
    _, levels, _, change = DISTURBANCES[name]
    assert np.array_equal(change(images, levels[-1]), change(images, levels[-1]))


def test_rotation_is_counter_clockwise() -> None:
    right = page(left=20, top=13, width=4, height=2)
    assert box(rotate(right, 90)) == (13, 4, 14, 7)


def test_shift_is_to_the_right_and_down_and_leaves_paper_behind() -> None:
    assert box(shift(page(left=0, top=0, width=5, height=5), 3)) == (3, 3, 7, 7)
    assert not shift(page(left=24, top=24, width=4, height=4), 4).any()


def test_blur_spreads_ink_by_its_sigma() -> None:
    ink = blur(page(left=14, top=14, width=1, height=1), 2)[0].astype(float)
    columns = np.arange(28) - 14
    assert np.sqrt((ink.sum(0) * columns**2).sum() / ink.sum()) == pytest.approx(2, abs=0.3)


def test_noise_has_its_deviation() -> None:
    grey = np.full((20, 28, 28), 128, np.uint8)
    assert add_noise(grey, 20).std() == pytest.approx(20, rel=0.05)


@pytest.mark.parametrize(("more", "width"), [(-2, 4), (-1, 5), (1, 7), (2, 8)])
def test_strokes_are_wider_by_so_many_pixels(more: int, width: int) -> None:
    ink = change_stroke(page(left=10, top=4, width=6, height=20), more)
    assert ink[0, 14].sum() / 255 == pytest.approx(width, abs=0.1)


def test_contrast_is_a_share_of_the_ink() -> None:
    assert fade(page(left=5, top=5, width=5, height=5), 0.4).max() == 102


def test_accuracy_is_measured_at_every_level() -> None:
    images = page(left=5, top=5, width=5, height=5)
    seen = []

    def accuracy(changed: Images) -> float:
        seen.append(changed)
        return float(np.array_equal(changed, images))

    measured = measure(images, accuracy)
    assert list(measured) == list(DISTURBANCES)
    assert len(seen) == sum(len(of.levels) for of in DISTURBANCES.values())
    assert measured["rotation"] == {
        "-45": 0, "-30": 0, "-15": 0, "0": 1, "15": 0, "30": 0, "45": 0,
    }  # fmt: skip
