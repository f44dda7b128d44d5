"""Drawings of digits on pages, and how like two pictures of them are."""

import numpy as np
from numpy.typing import NDArray

from tests.digits import draw
from transformer.image import Picture, picture

Grey = NDArray[np.uint8]


def drawn(digit: int = 4, size: int = 280) -> Grey:
    """A digit, black on white."""
    return np.asarray(draw(digit, size))


def placed(
    digit: Grey, *, size: tuple[int, int] = (400, 500), at: tuple[int, int] = (60, 90)
) -> Grey:
    """The digit on a larger white page, its corner at (row, column)."""
    page = np.full(size, 255, np.uint8)
    page[at[0] : at[0] + digit.shape[0], at[1] : at[1] + digit.shape[1]] = digit
    return page


def difference(a: Grey, b: Grey) -> float:
    """Mean over the pixels, of 255 levels, when one is moved by a pixel or not, as fits best."""
    moved = (np.roll(a, (i, j), (0, 1)).astype(int) for i in (-1, 0, 1) for j in (-1, 0, 1))
    return float(min(np.abs(pixels - b).mean() for pixels in moved))


def is_like(found: Picture, digit: Grey, *, within: float = 6) -> bool:
    return found.status == "ok" and difference(found.pixels, picture(digit).pixels) < within
