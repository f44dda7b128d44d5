"""The recipe: what the model sees of a digit."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image, ImageDraw

from benchmarks.data import MNIST
from serving.errors import NotAnImage
from tests.digits import draw, encode, needs_mnist
from tests.drawings import Grey, drawn, is_like, placed
from training.data import read_idx
from transformer.image import Picture, picture, read


@pytest.mark.parametrize("digit", [1, 4, 7])
@pytest.mark.parametrize("size", [28, 50, 280, 1500])
def test_the_picture_is_mnists(digit: int, size: int) -> None:
    pixels, status = picture(drawn(digit, size))
    assert pixels.shape == (28, 28)
    assert pixels.dtype == np.uint8
    assert status == "ok"
    rows, columns = np.nonzero(pixels)
    assert max(np.ptp(rows), np.ptp(columns)) + 1 == 20
    for axis in (0, 1):
        mass = pixels.sum(axis)
        assert mass @ np.arange(28) / mass.sum() == pytest.approx(14, abs=0.55)
    assert pixels.max() >= 254


IN_FORMAT: dict[str, Callable[[Image.Image], bytes]] = {
    "PNG": lambda image: encode(image, "PNG"),
    "BMP": lambda image: encode(image, "BMP"),
    "GIF": lambda image: encode(image, "GIF"),
    "TIFF": lambda image: encode(image, "TIFF"),
    "WebP": lambda image: encode(image, "WEBP", lossless=True),
    "RGB": lambda image: encode(image.convert("RGB")),
    "RGBA": lambda image: encode(image.convert("RGBA")),
    "palette": lambda image: encode(image.convert("P")),
    "16 bits": lambda image: encode(Image.fromarray(np.asarray(image).astype(np.uint16) * 257)),
    "float": lambda image: encode(Image.fromarray(np.asarray(image) / np.float32(255)), "TIFF"),
}


@pytest.mark.parametrize("digit", [1, 4, 7])
@pytest.mark.parametrize("form", IN_FORMAT)
def test_what_is_in_mnists_format_is_not_changed(form: str, digit: int) -> None:
    pixels = picture(drawn(digit)).pixels
    found = read(IN_FORMAT[form](Image.fromarray(pixels)))
    assert found.status == "ok"
    assert np.array_equal(found.pixels, pixels)


@needs_mnist
@pytest.mark.parametrize("name", ["train", "t10k"])
def test_mnists_images_are_not_changed(name: str) -> None:
    for pixels in read_idx(MNIST / f"{name}-images-idx3-ubyte.gz").numpy():
        for found in (picture(pixels), picture(255 - pixels)):
            assert found.status == "ok"
            assert np.array_equal(found.pixels, pixels)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda pixels: np.roll(pixels, 3, 1), id="not centred"),
        pytest.param(lambda pixels: np.roll(pixels, 1, 1), id="a pixel too far to the right"),
        pytest.param(lambda pixels: np.roll(pixels, 1, 0), id="a pixel too low"),
        pytest.param(lambda pixels: 255 - pixels, id="dark on light"),
        pytest.param(lambda pixels: pixels // 2, id="faint"),
        pytest.param(lambda pixels: np.pad(pixels, 3), id="larger"),
        pytest.param(lambda pixels: np.maximum(pixels, 40), id="on grey"),
    ],
)
def test_what_is_nearly_in_mnists_format_is_brought_to_it(change: Callable[[Grey], Grey]) -> None:
    pixels = picture(drawn()).pixels
    changed = change(pixels)
    found = picture(changed)
    assert not np.array_equal(found.pixels, changed)
    assert is_like(found, pixels)


def ring(side: int, ink: int) -> Grey:
    """A picture in MNIST's format but for its size and ink: a ring, centred at pixel 14."""
    pixels = np.zeros((28, 28), np.uint8)
    start, end = 14 - side // 2, 14 + side - side // 2
    pixels[start:end, start:end] = ink
    pixels[start + 2 : end - 2, start + 2 : end - 2] = 0
    return pixels


@pytest.mark.parametrize(
    ("side", "ink", "is_mnists"),
    [
        (18, 255, False), (19, 255, True), (20, 255, True), (21, 255, False),
        (20, 254, True), (20, 253, False),
    ],
)  # fmt: skip
def test_mnists_format_has_a_side_of_19_or_20_pixels_and_full_ink(
    side: int, ink: int, is_mnists: bool
) -> None:
    pixels = ring(side, ink)
    for shown in (pixels, 255 - pixels):
        assert np.array_equal(picture(shown).pixels, pixels) is is_mnists


WRITTEN = {
    "PNG": ["1", "L", "LA", "P", "RGB", "RGBA"],
    "BMP": ["1", "L", "P", "RGB", "RGBA"],
    "GIF": ["1", "L", "LA", "P", "RGB", "RGBA"],
    "JPEG": ["1", "L", "RGB", "CMYK", "YCbCr"],
    "WEBP": ["L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"],
    "TIFF": ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I", "F"],
}


