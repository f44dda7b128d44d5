"""Image files of every mode and format to grey, and what is refused.

Pillow's warnings are ignored here because ``transformer.decode`` turns them off for the whole
process, which pytest undoes.
"""

import io
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from serving.errors import InvalidInput
from tests.digits import draw, encode
from transformer.decode import decode

pytestmark = pytest.mark.filterwarnings("ignore:::PIL")

SEVEN = draw(7, 40)
GREY = np.asarray(SEVEN)

EXACT = {
    "L": (SEVEN, "PNG BMP GIF WEBP TIFF"),
    "LA": (SEVEN.convert("LA"), "PNG WEBP TIFF"),
    "P": (SEVEN.convert("P"), "PNG BMP GIF WEBP TIFF"),
    "RGB": (SEVEN.convert("RGB"), "PNG BMP WEBP TIFF"),
    "RGBA": (SEVEN.convert("RGBA"), "PNG BMP WEBP TIFF"),
    "CMYK": (SEVEN.convert("CMYK"), "TIFF"),
    "YCbCr": (Image.merge("YCbCr", [SEVEN, *[Image.new("L", SEVEN.size, 128)] * 2]), "TIFF"),
    "LAB": (Image.merge("LAB", [SEVEN] * 3), "TIFF"),
    "I;16": (Image.fromarray(GREY.astype(np.uint16) * 257), "PNG TIFF"),
    "I;16B": (Image.fromarray(GREY.astype(">u2") * 257), "PNG TIFF"),
    "I": (Image.fromarray(GREY.astype(np.int32)), "TIFF"),
    "F": (Image.fromarray(GREY.astype(np.float32) / 255), "TIFF"),
}
"""One drawing in the modes that hold its greys, and the formats that hold the mode."""


def lossless(image: Image.Image, form: str) -> bytes:
    return encode(image, form, **({"lossless": True} if form == "WEBP" else {}))


@pytest.mark.parametrize(
    ("mode", "form"), [(mode, form) for mode in EXACT for form in EXACT[mode][1].split()]
)
def test_a_lossless_file_keeps_its_greys(mode: str, form: str) -> None:
    assert np.array_equal(decode(lossless(EXACT[mode][0], form)), GREY)


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("form", ["JPEG", "WEBP"])
def test_a_lossy_file_keeps_its_greys_nearly(mode: str, form: str) -> None:
    assert np.abs(decode(encode(SEVEN.convert(mode), form)).astype(int) - GREY).mean() < 4


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_a_compressed_tiff_is_read(compression: str) -> None:
    assert np.array_equal(decode(encode(SEVEN, "TIFF", compression=compression)), GREY)


TURNS: dict[int, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
    1: lambda upright: upright,
    2: np.fliplr,
    3: lambda upright: np.rot90(upright, 2),
    4: np.flipud,
    5: np.transpose,
    6: lambda upright: np.rot90(upright, 1),
    7: lambda upright: np.rot90(upright, 2).T,
    8: lambda upright: np.rot90(upright, -1),
}
"""How a camera that was held so stores an upright scene, by EXIF orientation."""


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", TURNS)
def test_the_picture_is_upright(form: str, orientation: int) -> None:
    upright = GREY[:30]  # not square
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(TURNS[orientation](upright)))
    found = decode(encode(stored, form, exif=exif))
    assert found.shape == upright.shape
    assert np.abs(found.astype(int) - upright).mean() < 4


@pytest.mark.parametrize("exif", [b"Exif\x00\x00MM", b"Exif\x00\x00nonsense", b"Exif\x00\x00"])
@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_damaged_metadata_do_not_matter(form: str, exif: bytes) -> None:
    assert np.abs(decode(encode(SEVEN, form, exif=exif)).astype(int) - GREY).mean() < 4


def with_alpha(grey: NDArray[np.uint8] | int, alpha: NDArray[np.uint8]) -> Image.Image:
    tone = np.broadcast_to(np.uint8(grey), alpha.shape)
    return Image.fromarray(np.dstack([tone, alpha]), "LA")


PAGE_CORNERS = np.full(GREY.shape, 255, np.uint8)
PAGE_CORNERS[:6, :6] = PAGE_CORNERS[-6:, -6:] = 0

