"""Files that are not decoded: each is refused with its reason, and nothing else ever happens.

Pillow's warnings are ignored here because ``transformer.decode`` turns them off for the whole
process, which pytest undoes.
"""

import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL.PngImagePlugin import PngImageFile

from serving.errors import InvalidInput, NotAnImage, ServingError, TooLarge
from tests import programs
from tests.digits import draw, encode
from transformer.decode import decode

pytestmark = pytest.mark.filterwarnings("ignore:::PIL")

SEVEN = draw(7, 40)


def png_header(width: int, height: int) -> bytes:
    """A PNG of that size without its pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    data = b"IDAT" + zlib.compress(bytes(100))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
        for chunk in (header, data, b"IEND")
    )


def webp_header(width: int, height: int) -> bytes:
    """A lossless WebP of that size without its pixels."""
    bits = (width - 1) | (height - 1) << 14
    chunk = b"VP8L" + struct.pack("<IBI", 10, 0x2F, bits) + bytes(5)
    return b"RIFF" + struct.pack("<I", len(chunk) + 4) + b"WEBP" + chunk


def tiff_of_one_tile(side: int) -> bytes:
    """A TIFF of 64×64 pixels in one tile of side×side."""
    tags = [(256, 64), (257, 64), (258, 8), (259, 8), (262, 1), (277, 1)]
    tags += [(322, side), (323, side), (324, 8), (325, 8)]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\x00" + struct.pack("<IQH", 16, 0, len(tags)) + entries + bytes(4)


def frames(form: str, count: int, **options: Any) -> bytes:
    more = [draw((4, 1)[i % 2], 40).convert("RGB") for i in range(count - 1)]
    return encode(SEVEN.convert("RGB"), form, save_all=True, append_images=more, **options)


REFUSED: dict[str, tuple[Callable[[], bytes], type[ServingError], str]] = {
    "nothing": (lambda: b"", InvalidInput, "0 bytes"),
    "text": (lambda: b"this is no image", NotAnImage, "PNG, JPEG, WebP, BMP, GIF or TIFF"),
    "another format": (lambda: encode(SEVEN, "PPM"), NotAnImage, "PNG, JPEG"),
    "a sound": (lambda: b"RIFF\x24\x00\x00\x00WAVEfmt ", NotAnImage, "PNG, JPEG"),
    "a signature alone": (lambda: b"\x89PNG\r\n\x1a\n", InvalidInput, "PNG image is damaged"),
    "half a PNG": (lambda: encode(SEVEN)[:200], InvalidInput, "PNG image is damaged"),
    "half a JPEG": (lambda: encode(SEVEN, "JPEG")[:500], InvalidInput, "JPEG image is damaged"),
    "half a WebP": (lambda: encode(SEVEN, "WEBP")[:80], InvalidInput, "WEBP image is damaged"),
    "half a GIF": (lambda: encode(SEVEN, "GIF")[:300], InvalidInput, "GIF image is damaged"),
    "half a BMP": (lambda: encode(SEVEN, "BMP")[:1500], InvalidInput, "BMP image is damaged"),
    "half a TIFF": (lambda: encode(SEVEN, "TIFF")[:900], InvalidInput, "TIFF image is damaged"),
    "one pixel": (lambda: encode(draw(7, 1)), InvalidInput, "1×1 pixels; expected at least 8×8"),
    "narrow": (lambda: encode(SEVEN.resize((7, 90))), InvalidInput, "7×90 pixels"),
    "an animated GIF": (lambda: frames("GIF", 3), InvalidInput, "several frames; expected one"),
    "an animated PNG": (lambda: frames("PNG", 4), InvalidInput, "several frames"),
    "an animated WebP": (lambda: frames("WEBP", 2), InvalidInput, "several frames"),
    "a TIFF of two pages": (lambda: frames("TIFF", 2), InvalidInput, "several frames"),
    "a vast PNG": (lambda: png_header(50_000, 50_000), TooLarge, "50000×50000 pixels"),
    "a vast WebP": (lambda: webp_header(16_384, 16_384), TooLarge, "51,200,000 pixels"),
    "a TIFF of vast tiles": (lambda: tiff_of_one_tile(60_000), TooLarge, "3,600,000,000 pixels"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_is_refused_with_its_reason(name: str) -> None:
    make, error, reason = REFUSED[name]
    with pytest.raises(error, match=reason):
        decode(make())


def test_a_vast_picture_is_refused_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PngImageFile, "load", lambda _: pytest.fail("decoded"))
    with pytest.raises(TooLarge):
        decode(png_header(50_000, 50_000))


def test_the_limit_can_be_set() -> None:
    file = encode(SEVEN)
    assert decode(file, max_pixels=1600).size == 1600
    with pytest.raises(TooLarge, match="40×40 pixels; expected at most 1,599 in all"):
        decode(file, max_pixels=1599)


def test_pillow_does_not_warn() -> None:
    animation = frames("PNG", 2)
    start = animation.index(b"acTL") - 4
    control = animation[start : start + 20]
    files = [
        animation[:start] + control + animation[start:],  # "Invalid APNG"
        encode(SEVEN, "TIFF").replace(
            struct.pack("<HHI", 278, 4, 1), struct.pack("<HHI", 270, 2, 10**6)
        ),  # "Tag data larger than file"
        png_header(9_000, 9_000),  # "could be decompression bomb"
    ]
    program = f"""
from serving.errors import ServingError
from transformer.decode import decode
for file in {files!r}:
    try:
        decode(file, max_pixels=100_000_000)
    except ServingError as error:
        assert "Warning" not in repr(error.__cause__), repr(error.__cause__)
"""
    run = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", program],
        cwd=programs.ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.returncode, run.stderr) == (0, "")


FILES = [
    *(
        encode(SEVEN.convert(mode), form)
        for mode in ("L", "P", "RGBA")
        for form in ("PNG", "BMP", "GIF", "WEBP", "TIFF")
    ),
    *(encode(SEVEN.convert(mode), "TIFF", compression="tiff_lzw") for mode in ("1", "CMYK", "F")),
    *(encode(SEVEN, "JPEG", progressive=progressive) for progressive in (False, True)),
    *(frames(form, 2) for form in ("PNG", "GIF", "WEBP", "TIFF")),
]


def read_or_refuse(file: bytes) -> None:
    try:
        grey = decode(file, max_pixels=1_000_000)
    except ServingError:
        return
    assert grey.dtype == np.uint8
    assert grey.ndim == 2
    assert 0 < min(grey.shape) <= max(grey.shape) <= 1024


@given(
    start=st.sampled_from(
        [b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"BM", b"GIF89a", b"II*\x00"]
    ),
    rest=st.binary(max_size=300),
)
def test_any_bytes_are_read_or_refused(start: bytes, rest: bytes) -> None:
    read_or_refuse(start + rest)


@given(file=st.sampled_from(FILES), share=st.floats(0, 1))
def test_any_part_of_a_file_is_read_or_refused(file: bytes, share: float) -> None:
    read_or_refuse(file[: int(share * len(file))])


@given(
    file=st.sampled_from(FILES),
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=8),
    head=st.sampled_from([40, 200, 10**6]),
)
def test_any_damaged_file_is_read_or_refused(
    file: bytes, changes: list[tuple[float, int]], head: int
) -> None:
    damaged = bytearray(file)
    for place, value in changes:
        damaged[int(place * min(head, len(file)))] = value
    read_or_refuse(bytes(damaged))
