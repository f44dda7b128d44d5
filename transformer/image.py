"""Any image file → the 28×28 picture that the model knows, made as MNIST's were.

MNIST's digits are white on black, fitted into 20×20 with their aspect ratio kept, and centred in
28×28 by their centre of mass (http://yann.lecun.com/exdb/mnist/). For a model of other pictures,
replace ``picture``.
"""

import math
from typing import Literal, NamedTuple

import cv2
import numpy as np

from transformer.decode import MAX_PIXELS, Grey, decode
from transformer.ink import Strength, find

SIDE = 28
BOX = 20
THINNEST = 2.0
"""Strokes thinner than this, in pixels of the picture, are thickened. MNIST's median is 2.5."""

_POWERS = np.array([np.ones(BOX), np.arange(BOX)], np.float32)
"""Positions along a side to the powers 0 and 1, which times the ink give its moments."""
_PLACES = np.array([(1, x, y) for y in range(SIDE) for x in range(SIDE)], np.float32)
"""The same for all pixels of 28×28, row by row; in float32 their moments are exact."""

Status = Literal["ok", "no_digit", "multiple"]


class Picture(NamedTuple):
    """What the model sees, and whether there is a digit, or several."""

    pixels: Grey
    """uint8 [28, 28], 0 background to 255 ink; all 0 with ``no_digit``."""
    status: Status
    """``multiple``: there are several digits, and this is the largest."""


def read(data: bytes, *, max_pixels: int = MAX_PIXELS) -> Picture:
    """The model's picture of the digit in an image file.

    Raises:
        ServingError: as ``transformer.decode.decode`` does; nothing else is raised.
    """
    return picture(decode(data, max_pixels=max_pixels))


def picture(grey: Grey) -> Picture:
    """The model's picture of the digit in a grey one (uint8 [height, width], any polarity).

    A picture that is already in MNIST's format is only inverted, if it is dark on light.
    """
    if grey.shape == (SIDE, SIDE):
        if _is_mnist(grey):
            return Picture(grey, "ok")
        if _is_mnist(inverse := ~grey):
            return Picture(inverse, "ok")
    ink = find(grey)
    if ink is None:
        return Picture(np.zeros((SIDE, SIDE), np.uint8), "no_digit")
    fitted = _scaled(_thickened(ink.strength), BOX)
    return Picture(_centred(fitted), "multiple" if ink.multiple else "ok")


def _is_mnist(grey: Grey) -> bool:
    """Whether 28×28 pixels have the properties that all of MNIST's 70,000 digits have.

    These are: a maximum of at least 254; a box around the ink whose longer side is 20 pixels (in 16
    of the 70,000, 19); and a centre of mass at pixel 14, rounded.
    """
    *_, width, height = cv2.boundingRect(grey)
    if not BOX - 1 <= max(width, height) <= BOX:
        return False
    values = grey.tobytes()
    if 255 not in values and 254 not in values:
        return False
    mass, by_column, by_row = grey.reshape(SIDE * SIDE).dot(_PLACES).tolist()
    x: float = by_column / mass
    y: float = by_row / mass
    return abs(x - SIDE / 2) < 0.53 and abs(y - SIDE / 2) < 0.53


def _thickened(strength: Strength) -> Strength:
    """Thicken strokes that would be hairlines in the picture, to two pixels there."""
    wanted = THINNEST / BOX
    if _stroke(strength) >= wanted * max(strength.shape):
        return strength
    if max(strength.shape) < 4 * BOX:
        strength = _scaled(strength, 4 * BOX)
    more = round(wanted * max(strength.shape) - _stroke(strength))
    if more <= 0:
        return strength
    pen = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (more + 1, more + 1))
    padded = cv2.copyMakeBorder(strength, more, more, more, more, cv2.BORDER_CONSTANT, value=0)
    thick = np.asarray(cv2.dilate(padded, pen), np.float32)
    x, y, width, height = cv2.boundingRect((thick > 0.1).view(np.uint8))
    return thick[y : y + height, x : x + width]


def _stroke(strength: Strength) -> float:
    """The mean width of the strokes, in pixels: twice their area over their circumference.

    A circumference counted in edges between pixels is too long by a factor of 4/π, averaged over
    all directions; so the width is 8/π × area / edges.
    """
    inside = (strength > 0.5).view(np.uint8)
    ink = np.asarray(cv2.copyMakeBorder(inside, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0))
    across, down = (ink[:, 1:], ink[:, :-1]), (ink[1:], ink[:-1])
    edges = cv2.norm(*across, cv2.NORM_L1) + cv2.norm(*down, cv2.NORM_L1)
    # A dot may vanish when it is enlarged, and then has no edges.
    return 8 / math.pi * cv2.countNonZero(ink) / max(1, edges)


def _scaled(strength: Strength, longer: int) -> Strength:
    """Resize to a longer side of ``longer`` pixels; reduced, they are means of what they cover."""
    height, width = strength.shape
    scale = longer / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(strength, size, interpolation=method), np.float32)


def _centred(strength: Strength) -> Grey:
    """Put ink of at most 20×20 into 28×28, with its centre of mass at pixel 14."""
    height, width = strength.shape
    (mass, by_column), (by_row, _) = (
        _POWERS[:, :height] @ strength @ _POWERS[:, :width].T
    ).tolist()
    top = min(max(round(SIDE / 2 - by_row / mass), 0), SIDE - height)
    left = min(max(round(SIDE / 2 - by_column / mass), 0), SIDE - width)
    pixels = np.zeros((SIDE, SIDE), np.uint8)
    pixels[top : top + height, left : left + width] = cv2.convertScaleAbs(
        strength, alpha=255 / strength.max()
    )
    return pixels
