"""Files of more parts than a reader should go through are refused before it does."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from serving.errors import InvalidInput, TooLarge
from transformer.decode import MAX_RUNS, decode
from transformer.structure import MAX_EXIF, MAX_PARTS

IMAGE = Image.fromarray(np.arange(1024, dtype=np.uint8).reshape(32, 32))


def encoded(kind: str) -> bytes:
    file = io.BytesIO()
    IMAGE.save(file, kind)
    return file.getvalue()


def png(chunks: int) -> bytes:
    """With empty chunks of a kind that nobody knows."""
    data = encoded("PNG")
    empty = struct.pack(">I", 0) + b"teSt" + struct.pack(">I", zlib.crc32(b"teSt"))
    return data[:33] + empty * chunks + data[33:]


def jpeg(segment: bytes, count: int) -> bytes:
    """With segments before all others."""
    data = encoded("JPEG")
    return data[:2] + segment * count + data[2:]


def exif(count: int) -> bytes:
    return jpeg(b"\xff\xe1" + struct.pack(">H", 8 + 4) + b"Exif\0\0" + b"0000", count)


def tiff(strips: int, order: str = "<", *, big: bool = False) -> bytes:
    """Of 32×32 pixels, a row to a strip, but with as many offsets, one byte each."""
    tags = {256: 32, 257: 32, 258: 8, 259: 1, 262: 1, 277: 1, 278: 1, 279: 32}
    number = "Q" if big else "I"
    start = {"<": b"II", ">": b"MM"}[order] + struct.pack(f"{order}H", 43 if big else 42)
    start += struct.pack(f"{order}HHQ", 8, 0, 16) if big else struct.pack(f"{order}I", 8)
    start += struct.pack(f"{order}{'Q' if big else 'H'}", len(tags) + 1)
    end = len(start) + (len(tags) + 1) * (20 if big else 12) + 8
    entries = [(tag, 4, 1, value) for tag, value in tags.items()] + [(273, 1, strips, end)]
    for tag, kind, count, value in sorted(entries):
        start += struct.pack(f"{order}HH{number}", tag, kind, count)
        short = kind == 4 and big and order == ">"
        start += struct.pack(f"{order}{number}", value << 32 if short else value)
    return start.ljust(end, b"\0") + b"\x08" * strips


def bmp(width: int) -> bytes:
    """Of eight rows, each a run of one pixel."""
    data, palette = b"\x01\x01\x00\x00" * 8 + b"\x00\x01", bytes(4 * 256)
    head = struct.pack("<IiiHHIIiiII", 40, width, 8, 1, 8, 1, len(data), 0, 0, 256, 0)
    at = 14 + len(head) + len(palette)
    return b"BM" + struct.pack("<IHHI", at + len(data), 0, 0, at) + head + palette + data


@pytest.mark.parametrize(
    ("file", "error"),
    [
        (png(MAX_PARTS), "PNG image has more than 65,536 chunks"),
        (jpeg(b"\xff\xec\x00\x02", MAX_PARTS), "JPEG image has more than 65,536 markers"),
        (jpeg(b"\xff\xd8", MAX_PARTS), "JPEG image has more than 65,536 markers"),
        (jpeg(b"\xff", MAX_PARTS), "JPEG image has more than 65,536 markers"),
        (encoded("JPEG")[:4] + b"\0\2" + bytes(2 * MAX_PARTS), "has more than 65,536 markers"),
        (exif(MAX_EXIF + 1), "JPEG image has more than 16 Exif segments"),
        (tiff(MAX_PARTS + 1), "TIFF image has more than 65,536 tiles"),
        (tiff(MAX_PARTS + 1, ">"), "TIFF image has more than 65,536 tiles"),
        (tiff(MAX_PARTS + 1, big=True), "TIFF image has more than 65,536 tiles"),
        (tiff(MAX_PARTS + 1, ">", big=True), "TIFF image has more than 65,536 tiles"),
        (bmp(MAX_RUNS // 8 + 1), "expected at most 4,000,000 in all"),
    ],
    ids=[
        *("chunks", "empty segments", "markers", "fill bytes", "bytes between", "Exif"),
        *("strips", "strips, MM", "strips, big", "strips, big, MM", "runs"),
    ],
)
def test_a_file_of_too_many_parts_is_too_large(file: bytes, error: str) -> None:
    with pytest.raises(TooLarge, match=error):
        decode(file)


@pytest.mark.parametrize(
    "file",
    [
        png(100),
        jpeg(b"\xff\xec\x00\x02", 100),
        jpeg(b"\xff", 100),
        exif(MAX_EXIF - 1),
        bmp(MAX_RUNS // 8),
        *[encoded(kind) for kind in ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WebP")],
    ],
)
def test_a_file_of_fewer_is_read(file: bytes) -> None:
    assert decode(file).ndim == 2


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
@pytest.mark.parametrize("length", [9, 20, 40])
def test_a_file_that_is_cut_off_is_damaged(kind: str, length: int) -> None:
    with pytest.raises(InvalidInput, match="damaged or truncated"):
        decode(encoded(kind)[:length])