TRANSPARENT = {
    "black ink": (with_alpha(0, 255 - GREY), GREY),
    "white ink": (with_alpha(255, 255 - GREY), 255 - GREY),
    "faint black ink": (with_alpha(0, (255 - GREY) // 2), 255 - (255 - GREY) // 2),
    "white page with clear corners": (with_alpha(GREY, PAGE_CORNERS), GREY),
    "black page with clear corners": (with_alpha(255 - GREY, PAGE_CORNERS), 255 - GREY),
}


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
@pytest.mark.parametrize("name", TRANSPARENT)
def test_what_is_transparent_is_the_opposite_of_the_ink(name: str, mode: str) -> None:
    image, expected = TRANSPARENT[name]
    found = decode(encode(image.convert(mode)))
    assert np.abs(found.astype(int) - expected).max() <= 1


def test_a_palette_may_hold_the_transparency() -> None:
    drawing = Image.fromarray((GREY < 128).astype(np.uint8), "P")
    drawing.putpalette([0, 0, 0, 0, 0, 0])
    expected = np.where(GREY < 128, 0, 255)
    assert np.array_equal(decode(encode(drawing, "PNG", transparency=0)), expected)
    assert np.array_equal(decode(encode(drawing, "PNG", transparency=b"\x00\xff")), expected)
    assert np.array_equal(decode(encode(drawing, "GIF", transparency=0)), expected)


def test_premultiplied_transparency_is_read() -> None:
    image, expected = TRANSPARENT["white ink"]
    for mode in ("La", "RGBa"):
        base = image if mode == "La" else image.convert("RGBA")
        tiff = base.convert(mode)
        # Pillow writes no premultiplied files: change the tag ExtraSamples from 2 to 1.
        file = encode(base, "TIFF").replace(
            struct.pack("<HHII", 338, 3, 1, 2), struct.pack("<HHII", 338, 3, 1, 1)
        )
        assert Image.open(io.BytesIO(file)).mode in (tiff.mode, "RGBA")
        assert np.abs(decode(file).astype(int) - expected).max() <= 1


def test_a_page_that_shows_nothing_is_even() -> None:
    assert np.ptp(decode(encode(with_alpha(GREY, np.zeros_like(GREY))))) == 0


@pytest.mark.parametrize(
    ("pixels", "expected"),
    [
        pytest.param(GREY.astype(np.uint16) * 16, GREY * (16 * 255 / 4095), id="12 bits"),
        pytest.param((GREY > 127).astype(np.int32), (GREY > 127) * 255, id="a mask of 0 and 1"),
        pytest.param(GREY.astype(np.int32) - 255, GREY, id="negative"),
        pytest.param(GREY.astype(np.float32), GREY, id="floats to 255"),
        pytest.param(GREY.astype(np.float32) * 2**20, GREY * (255 / 256), id="large floats"),
        pytest.param(np.full((9, 9), 3, np.float32), np.full((9, 9), 255), id="even"),
        pytest.param(np.zeros((9, 9), np.uint16), np.zeros((9, 9)), id="black"),
    ],
)
def test_deep_pixels_are_scaled_not_clipped(
    pixels: NDArray[Any], expected: NDArray[np.float64]
) -> None:
    assert np.abs(decode(encode(Image.fromarray(pixels), "TIFF")) - expected).max() <= 2


def test_deep_noise_on_a_blank_page_is_not_stretched() -> None:
    noise = np.random.default_rng(0).integers(40_000, 40_050, (30, 30), np.uint16)
    assert np.ptp(decode(encode(Image.fromarray(noise)))) <= 1


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_pixels_that_are_no_numbers_are_refused(value: float) -> None:
    pixels = GREY.astype(np.float32)
    pixels[3, 3] = value
    with pytest.raises(InvalidInput, match="finite"):
        decode(encode(Image.fromarray(pixels), "TIFF"))


@pytest.mark.parametrize(
    ("mode", "form"),
    [("L", "PNG"), ("L", "JPEG"), ("CMYK", "JPEG"), ("RGBA", "WEBP"), ("P", "GIF"), ("F", "TIFF")],
)
def test_a_large_picture_is_reduced(mode: str, form: str) -> None:
    big = SEVEN.resize((2000, 1600))
    found = decode(encode(big.convert(mode), form))
    assert found.shape == (800, 1000)
    assert np.abs(found.astype(int) - np.asarray(big.resize((1000, 800)))).mean() < 4
