"""Pictures of no digit, or of several, to train the model's reject class.

Each is drawn as a page and read by the transformer: the model must learn to reject what the
transformer does not flag. The outliers of ``training.probes``, for measuring, are drawn by other
code from other sources.
"""

import math
from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from training.pages import save
from transformer import image

Grey = NDArray[np.uint8]
Page = NDArray[np.float32]

SIDE = 112
"""Width and height of a page in pixels."""
LETTERS = "ACEFHJKLMNPRUVWXYadefhkmnprtuvwxy@#&%$?*+=<>{}~"
"""Characters that look like no digit in the fonts used here."""
# OpenCV 5 draws DUPLEX, COMPLEX and TRIPLEX alike, and each of the six in one width only.
FONTS = [
    cv2.FONT_HERSHEY_SIMPLEX,
    cv2.FONT_HERSHEY_DUPLEX,
    cv2.FONT_HERSHEY_COMPLEX,
    cv2.FONT_HERSHEY_TRIPLEX,
    cv2.FONT_HERSHEY_SCRIPT_SIMPLEX,
    cv2.FONT_HERSHEY_SCRIPT_COMPLEX,
]


def outliers(digits: Grey, count: int, *, seed: int) -> Grey:
    """Return outliers as the transformer passes them on: uint8 [count, 28, 28], 255 = ink.

    Args:
        digits: uint8 [N, 28, 28], the digits trained on, to make pairs of.
        count: the number of pictures.
        seed: the same seed gives the same pictures.
    """
    random = np.random.default_rng((seed, 1))
    pictures = np.zeros((count, image.SIDE, image.SIDE), np.uint8)
    for index in tqdm(range(count), desc="outliers", unit="picture", mininterval=1):
        pictures[index] = _picture(random, digits)
    return pictures


def _picture(random: np.random.Generator, digits: Grey) -> Grey:
    """Return a page as the transformer reads it; if it flags four in a row, the last one shrunk."""
    for _ in range(4):
        kind = KINDS[random.integers(len(KINDS))]
        page = _bent(random, kind(random, digits))
        if random.random() < 0.5:
            page = np.asarray(cv2.GaussianBlur(page, (0, 0), random.uniform(0.4, 2)), np.float32)
        paper, ink = random.uniform(170, 255), random.uniform(0, 90)
        picture = image.read(save(random, paper + (ink - paper) * page))
        if picture.status == "ok":
            return picture.pixels
    return np.asarray(cv2.resize(page * 255, (image.SIDE, image.SIDE)), np.uint8)


def letter(random: np.random.Generator, _: Grey) -> Page:
    """A letter or sign in one of OpenCV's stroke fonts."""
    text = LETTERS[random.integers(len(LETTERS))]
    font = FONTS[random.integers(len(FONTS))]
    height, thickness = random.uniform(1.5, 3), int(random.integers(2, 12))
    (wide, high), _base = cv2.getTextSize(text, font, height, thickness)
    page = np.zeros((SIDE, SIDE), np.uint8)
    at = (SIDE - wide) // 2, (SIDE + high) // 2
    cv2.putText(page, text, at, font, height, 255, thickness, cv2.LINE_AA)
    return np.asarray(page, np.float32) / np.float32(255)


def lines(random: np.random.Generator, _: Grey) -> Page:
    """Two to seven straight lines at random: crosses, corners, stars, hatching."""
    page = np.zeros((SIDE, SIDE), np.float32)
    pen = int(random.integers(2, 10))
    for _line in range(random.integers(2, 8)):
        start, end = random.integers(10, SIDE - 10, (2, 2)).tolist()
        cv2.line(page, start, end, 1, pen, cv2.LINE_AA)
    return page


def bar(random: np.random.Generator, _: Grey) -> Page:
    """One line too flat for a 1, or a ruled page or grid."""
    page = np.zeros((SIDE, SIDE), np.float32)
    if random.random() < 0.5:
        angle = math.radians(random.uniform(-30, 30))
        way = np.array([math.cos(angle), math.sin(angle)]) * random.uniform(15, 45)
        start, end = (SIDE / 2 - way).astype(int).tolist(), (SIDE / 2 + way).astype(int).tolist()
        cv2.line(page, start, end, 1, int(random.integers(2, 12)), cv2.LINE_AA)
        return page
    step, pen = int(random.integers(10, 40)), int(random.integers(1, 6))
    for at in range(int(random.integers(5, 15)), SIDE - 5, step):
        cv2.line(page, (at, 8), (at, SIDE - 8), 1, pen)
        if random.random() < 0.8:
            cv2.line(page, (8, at), (SIDE - 8, at), 1, pen)
    return page


def scribble(random: np.random.Generator, _: Grey) -> Page:
    """A wandering pen: a smoothed random walk."""
    steps = random.normal(0, 1, (int(random.integers(60, 400)), 2))
    walk = cv2.GaussianBlur(steps, (1, 0), sigmaX=0.1, sigmaY=random.uniform(3, 12))
    walk = np.cumsum(walk, axis=0)
    low, high = walk.min(axis=0), walk.max(axis=0)
    points = 12 + (walk - low) / (high - low).max() * (SIDE - 24)
    page = np.zeros((SIDE, SIDE), np.float32)
    pen = int(random.integers(2, 9))
    cv2.polylines(page, [points.astype(np.int32)], False, 1, pen, cv2.LINE_AA)
    return page


