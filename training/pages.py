"""Round trips: a digit is drawn as a user's image and read back by the transformer.

From them the model learns what the transformer makes of thin pens, shadows, noise and JPEG, not
only what MNIST's pictures look like.
"""

import io
import math

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from transformer import image

Grey = NDArray[np.uint8]

SMALLEST, LARGEST = 28, 200
"""Bounds of the width and height of a page in pixels."""


def round_trips(digits: Grey, *, seed: int) -> Grey:
    """Draw each digit on its own page and read it back: uint8 [N, 28, 28], 255 = ink, both ways.

    If the transformer sees no digit in the page, or several, the digit is returned unchanged. The
    same seed gives the same pages.
    """
    trips = digits.copy()
    progress = tqdm(trips, desc="round trips", unit="digit", mininterval=1)
    for index, digit in enumerate(progress):
        picture = image.read(draw(np.random.default_rng((seed, index)), digit))
        if picture.status == "ok":
            trips[index] = picture.pixels
    return trips


def draw(random: np.random.Generator, digit: Grey) -> bytes:
    """Return an image file of the digit (uint8 [28, 28], 255 = ink) as a user might make it."""
    side = round(SMALLEST * (LARGEST / SMALLEST) ** random.random())
    ink = _placed(random, _pen(random, digit, round(side * random.uniform(0.6, 1.3))), side)
    paper, tone = random.uniform(150, 255), random.uniform(0, 80)
    if random.random() < 0.3:
        paper, tone = 255 - paper, 255 - tone
    page = paper + (tone - paper) * ink
    if random.random() < 0.3:
        page *= _light(random, side)
    if random.random() < 0.3:
        blurred = cv2.GaussianBlur(page, (0, 0), random.uniform(0.3, 1) * side / 100 + 0.1)
        page = np.asarray(blurred, np.float32)
    if random.random() < 0.4:
        page = page + random.normal(0, random.uniform(0, 8), page.shape).astype(np.float32)
    return save(random, page)


def save(random: np.random.Generator, page: NDArray[np.floating]) -> bytes:
    """Return the page, from 0 to 255, as a PNG or JPEG file at random."""
    if random.random() < 0.5:
        return encode(page, "PNG", compress_level=0)
    return encode(page, "JPEG", quality=int(random.integers(30, 95)))


def encode(pixels: NDArray[np.number], form: str = "PNG", **options: int) -> bytes:
    """Return the pixels, clipped to 8 bits, as an image file; ``options`` are Pillow's."""
    file = io.BytesIO()
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(file, form, **options)
    return file.getvalue()


def _pen(random: np.random.Generator, digit: Grey, size: int) -> NDArray[np.float32]:
    """Return the digit at [size, size], from 0 to 1, drawn with another pen."""
    large = cv2.resize(digit, (size, size), interpolation=cv2.INTER_CUBIC).astype(np.float32) / 255
    large = np.asarray(cv2.GaussianBlur(large, (0, 0), 0.02 * size + 0.1), np.float32)
    # The level at which the blurred digit is cut sets the width, the steepness the sharpness.
    level, steep = random.uniform(0.2, 0.65), random.uniform(2, 10)
    cut = np.clip((large / max(large.max(), 1e-6) - level) * steep + 0.5, 0, 1)
    return np.asarray(cut, np.float32)


def _placed(
    random: np.random.Generator, ink: NDArray[np.float32], side: int
) -> NDArray[np.float32]:
    """Return a page of [side, side] with the ink slightly turned, at a random place on it."""
    size = len(ink)
    margin = size / 7  # a little less than MNIST's own
    least, most = -margin, side - size + margin
    x, y = (random.uniform(least, most) if most > least else (side - size) / 2 for _ in "xy")
    centre = size / 2, size / 2
    turn = np.asarray(cv2.getRotationMatrix2D(centre, random.uniform(-12, 12), 1), np.float64)
    turn[:, 2] += np.array((x, y))
    return np.asarray(cv2.warpAffine(ink, turn, (side, side)), np.float32)


def _light(random: np.random.Generator, side: int) -> NDArray[np.float32]:
    """Return brightness from 0.5 to 1: a soft-edged shadow across the page."""
    angle, edge = random.uniform(0, 2 * math.pi), random.uniform(0.05, 0.6)
    rows, columns = np.indices((side, side), np.float32) / side - 0.5
    across = columns * math.cos(angle) + rows * math.sin(angle) - random.uniform(-0.4, 0.4)
    shadow = 1 / (1 + np.exp(-across / edge * 4))
    return np.asarray(1 - random.uniform(0.1, 0.5) * shadow, np.float32)
