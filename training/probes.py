"""Image files that do not show a single digit, to measure how many of them are flagged.

Nothing is trained on them: fonts, photograph, digits and code differ from those of
``training.outliers``. Each kind is a function of a random generator and of digits (uint8
[N, 28, 28], 255 = ink), which only pairs use. It returns a page of 280×280 pixels as a PNG or JPEG
file, as a user might send it.
"""

import functools
import math
from collections.abc import Callable
from pathlib import Path

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from pydantic import JsonValue

from training.pages import encode

Digits = NDArray[np.uint8]
Random = np.random.Generator

SIDE = 280
"""Width and height of a page in pixels."""
SEED = 2026
LETTERS = "ACEFHKLMNPRUVWXYacdefhkmnprtuvwx"
"""Without those that may be read as a digit: O o Q D (0), I i j J l (1), Z z (2), y (4), S s
(5), b G (6), T (7), B (8), g q (9)."""
FONTS = (
    "DejaVuSans.ttf", "DejaVuSans-Bold.ttf", "DejaVuSans-Oblique.ttf",
    "DejaVuSerif.ttf", "DejaVuSerif-Bold.ttf", "DejaVuSerif-Italic.ttf",
    "DejaVuSansMono.ttf", "DejaVuSansMono-Bold.ttf", "DejaVuSansMono-Oblique.ttf",
    "STIXGeneral.ttf", "STIXGeneralBol.ttf", "STIXGeneralItalic.ttf",
)  # fmt: skip
"""TrueType fonts that matplotlib ships."""
PHOTOGRAPH = "sample_data/grace_hopper.jpg"
WAVES = ((3, 4), (3, 5), (4, 5), (5, 6), (2, 5), (3, 7), (4, 7))
"""Frequencies of Lissajous curves. Lower ones would look like a 0 (1:1) or an 8 (1:2)."""


def make(digits: Digits, count: int) -> dict[str, list[bytes]]:
    """Return ``count`` image files of each kind, by its name; always the same ones.

    Args:
        digits: uint8 [N, 28, 28], 255 = ink, not trained on, to make pairs of.
        count: the number of files of each kind.
    """
    made = {}
    for index, (name, kind) in enumerate(KINDS.items()):
        random = np.random.default_rng((SEED, index))
        made[name] = [kind(random, digits) for _ in range(count)]
    return made


def flagged(status: list[str]) -> dict[str, JsonValue]:
    """Count how many are flagged: by the transformer, by the model of the others, and in all.

    Args:
        status: the status of the service's answer for each; see ``transformer.answer``.
    """
    total, by_model = len(status) - status.count("ok"), status.count("uncertain")
    return {
        "images": len(status),
        "flagged_by_transformer": total - by_model,
        "flagged_by_model": by_model,
        "flagged": total,
    }


def blank(random: Random, _: Digits) -> bytes:
    """Grey paper, mostly with the edge of a shadow across it, and camera noise."""
    paper = random.uniform(60, 255)
    light = np.ones((SIDE, SIDE))
    if random.random() < 0.7:
        angle, width = random.uniform(0, 2 * math.pi), random.uniform(10, 150)
        rows, columns = np.indices((SIDE, SIDE)) - random.uniform(0.2, 0.8) * SIDE
        across = rows * math.sin(angle) + columns * math.cos(angle)
        light -= random.uniform(0.1, 0.5) * (0.5 + np.arctan(across / width) / math.pi)
    grain = random.normal(0, random.uniform(0, 8), (SIDE, SIDE))
    return _jpeg(random, paper * light + grain)


