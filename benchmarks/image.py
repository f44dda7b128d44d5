"""What each step of the image function is worth, and what it costs: ``python -m benchmarks.image``.

Prints Markdown tables: the accuracy of version 1 on three sets of images, with the whole recipe and
with one step of it left out at a time; which images are found to have a digit, and how sharp it is;
the time for one image. The sets are one half of hwd1000 (1,000 digits drawn by hand, 28×28, black
on white), and digits drawn here as on a canvas and as in a photo. The recipe was developed on half
0; ``--half 1`` takes the other.
"""

import contextlib
import math
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.data import HWD1000, MNIST
from benchmarks.flags import flags, in_a_line
from predictor.artifact import ArtifactError, load
from training.data import DataError, read_idx
from training.pages import encode
from training.uploads import read_uploads
from transformer import decode as decode_module
from transformer import image, ink, parts
from transformer.decode import decode
from transformer.image import Picture

ROOT = Path(__file__).parents[1]
DRAWN = 500
"""Images in each set that is drawn here."""

Grey = NDArray[np.uint8]
Files = list[tuple[bytes, int]]
"""Image files and the digits in them."""


def hand_drawn(half: int) -> Files:
    """One half of hwd1000, chosen by a hash of the file name; empty if the set is missing."""
    if not HWD1000.exists():
        return []
    return [(upload.content, upload.label) for upload in read_uploads(HWD1000, half)]


def arc(x: float, y: float, width: float, height: float, start: int, end: int) -> list[list[float]]:
    """Points on part of an ellipse; degrees run clockwise from the right."""
    angles = [math.radians(angle) for angle in range(start, end + 1, 10)]
    return [[x + width * math.cos(a), y + height * math.sin(a)] for a in angles]


STROKES: list[list[list[list[float]]]] = [
    [arc(0.5, 0.5, 0.28, 0.4, 0, 370)],
    [[[0.5, 0.1], [0.5, 0.9]]],
    [[*arc(0.5, 0.32, 0.25, 0.22, 190, 400), [0.25, 0.9], [0.8, 0.9]]],
    [[*arc(0.47, 0.3, 0.23, 0.2, 200, 440), *arc(0.47, 0.69, 0.27, 0.21, 280, 510)]],
    [[[0.55, 0.1], [0.2, 0.62], [0.85, 0.62]], [[0.64, 0.35], [0.62, 0.92]]],
    [[[0.76, 0.1], [0.33, 0.1], [0.28, 0.48], *arc(0.48, 0.66, 0.26, 0.24, 230, 500)]],
    [[[0.66, 0.1], [0.36, 0.42], *arc(0.5, 0.68, 0.24, 0.22, 180, 550)]],
    [[[0.2, 0.12], [0.8, 0.12], [0.42, 0.9]]],
    [arc(0.5, 0.3, 0.2, 0.2, 90, 450), arc(0.5, 0.7, 0.25, 0.2, 270, 630)],
    [arc(0.5, 0.32, 0.22, 0.22, 0, 360), [[0.72, 0.32], [0.6, 0.9]]],
]
"""The lines of each digit, as points [x, y] in a square of 1×1."""


def draw(random: np.random.Generator, digit: int, size: tuple[int, int], pen: float) -> Grey:
    """A digit of random size, slant and place: uint8 of ``size`` (height, width), 255 is ink."""
    tall = random.uniform(0.35, 0.85) * min(size)
    slant = np.array([[random.uniform(0.75, 1.05), random.uniform(-0.25, 0.1)], [0, 1]]) * tall
    place = [random.uniform(-0.02, side - 0.98 * tall) for side in size[::-1]]
    page = np.zeros(size, np.uint8)
    for line in STROKES[digit]:
        points = np.rint((np.array(line) @ slant.T + place) * 16).astype(np.int32)
        cv2.polylines(page, [points], False, 255, max(1, round(pen)), cv2.LINE_AA, shift=4)
    return page


def on_canvas(random: np.random.Generator, digit: int) -> bytes:
    """A PNG of 280×280: a digit with any pen, in any tone on any other, and some specks."""
    page = draw(random, digit, (280, 280), math.exp(random.uniform(0, 3.2)))
    for x, y in random.integers(0, 278, (5, 2)):
        page[y : y + 2, x : x + 2] = 255
    tones = random.uniform(0, 255, 2)
    while abs(tones[0] - tones[1]) < 60:
        tones = random.uniform(0, 255, 2)
    return encode(tones[0] + (tones[1] - tones[0]) * (page / 255))


