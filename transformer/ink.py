"""Find the digit in a grey picture: where it is, and how much ink is at each pixel.

The search is in a small copy, at most 256 pixels a side. If the border is one grey, that grey
is the *background*; otherwise the light is uneven, and running medians of the picture, with a
narrow and with a wide window, are tried as well. What differs from the background, by Otsu's
threshold, is ink; its largest part, with what is near it, is the digit (``transformer.parts``).
Of several backgrounds the best is the one on which the digit's outline is *sharpest*: ink has an
edge, a shadow fades, and paper and noise are the same all over. If even that outline is not sharp,
there is no digit.
"""

from bisect import bisect_left, bisect_right
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from transformer.decode import Grey
from transformer.parts import FLAT, Digit, largest, size_of

Strength = npt.NDArray[np.float32]
"""How much ink is at each pixel [height, width], from 0, background, to 1."""

LOOK = 256
"""Longest side, in pixels, of the small copy in which the digit is looked for."""
FINE = 60
"""A digit's ink is measured at a longer side of this many pixels, three times the model's; a digit
that has more in the small copy is measured in that."""

EVEN = 6
"""A border is one grey if four fifths of it are within this many levels of its median."""
WINDOWS = (0.27, 0.7)
"""Window sizes of the running median, as shares of the picture's longer side. The narrow one
follows the edge of a shadow, the wide one ignores the strokes of a marker."""

CONTRAST = 12
"""Ink differs from its background by at least this many of 255 levels …"""
SHARPNESS = 5.0
"""… and its outline is at least this many times as steep as the rest of the picture. Blank paper,
with noise and shadows, reaches 3 to 5, and photos of digits begin at 9 (``benchmarks.image``)."""

SMALL = 6
"""Smallest size of a digit, in pixels of the small copy; anything smaller is a speck."""
FULL = 0.45
SOLID = 0.85
"""Ink that covers more than these shares of its square and of its convex hull is not a digit, but a
sheet of paper or a blot; about 1 in 2,000 of MNIST's digits is that bold."""

_SQUARE = np.ones((3, 3), np.uint8)
_LEVELS = np.arange(256, dtype=np.float32)

# These pictures are small: OpenCV's own threads would only compete with the server's.
cv2.setNumThreads(1)


class Ink(NamedTuple):
    """The ink of one digit, cut to its bounding box, and whether there are more digits."""

    strength: Strength
    multiple: bool


class _Look(NamedTuple):
    """What is found on a page, given one of the possible backgrounds."""

    background: Grey
    light: bool
    """Whether the ink is lighter than the background."""
    level: float
    """What differs from the background by more than this is ink."""
    digit: Digit
    sharpness: float