@pytest.mark.parametrize(
    ("form", "mode"), [(form, mode) for form in WRITTEN for mode in WRITTEN[form]]
)
def test_a_digit_is_the_same_in_every_mode_and_format(form: str, mode: str) -> None:
    assert is_like(read(encode(draw(4).convert(mode), form)), drawn())


def test_a_digit_is_the_same_in_every_orientation() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # held so that the camera's right is up
    turned = draw(4).transpose(Image.Transpose.ROTATE_90)
    assert is_like(read(encode(turned, "JPEG", exif=exif)), drawn())


@pytest.mark.parametrize("at", [(0, 0), (7, 31), (120, 220)])
def test_the_place_on_the_page_does_not_matter(at: tuple[int, int]) -> None:
    assert is_like(picture(placed(drawn(), at=at)), drawn())


@pytest.mark.parametrize("size", [30, 60, 100, 900, 3000])
def test_the_size_of_the_picture_does_not_matter(size: int) -> None:
    assert is_like(picture(drawn(size=size)), drawn(), within=10)


@pytest.mark.parametrize(
    ("ink", "paper"), [(0, 255), (255, 0), (200, 255), (255, 200), (90, 20), (0, 20), (128, 100)]
)
def test_neither_colour_nor_polarity_matter(ink: int, paper: int) -> None:
    assert is_like(picture(np.asarray(draw(4, ink=ink, paper=paper))), drawn())


@pytest.mark.parametrize("ink", [0, 255])
def test_the_page_may_be_transparent(ink: int) -> None:
    drawing = Image.new("RGBA", (280, 280), (ink, ink, ink, 0))
    drawing.putalpha(draw(4, ink=255, paper=0))
    assert is_like(read(encode(drawing)), drawn())


@pytest.mark.parametrize("sides", [(1, 1, 1, 1), (1, 0, 0, 0), (0, 0, 0, 1)])
@pytest.mark.parametrize("digit", [4, 7])
def test_the_digit_may_touch_the_border(digit: int, sides: tuple[int, int, int, int]) -> None:
    page = drawn(digit)
    rows, columns = np.nonzero(page < 128)
    box = [rows.min(), rows.max() + 1, columns.min(), columns.max() + 1]
    top, bottom, left, right = (
        at if cut else end for at, end, cut in zip(box, (0, 280, 0, 280), sides, strict=True)
    )
    assert is_like(picture(page[top:bottom, left:right]), page)


@pytest.mark.parametrize("width", [1, 2, 4])
def test_a_hairline_is_thickened(width: int) -> None:
    image = Image.new("L", (600, 600), 255)
    pen = ImageDraw.Draw(image)
    pen.line([(150, 120), (430, 120), (300, 480)], fill=0, width=width)
    stroke = picture(np.asarray(image)).pixels[14] > 127
    assert 2 <= np.count_nonzero(stroke) <= 3


@pytest.mark.parametrize("turn", range(4))
def test_ink_that_is_nearly_all_at_one_end_stays_in_the_picture(turn: int) -> None:
    page = np.full((280, 280), 255, np.uint8)
    page[40:90, 90:190] = 0
    page[90:240, 135:145] = 0
    pixels = np.rot90(picture(np.rot90(page, turn).copy()).pixels, -turn)
    assert np.ptp(np.flatnonzero(pixels.any(1))) + 1 == 20


def test_a_file_that_is_no_image_is_refused() -> None:
    with pytest.raises(NotAnImage, match="begin with b'iVBORw0KGgo='$"):
        read(b"iVBORw0KGgo=")


def is_picture(found: Picture) -> bool:
    return (
        found.pixels.shape == (28, 28)
        and found.pixels.dtype == np.uint8
        and found.status in ("ok", "no_digit", "multiple")
        and (found.status == "no_digit") == (not found.pixels.any())
    )


@pytest.mark.parametrize("digit", [1, 4, 7])
@pytest.mark.parametrize("size", [28, 280])
def test_a_picture_of_a_picture_is_the_same(digit: int, size: int) -> None:
    pixels = picture(drawn(digit, size)).pixels
    assert np.array_equal(picture(pixels).pixels, pixels)


SIDES = st.one_of(st.integers(1, 40), st.sampled_from([255, 256, 257, 300, 1024]))


@given(hnp.arrays(np.uint8, st.tuples(st.integers(1, 40), SIDES)))
def test_any_pixels_give_a_picture(pixels: Grey) -> None:
    assert is_picture(picture(pixels))
    assert is_picture(picture(np.ascontiguousarray(pixels.T)))


@given(
    pieces=st.lists(
        st.tuples(*[st.integers(0, 299)] * 4, st.integers(0, 255), st.integers(1, 60)), max_size=6
    ),
    paper=st.integers(0, 255),
)
def test_any_drawing_gives_a_picture(pieces: list[Any], paper: int) -> None:
    image = Image.new("L", (300, 300), paper)
    for x, y, u, v, ink, width in pieces:
        ImageDraw.Draw(image).line([(x, y), (u, v)], fill=ink, width=width)
    assert is_picture(read(encode(image, "BMP")))