def in_photo(random: np.random.Generator, digit: int | None) -> bytes:
    """A JPEG of 640×480 in uneven light: a digit on paper or a chalkboard, or a blank one."""
    pen = random.uniform(6, 20)
    strokes = np.zeros((480, 640)) if digit is None else draw(random, digit, (480, 640), pen) / 255
    paper, ink = (200, random.uniform(40, 130)) if random.random() < 0.7 else (70, 210)
    angle = random.uniform(0, 2 * math.pi)
    rows, columns = np.indices(strokes.shape)
    across = (columns / 640 - 0.5) * math.cos(angle) + (rows / 480 - 0.5) * math.sin(angle)
    shadow = 1 / (1 + np.exp(-np.clip(across / random.uniform(0.01, 0.2), -50, 50)))
    light = 1 - random.uniform(0.2, 0.5) * shadow - random.uniform(0, 0.3) * across
    photo = (paper + (ink - paper) * strokes) * light
    noisy = cv2.GaussianBlur(photo, (0, 0), 1) + random.normal(0, random.uniform(2, 8), photo.shape)
    return encode(noisy, "JPEG", quality=int(random.integers(40, 90)))


def two_digits(random: np.random.Generator, digit: int) -> bytes:
    """A PNG with two digits side by side."""
    pages = [draw(random, other, (280, 280), 12) for other in (digit, (digit + 3) % 10)]
    return encode(255 - np.concatenate(pages, 1))


def mnist() -> Files:
    """MNIST's test digits, inverted and off centre, so that they are not used unchanged."""
    path = MNIST / "t10k-images-idx3-ubyte.gz"
    if not path.exists():
        return []
    pages = (np.pad(page, (0, 6)) for page in read_idx(path).numpy())
    return [(encode(255 - page), -1) for page in pages]


def whole_box(strength: ink.Strength) -> Grey:
    """The digit centred by its box, in place of its centre of mass."""
    height, width = strength.shape
    top, left = (28 - height) // 2, (28 - width) // 2
    pixels = np.zeros((28, 28), np.uint8)
    pixels[top : top + height, left : left + width] = np.rint(strength * (255 / strength.max()))
    return pixels


def without(module: Any, **changes: Any) -> Callable[[], contextlib.AbstractContextManager[object]]:
    """Makes a context in which ``module`` has these values or functions instead of its own."""
    return lambda: mock.patch.multiple(module, **changes)


backgrounds, residual = ink._backgrounds, ink._residual
STEPS: dict[str, Callable[[], contextlib.AbstractContextManager[object]]] = {
    "the whole recipe": contextlib.nullcontext,
    "light taken as even": without(ink, _backgrounds=lambda page: backgrounds(page)[:1]),
    "ink taken as dark": without(
        ink, _residual=lambda page, paper, _: residual(page, paper, False)
    ),
    "specks kept": without(parts, SPECK=0, NEAR=99, BESIDE=99),
    "hairlines left": without(image, THINNEST=0),
    "nearest pixel, no area filter": without(cv2, INTER_AREA=cv2.INTER_NEAREST),
    "aspect not kept": without(
        image, _scaled=lambda ink, longer: cv2.resize(ink, (longer, longer))
    ),
    "centred by the box": without(image, _centred=whole_box),
}


def resized(file: bytes, *, inverted: bool) -> Picture:
    """The image shrunk to 28×28, and inverted if asked: no recipe at all."""
    grey = cv2.resize(decode(file), (28, 28), interpolation=cv2.INTER_AREA)
    return Picture(np.asarray(255 - grey if inverted else grey, np.uint8), "ok")