def find(grey: Grey, *, on_sheet: bool = True) -> Ink | None:
    """The largest digit in ``grey``, dark on light or light on dark; None if there is none.

    What fills its square may be a sheet of paper on a table: with ``on_sheet``, look on that sheet.
    """
    step = -(-max(grey.shape) // LOOK)
    height, width = (max(1, side // step) for side in grey.shape)
    page = _resized(grey[: height * step, : width * step], (width, height))
    look = max(_looks(page), key=lambda look: look.sharpness, default=None)
    if look is None or look.sharpness < SHARPNESS or size_of(look.digit.box) < SMALL:
        return None
    left, top, right, bottom = look.digit.box
    if right - left > FLAT * (bottom - top):
        return None
    area = cv2.countNonZero(look.digit.ink)
    if area > FULL * size_of(look.digit.box) ** 2:
        hull = _hull(look.digit.ink)
        if area > SOLID * cv2.countNonZero(hull):
            sheet = _sheet(grey, hull, step) if on_sheet else None
            return None if sheet is None else find(sheet, on_sheet=False)
    strength = _strength(grey, page, look, step)
    return Ink(strength, look.digit.multiple) if strength.size else None


def _resized(image: Grey, size: tuple[int, int]) -> Grey:
    """``image`` with (width, height) ``size``."""
    if image.shape == (size[1], size[0]):
        return image
    # Down to half the size, linear interpolation skips no pixel, and takes a sixth of the time.
    method = cv2.INTER_AREA if max(image.shape) >= 2 * max(size) else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, size, interpolation=method), np.uint8)


def _border(image: Grey) -> Grey:
    return np.concatenate((image[0], image[-1], image[:, 0], image[:, -1]))


def _backgrounds(page: Grey) -> list[Grey]:
    """What the page may look like without its ink; the first is one grey."""
    border = np.sort(_border(page)).tobytes()
    middle = len(border) // 2
    level = (border[middle - 1] + border[middle]) // 2
    flat = np.full_like(page, level)
    even = bisect_right(border, level + EVEN) - bisect_left(border, level - EVEN)
    if even / len(border) >= 0.8:
        return [flat]
    height, width = page.shape
    # The windows are wide, so a copy of 64 pixels is enough.
    scale = 64 / max(height, width)
    small = _resized(page, (max(1, round(width * scale)), max(1, round(height * scale))))
    medians = []
    for window in WINDOWS:
        median = cv2.medianBlur(small, 2 * round(window * 64 / 2) + 1)
        medians.append(_resized(np.asarray(median, np.uint8), (width, height)))
    return [flat, *medians]


def _residual(page: Grey, background: Grey, light: bool) -> Grey:
    """By how much the page is lighter (or else darker) than its background; 0 where it is not."""
    less, more = (background, page) if light else (page, background)
    return np.asarray(cv2.subtract(more, less), np.uint8)


def _looks(page: Grey) -> list[_Look]:
    """What is found on the page with each possible background; nothing on a blank page."""
    soft = np.asarray(cv2.blur(page, (3, 3)), np.uint8)
    slope = np.asarray(cv2.morphologyEx(soft, cv2.MORPH_GRADIENT, _SQUARE), np.uint8)
    looks = (_look(page, soft, slope, background) for background in _backgrounds(page))
    return [look for look in looks if look]


def _look(page: Grey, soft: Grey, slope: Grey, background: Grey) -> _Look | None:
    """The largest digit on the page, or what is most like one; None on a blank page.

    ``soft`` is a copy of the page without its noise, and ``slope`` how steep that is at each pixel.
    """
    lighter, darker = (cv2.norm(_residual(soft, background, light)) for light in (True, False))
    light = lighter > darker
    residual = _residual(page, background, light)
    if cv2.minMaxLoc(residual)[1] < CONTRAST:
        return None
    level, ink = cv2.threshold(residual, 0, 1, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    digit = largest(np.asarray(ink, np.uint8))
    if digit is None:
        return None
    sharpness = _sharpness(slope, digit)
    # A shadow or a table often runs along the border, ink seldom.
    border = _border(digit.ink)
    sharpness *= 1 - cv2.countNonZero(border) / border.size
    return _Look(background, light, level, digit, sharpness)


def _sharpness(slope: Grey, digit: Digit) -> float:
    """How steep the digit's outline is, relative to all that is more than a pixel from it."""
    left, top, right, bottom = digit.box
    around = slice(max(0, top - 2), bottom + 2), slice(max(0, left - 2), right + 2)
    inner, steep = digit.ink[around], slope[around]
    near = cv2.dilate(inner, _SQUARE)
    outline, wide = cv2.subtract(near, inner), cv2.dilate(near, _SQUARE)
    # Norms as sums over a mask take a fifth of the time of ``cv2.mean``.
    edge = cv2.norm(steep, cv2.NORM_L1, outline) / max(1, cv2.countNonZero(outline))
    rest = cv2.norm(slope, cv2.NORM_L1) - cv2.norm(steep, cv2.NORM_L1, wide)
    return edge / (rest / max(1, slope.size - cv2.countNonZero(wide)) + 0.5)


def _hull(mask: Grey) -> Grey:
    """The filled convex hull of all pixels that are 1."""
    corners = cv2.convexHull(cv2.findNonZero(mask))
    return np.asarray(cv2.fillConvexPoly(np.zeros_like(mask), corners, 1), np.uint8)


def _sheet(grey: Grey, hull: Grey, step: int) -> Grey | None:
    """The sheet of paper in ``hull`` without its edge, surrounded by the sheet's median grey."""
    edge = max(3, max(cv2.boundingRect(hull)[2:]) // 16)
    inside = np.asarray(cv2.erode(hull, np.ones((edge, edge), np.uint8)), np.uint8)
    x, y, width, height = cv2.boundingRect(inside)
    if min(width, height) == 0:
        return None
    size = width * step, height * step
    whole = grey[y * step : y * step + size[1], x * step : x * step + size[0]]
    on = _resized(inside[y : y + height, x : x + width], size) > 0
    return np.where(on, whole, np.uint8(np.median(whole[on])))


def _strength(grey: Grey, page: Grey, look: _Look, step: int) -> Strength:
    """The digit's ink, cut to its box, measured on the page or, finer, on ``grey``; see FINE."""
    (height, width), box = page.shape, look.digit.box
    left, top = max(0, box[0] - 1), max(0, box[1] - 1)
    right, bottom = min(width, box[2] + 1), min(height, box[3] + 1)
    here = slice(top, bottom), slice(left, right)
    scale = min(step, max(1, FINE / max(right - left, bottom - top)))
    size = max(1, round((right - left) * scale)), max(1, round((bottom - top) * scale))
    whole = grey[top * step : bottom * step, left * step : right * step]
    fine = page[here] if scale == 1 else _resized(whole, size)
    residual = _residual(fine, _resized(look.background[here], size), look.light)
    near = np.asarray(cv2.dilate(look.digit.ink[here], _SQUARE), np.uint8)
    residual *= _resized(near, size)
    ink = cv2.threshold(residual, look.level, 0, cv2.THRESH_TOZERO)[1]
    full = cv2.sumElems(ink)[0] / max(1, cv2.countNonZero(ink)) or 255
    # Stretch the contrast: 10 % of the ink's mean becomes 0, and 90 % becomes 1.
    stretched = (_LEVELS * (1.25 / full) - 0.125).clip(0, 1)
    strength = np.asarray(cv2.LUT(residual, stretched), np.float32)
    x, y, width, height = cv2.boundingRect((strength > 0.5).view(np.uint8))
    return strength[y : y + height, x : x + width]
