"""Pictures of digits for tests: drawn by code, and the real data sets where they are at hand."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from benchmarks import image as benchmark
from benchmarks.data import HWD1000, MNIST
from training.data import TEST_IMAGES, TEST_LABELS, read_idx

NO_MNIST = f"no MNIST at {MNIST}, where `python -m training train` puts it"
NO_HWD1000 = f"no scans at {HWD1000}"
needs_mnist = pytest.mark.skipif(not MNIST.exists(), reason=NO_MNIST)

Stroke = list[tuple[float, float]]
"""Points on a square of 1×1."""

STROKES: dict[int, list[Stroke]] = {
    1: [[(0.5, 0.15), (0.5, 0.85)]],
    4: [[(0.35, 0.15), (0.28, 0.55), (0.72, 0.55)], [(0.65, 0.2), (0.62, 0.88)]],
    7: [[(0.25, 0.2), (0.75, 0.2), (0.58, 0.5), (0.46, 0.85)]],
}


def draw(digit: int, size: int = 280, *, ink: int = 0, paper: int = 255) -> Image.Image:
    """A digit drawn with a round pen."""
    return draw_strokes(STROKES[digit], size, ink=ink, paper=paper)


def draw_strokes(
    strokes: list[Stroke], size: int = 280, *, ink: int = 0, paper: int = 255
) -> Image.Image:
    """Lines from point to point, drawn with a round pen."""
    scale = 4
    image = Image.new("L", (size * scale, size * scale), paper)
    pen = ImageDraw.Draw(image)
    width = round(size * scale * 0.07)
    for stroke in strokes:
        points = [(x * size * scale, y * size * scale) for x, y in stroke]
        pen.line(points, fill=ink, width=width, joint="curve")
        for x, y in (points[0], points[-1]):
            pen.ellipse((x - width / 2, y - width / 2, x + width / 2, y + width / 2), fill=ink)
    return image.resize((size, size), Image.Resampling.BOX)


def encode(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    """The image as a file."""
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def mnist_test_set() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The 10,000 test images, uint8 [10000, 28, 28], and their labels; skips where they are not."""
    if not MNIST.exists():
        pytest.skip(NO_MNIST)
    return read_idx(MNIST / TEST_IMAGES).numpy(), read_idx(MNIST / TEST_LABELS).numpy()


def hand_drawn(half: int) -> benchmark.Files:
    """Files and labels of one half (0 or 1) of hwd1000; skips where it is not at hand."""
    return benchmark.hand_drawn(half) or pytest.skip(NO_HWD1000)


def write_uploads(folder: Path) -> Path:
    """A folder as users' images come: 24 drawn ones, fours and sevens."""
    folder.mkdir()
    rows = ["image,label,source"]
    for index in range(24):
        digit = (1, 4, 7)[index % 3]
        (folder / f"{index}.png").write_bytes(encode(draw(digit, 60 + index)))
        rows.append(f"{index}.png,{digit},scan")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return folder