def measure_accuracy(half: int) -> None:
    """Print the table of accuracies."""
    classify = load(ROOT / "models/mnist/1").graph

    def score(read: Callable[[bytes], Picture], files: Files) -> str:
        if not files:
            return "–"
        pictures = np.stack([read(file).pixels for file, _ in files])
        digits = classify(pictures)[0].argmax(1).tolist()
        right = sum(found == label for found, (_, label) in zip(digits, files, strict=True))
        return f"{right / len(files):.1%}"

    random = np.random.default_rng(0)
    sets = [hand_drawn(half)] + [
        [(make(random, i % 10), i % 10) for i in range(DRAWN)] for make in (on_canvas, in_photo)
    ]
    print(f"| | hwd1000, half {half} ({len(sets[0])}) | canvas ({DRAWN}) | photo ({DRAWN}) |")
    print("| --- | ---: | ---: | ---: |")
    for name, changed in STEPS.items():
        with changed():
            print(f"| {name} | {' | '.join(score(image.read, files) for files in sets)} |")
    for name, inverted in (("resized only", False), ("resized and inverted", True)):
        scores = [score(partial(resized, inverted=inverted), files) for files in sets]
        print(f"| {name} | {' | '.join(scores)} |")


def sharpness(file: bytes) -> float:
    """The sharpness of the digit, or of what looks most like one; see ``transformer.ink``."""
    whole = decode(file)
    step = -(-max(whole.shape) // ink.LOOK)
    height, width = (side // step for side in whole.shape)
    page = ink._resized(whole[: height * step, : width * step], (width, height))
    return max((look.sharpness for look in ink._looks(page)), default=0)


def measure_status(half: int) -> None:
    """Print how many images have which status, and how sharp their digits are."""
    random = np.random.default_rng(1)
    sets = {
        f"hwd1000, half {half}": hand_drawn(half),
        "MNIST's test set, off centre": mnist(),
        "photo": [(in_photo(random, i % 10), i % 10) for i in range(DRAWN)],
        "photo of blank paper": [(in_photo(random, None), -1) for _ in range(DRAWN)],
        "two digits": [(two_digits(random, i % 10), i % 10) for i in range(DRAWN)],
    }
    print("| | images | ok | no_digit | multiple | sharpness: least, 1 %, 99 %, most |")
    print("| --- | ---: | ---: | ---: | ---: | --- |")
    for name, files in sets.items():
        if files:
            found = Counter(image.read(file).status for file, _ in files)
            counts = " | ".join(str(found[status]) for status in ("ok", "no_digit", "multiple"))
            sharp = np.percentile([sharpness(file) for file, _ in files], (0, 1, 99, 100))
            print(f"| {name} | {len(files)} | {counts} | {', '.join(f'{s:.1f}' for s in sharp)} |")


def timed() -> Iterator[tuple[str, bytes]]:
    """Names and files of the images that are timed."""
    random = np.random.default_rng(0)
    canvas = 255 - draw(random, 8, (280, 280), 12)
    rgb = np.dstack([canvas] * 3)
    yield "28×28 PNG in MNIST's format", encode(image.picture(canvas).pixels)
    yield "28×28 PNG, black on white", encode(cv2.resize(canvas, (28, 28)))
    yield "280×280 RGB PNG", encode(rgb)
    yield "280×280 RGBA PNG, transparent", encode(np.dstack([rgb * 0, 255 - canvas]))
    yield "640×480 JPEG", in_photo(random, 8)
    yield "4032×3024 JPEG", encode(cv2.resize(decode(in_photo(random, 8)), (4032, 3024)), "JPEG")


def median_time(function: Callable[[bytes], object], file: bytes) -> float:
    """Microseconds for one image: the median of 200 calls, or of as many as fit in a second."""
    times: list[float] = []
    while len(times) < 200 and sum(times) < 1:
        start = time.perf_counter()
        function(file)
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e6


def measure_time() -> None:
    """Print the table of times."""
    print("| | decoding by Pillow's reader, µs | decoding, µs | all, µs |")
    print("| --- | ---: | ---: | ---: |")
    for name, file in timed():
        with without(decode_module, decode_plain=lambda *_, **__: None)():
            times = [median_time(decode, file)]
        times += [median_time(decode, file), median_time(image.read, file)]
        print(f"| {name} | {' | '.join(f'{time:,.0f}' for time in times)} |")


if __name__ == "__main__":
    with in_a_line(ArtifactError, DataError):
        parser = flags(__doc__)
        parser.add_argument(
            "--half", type=int, choices=(0, 1), default=0, help="which half of hwd1000 (default 0)"
        )
        half = parser.parse_args().half
        measure_accuracy(half)
        print()
        measure_status(half)
        print()
        measure_time()
