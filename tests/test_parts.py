"""Which parts of the ink on a page are the digit, and whether there are more digits."""

from collections.abc import Callable

import cv2
import numpy as np
import pytest

from tests.digits import draw_strokes
from tests.drawings import Grey, difference, drawn, is_like, placed
from transformer.image import picture
from transformer.parts import Box, largest

BROKEN_FIVE = [[(0.35, 0.2), (0.72, 0.15)], [(0.33, 0.34), (0.32, 0.5), (0.6, 0.52), (0.3, 0.85)]]
"""A 5 whose bar does not touch the rest, as many are written."""


def test_specks_are_dropped() -> None:
    page = placed(drawn())
    for x, y in np.random.default_rng(0).integers(0, 400, (20, 2)).tolist():
        page[y : y + 4, x : x + 4] = 0
    assert is_like(picture(page), drawn())


def test_ruled_lines_are_dropped() -> None:
    page = placed(drawn())
    page[::40] = np.minimum(page[::40], 190)
    assert is_like(picture(page), drawn(), within=10)


@pytest.mark.parametrize("width", [3, 8, 25])
@pytest.mark.parametrize("turn", range(4))
def test_the_dark_edge_of_a_scan_is_dropped(width: int, turn: int) -> None:
    page = np.rot90(placed(drawn()), -turn).copy()
    page[:, :width] = 0
    assert is_like(picture(np.rot90(page, turn).copy()), drawn())


def test_a_one_that_is_as_high_as_the_page_is_no_edge() -> None:
    one = np.full((280, 60), 255, np.uint8)
    cv2.line(one, (50, 0), (10, 279), 0, 19)
    one[20:40, :6] = 0
    assert picture(one).status == "ok"
    assert is_like(picture(one), one)


def side_by_side(gap: int, *digits: Grey) -> Grey:
    cut = [digit[:, np.flatnonzero((digit < 128).any(0))] for digit in digits]
    space = np.full((280, gap), 255, np.uint8)
    return np.concatenate([space, *(part for digit in cut for part in (digit, space))], 1)


@pytest.mark.parametrize("gap", [35, 80, 200])
@pytest.mark.parametrize("change", [lambda page: page, lambda page: 255 - page])
def test_of_several_digits_the_largest_is_shown(gap: int, change: Callable[[Grey], Grey]) -> None:
    smaller = placed(drawn(7, 220), size=(280, 280), at=(30, 30))
    found = picture(change(side_by_side(gap, smaller, drawn(4), smaller)))
    assert found.status == "multiple"
    assert difference(found.pixels, picture(drawn(4)).pixels) < 6


def test_digits_above_each_other_are_several() -> None:
    assert picture(np.concatenate([drawn(7), drawn(4)])).status == "multiple"


@pytest.mark.parametrize("size", [28, 280])
def test_a_digit_in_pieces_is_one(size: int) -> None:
    page = np.asarray(draw_strokes(BROKEN_FIVE, size))
    assert cv2.connectedComponents((page < 128).astype(np.uint8))[0] == 1 + len(BROKEN_FIVE)
    pixels, status = picture(page)
    assert status == "ok"
    assert cv2.connectedComponents((pixels > 127).astype(np.uint8))[0] == 1 + len(BROKEN_FIVE)


@pytest.mark.parametrize(
    ("parts", "box", "multiple"),
    [
        ([(40, 30, 60, 80), (20, 20, 80, 24)], (20, 20, 80, 80), False),
        ([(40, 30, 60, 80), (45, 85, 60, 92)], (40, 30, 60, 92), False),
        ([(20, 40, 80, 60), (90, 45, 97, 52)], (20, 40, 97, 60), False),
        ([(40, 30, 60, 80), (64, 30, 70, 80)], (40, 30, 70, 80), False),
        ([(40, 30, 60, 80), (68, 30, 74, 80)], (40, 30, 60, 80), True),
        ([(40, 30, 60, 80), (80, 30, 90, 40)], (40, 30, 60, 80), False),
        ([(20, 30, 40, 80), (50, 30, 60, 40), (70, 30, 80, 40)], (20, 30, 80, 80), False),
        ([(0, 20, 6, 80), (10, 20, 20, 30)], (0, 20, 20, 80), False),
        ([(0, 0, 40, 100), (44, 0, 54, 20)], (0, 0, 54, 100), False),
    ],
    ids=[
        "a bar above", "one below", "beside what is wide", "a stroke beside", "another digit",
        "too far", "one after the other", "a stroke along the side",
        "as high as the page, and wide",
    ],
)  # fmt: skip
def test_what_is_near_belongs_to_the_digit(parts: list[Box], box: Box, *, multiple: bool) -> None:
    found = largest(page_of(*parts))
    assert found
    assert (found.box, found.multiple) == (box, multiple)


def test_what_is_in_the_box_of_the_digit_is_of_it_unless_it_is_a_speck() -> None:
    corner = page_of((20, 20, 26, 80), (20, 74, 60, 80))
    found = largest(corner + page_of((50, 30, 53, 33)))
    assert found
    assert (found.ink == corner).all()


def test_a_ruled_line_alone_is_no_digit() -> None:
    assert largest(page_of((0, 50, 100, 52))) is None


def page_of(*parts: Box) -> Grey:
    """A page of 100 by 100 with ink, 1, all over these boxes."""
    page = np.zeros((100, 100), np.uint8)
    for left, top, right, bottom in parts:
        page[top:bottom, left:right] = 1
    return page