def blots(random: np.random.Generator, _: Grey) -> Page:
    """Noise of a random grain and threshold: blots, clouds, camouflage."""
    grain = int(random.integers(3, 20))
    coarse = random.normal(0, 1, (grain, grain)).astype(np.float32)
    clouds = cv2.resize(coarse, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
    if random.random() < 0.5:
        clouds = clouds + cv2.resize(
            random.normal(0, 0.5, (4 * grain, 4 * grain)).astype(np.float32), (SIDE, SIDE)
        )
    steep = random.uniform(0.5, 8)
    page = np.clip((clouds - random.uniform(-0.3, 1)) * steep + 0.5, 0, 1)
    return np.asarray(page * _window(random), np.float32)


def texture(random: np.random.Generator, _: Grey) -> Page:
    """Overlaid waves of several directions, as in cloth, hair or leaves."""
    rows, columns = np.indices((SIDE, SIDE), np.float32) / SIDE
    page = np.zeros((SIDE, SIDE), np.float32)
    for _wave in range(random.integers(1, 6)):
        x, y = random.normal(0, 12, 2)
        page += np.cos(x * columns + y * rows + random.uniform(0, 6.3)) * random.uniform(0.3, 1)
    page = np.clip(page * random.uniform(0.5, 4) + random.uniform(-0.5, 0.7), 0, 1)
    return np.asarray(page * _window(random), np.float32)


def chequers(random: np.random.Generator, _: Grey) -> Page:
    """Squares of ink at random, or in a pattern."""
    count = int(random.integers(2, 9))
    squares = random.random((count, count)) < random.uniform(0.2, 0.8)
    if random.random() < 0.3:
        squares = np.indices((count, count)).sum(axis=0) % 2 == 0
    large = cv2.resize(
        squares.astype(np.float32), (SIDE - 20, SIDE - 20), interpolation=cv2.INTER_NEAREST
    )
    return np.pad(np.asarray(large, np.float32), 10)


def shapes(random: np.random.Generator, _: Grey) -> Page:
    """One to three polygons of three to six corners, outlined or filled."""
    page = np.zeros((SIDE, SIDE), np.float32)
    for _shape in range(random.integers(1, 4)):
        corners = random.integers(10, SIDE - 10, (int(random.integers(3, 7)), 2)).astype(np.int32)
        if random.random() < 0.3:
            cv2.fillPoly(page, [corners], 1, cv2.LINE_AA)
        else:
            cv2.polylines(page, [corners], True, 1, int(random.integers(2, 9)), cv2.LINE_AA)
    return page


def two_digits(random: np.random.Generator, digits: Grey) -> Page:
    """Two digits, side by side or one above the other, near, touching or overlapping."""
    page = np.zeros((SIDE, SIDE), np.float32)
    size = int(random.integers(44, 64))
    apart = int(random.uniform(0.42, 0.85) * size)
    aslant = int(random.integers(-8, 9))
    for at in (SIDE - size - apart) // 2, (SIDE - size + apart) // 2:
        digit = cv2.resize(digits[random.integers(len(digits))], (size, size))
        across = min(max(at, 0), SIDE - size)
        down = min(max((SIDE - size) // 2 + aslant, 0), SIDE - size)
        place = page[down : down + size, across : across + size]
        np.maximum(place, digit.astype(np.float32) / 255, out=place)
        aslant = -aslant
    return page.T if random.random() < 0.1 else page


KINDS: list[Callable[[np.random.Generator, Grey], Page]] = [
    letter,
    letter,
    lines,
    bar,
    scribble,
    blots,
    texture,
    chequers,
    shapes,
    two_digits,
    two_digits,
]
"""Each returns a page, float32 [112, 112] from 0 to 1, 1 = ink. Letters and pairs count twice."""


def _window(random: np.random.Generator) -> Page:
    """Return a mask of 0 and 1: all of the page, or an ellipse in its middle."""
    if random.random() < 0.4:
        return np.ones((SIDE, SIDE), np.float32)
    window = np.zeros((SIDE, SIDE), np.float32)
    axes = random.integers(20, 50, 2).tolist()
    cv2.ellipse(window, (SIDE // 2, SIDE // 2), axes, random.uniform(0, 180), 0, 360, 1, -1)
    return window


def _bent(random: np.random.Generator, page: Page) -> Page:
    """Return the page slightly turned, slanted and shrunk or stretched."""
    wide, high = random.uniform(0.7, 1.1, 2)
    affine = np.array([[wide, random.uniform(-0.3, 0.3), 0], [random.uniform(-0.2, 0.2), high, 0]])
    centre = np.full(2, SIDE / 2)
    affine[:, 2] = centre - affine[:, :2] @ centre
    return np.asarray(cv2.warpAffine(page, affine, (SIDE, SIDE)), np.float32)