def noise(random: Random, _: Digits) -> bytes:
    """A page full of dots, cells, clouds (1/f noise) or stripes of random widths."""
    made = random.choice(4)
    if made == 0:
        grain = int(random.choice([1, 2, 4, 7]))
        dots = random.random((SIDE // grain, SIDE // grain)) < random.uniform(0.02, 0.5)
        field = np.kron(dots, np.ones((grain, grain)))
    elif made == 1:
        points = random.uniform(0, SIDE, (int(random.integers(10, 60)), 2, 1, 1))
        field = np.sqrt(((np.indices((SIDE, SIDE)) - points) ** 2).sum(axis=1).min(axis=0))
    elif made == 2:
        frequency = np.hypot(np.fft.fftfreq(SIDE)[:, None], np.fft.rfftfreq(SIDE)[None])
        frequency[0, 0] = np.inf
        phases = np.exp(2j * math.pi * random.random(frequency.shape))
        field = np.fft.irfft2(phases / frequency ** random.uniform(0.8, 1.6), (SIDE, SIDE))
    else:
        widths = random.integers(2, 30, SIDE)
        stripes = np.repeat(np.arange(SIDE) % 2, widths)[:SIDE]
        field = np.broadcast_to(stripes, (SIDE, SIDE))
        field = field.T if random.random() < 0.5 else field
    low, high = field.min(), field.max()
    return _png(random, (field - low) / max(high - low, 1e-9))


def lines(random: Random, _: Digits) -> bytes:
    """A ruled page, a grid, or one stroke, straight or bowed, too flat for a 1."""
    page, pen = _sheet()
    width = int(random.integers(1, 14))
    made = random.choice(3)
    if made < 2:
        step = int(random.integers(18, 80))
        margin = int(random.choice([0, 20]))
        for at in range(int(random.integers(5, step)), SIDE, step):
            pen.line((margin, at, SIDE - margin, at), fill=255, width=min(width, 6))
            if made == 1:
                pen.line((at, margin, at, SIDE - margin), fill=255, width=min(width, 6))
    else:
        angle, length = math.radians(random.uniform(-40, 40)), random.uniform(60, 220)
        x, y = (random.uniform(0.4, 0.6) * SIDE for _axis in "xy")
        along = np.linspace(-length / 2, length / 2, 40)
        bow = random.uniform(-0.15, 0.15) * length * np.cos(math.pi * along / length)
        points = np.stack(
            [
                x + along * math.cos(angle) - bow * math.sin(angle),
                y + along * math.sin(angle) + bow * math.cos(angle),
            ],
            axis=1,
        )
        pen.line(points.ravel().tolist(), fill=255, width=width + 3, joint="curve")
    return _png(random, np.asarray(page) / 255)


def letter(random: Random, _: Digits) -> bytes:
    """One of ``LETTERS`` in one of ``FONTS``, slightly turned."""
    page, pen = _sheet()
    font = _font(str(random.choice(FONTS)), int(random.integers(100, 241)))
    text = str(random.choice(list(LETTERS)))
    pen.text((SIDE / 2, SIDE / 2), text, fill=255, font=font, anchor="mm")
    turned = page.rotate(random.uniform(-12, 12), Image.Resampling.BICUBIC)
    return _png(random, np.asarray(turned) / 255)


def photograph(random: Random, _: Digits) -> bytes:
    """A square of a real photograph, from 40 to 500 pixels a side, mirrored or not.

    The photograph is the one that comes with matplotlib, a portrait of Grace Hopper (US Navy,
    public domain). The squares show face, hair, uniform, flag and background.
    """
    photo = _photograph()
    side = int(40 * (500 / 40) ** random.random())
    left, top = (int(random.integers(0, length - side + 1)) for length in photo.size)
    crop = photo.crop((left, top, left + side, top + side))
    if random.random() < 0.5:
        crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return _jpeg(random, np.asarray(crop.resize((SIDE, SIDE), Image.Resampling.BICUBIC)))


def pair(random: Random, digits: Digits) -> bytes:
    """Two digits side by side: apart, touching, or overlapping by up to two of MNIST's pixels."""
    left, right = (_trimmed(digits[i]) for i in random.integers(len(digits), size=2))
    gap = int(random.integers(-2, 13))
    height = max(len(left), len(right))
    page = np.zeros((height, left.shape[1] + gap + right.shape[1]), np.uint8)
    for digit, start in ((left, 0), (right, left.shape[1] + gap)):
        top = int(random.integers(0, height - len(digit) + 1))
        place = page[top : top + len(digit), start : start + digit.shape[1]]
        np.maximum(place, digit, out=place)
    scale = random.uniform(0.5, 0.9) * SIDE / max(page.shape)
    size = round(page.shape[1] * scale), round(height * scale)
    large = Image.fromarray(page).resize(size, Image.Resampling.BICUBIC)
    sheet, _pen = _sheet()
    sheet.paste(large, ((SIDE - size[0]) // 2, (SIDE - size[1]) // 2))
    return _png(random, np.asarray(sheet) / 255)


def scribble(random: Random, _: Digits) -> bytes:
    """A Lissajous curve, or five to ten connected Bézier curves."""
    time = np.linspace(0, 1, 400)
    if random.random() < 0.4:
        turns = random.permutation(WAVES[random.integers(len(WAVES))])
        points = np.sin(2 * math.pi * (time[:, None] * turns + random.random(2)))
    else:
        knots = random.uniform(-1, 1, (3 * int(random.integers(5, 11)) + 1, 2))
        points = np.concatenate(
            [_bezier(knots[i : i + 4], time[::8]) for i in range(0, len(knots) - 1, 3)]
        )
    points = SIDE / 2 + points * random.uniform(0.25, 0.45) * SIDE
    page, pen = _sheet()
    pen.line(points.ravel().tolist(), fill=255, width=int(random.integers(3, 16)), joint="curve")
    return _png(random, np.asarray(page) / 255)


KINDS: dict[str, Callable[[Random, Digits], bytes]] = {
    "blank pages": blank,
    "noise": noise,
    "lines": lines,
    "letters": letter,
    "photographs": photograph,
    "two digits": pair,
    "scribbles": scribble,
}


def _sheet() -> tuple[Image.Image, ImageDraw.ImageDraw]:
    """Return a page without ink (0; ink is 255) and a pen for it."""
    page = Image.new("L", (SIDE, SIDE))
    return page, ImageDraw.Draw(page)


@functools.cache
def _font(name: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts/ttf", name), size)


@functools.cache
def _photograph() -> Image.Image:
    return Image.open(Path(matplotlib.get_data_path(), PHOTOGRAPH)).convert("L")


def _bezier(knots: NDArray[np.float64], time: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the points [N, 2] of a cubic curve of four knots [4, 2] at times [N] from 0 to 1."""
    t = time[:, None]
    weights = (1 - t) ** 3, 3 * (1 - t) ** 2 * t, 3 * (1 - t) * t**2, t**3
    return np.asarray(sum(w * knot for w, knot in zip(weights, knots, strict=True)))


def _trimmed(digit: Digits) -> Digits:
    """Return the digit without its empty margins."""
    rows, columns = np.nonzero(digit)
    if not len(rows):
        return digit
    return digit[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]


def _png(random: Random, ink: NDArray[np.number]) -> bytes:
    """Return a PNG of the ink, from 0 to 1, in one grey on paper of another; either is darker."""
    paper, tone = random.uniform(160, 255), random.uniform(0, 100)
    if random.random() < 0.3:
        paper, tone = tone, paper
    return encode(paper + (tone - paper) * np.asarray(ink, np.float64), "PNG")


def _jpeg(random: Random, page: NDArray[np.number]) -> bytes:
    return encode(page, "JPEG", quality=int(random.integers(50, 96)))
