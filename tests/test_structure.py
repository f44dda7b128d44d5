"""Files of more parts than a reader should go through are refused before it does."""

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from serving.errors import InvalidInput, TooLarge
from transformer.decode import MAX_EXIF_BYTES, MAX_RUN_BYTES, MAX_RUNS, decode
from transformer.structure import MAX_EXIF, MAX_PACKED, MAX_PARTS, MAX_SCANS, SCAN

IMAGE = Image.fromarray(np.arange(1024, dtype=np.uint8).reshape(32, 32))


def encoded(kind: str, mode: str = "L", **options: Any) -> bytes:
    file = io.BytesIO()
    IMAGE.convert(mode).save(file, kind, **options)
    return file.getvalue()


def png(chunks: int, kind: bytes = b"teSt", content: bytes = b"") -> bytes:
    """With chunks before all others, by default empty and of a kind that nobody knows."""
    data = encoded("PNG")
    checksum = struct.pack(">I", zlib.crc32(kind + content))
    chunk = struct.pack(">I", len(content)) + kind + content + checksum
    return data[:33] + chunk * chunks + data[33:]


PROFILE = b"x\0\0" + zlib.compress(bytes(2**20))


def gif(blocks: bytes) -> bytes:
    """With blocks before its image."""
    data = encoded("GIF")
    at = data.index(b",", 13 + 3 * 256)
    return data[:at] + blocks + data[at:]


def comments(count: int) -> bytes:
    return b"!\xfe\x01x\0" * count


def jpeg(segment: bytes, count: int) -> bytes:
    """With segments before all others."""
    data = encoded("JPEG")
    return data[:2] + segment * count + data[2:]


def segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">HH", marker, len(content) + 2) + content


def scans(count: int, between: bytes = b"") -> bytes:
    """A progressive JPEG whose last scan is repeated, to so many in all."""
    data = encoded("JPEG", progressive=True)
    last, end = data.rindex(SCAN), data.rindex(b"\xff\xd9")
    return data[:last] + (between + data[last:end]) * (count - data.count(SCAN) + 1) + data[end:]


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


def fractions(count: int, kind: int = 5) -> bytes:
    """A TIFF whose resolution is so many."""
    file = io.BytesIO()
    IMAGE.save(file, "TIFF", dpi=(72, 72))
    data = file.getvalue()
    one = struct.pack("<HHI", 282, 5, 1)
    at = data.index(one)
    entry = struct.pack("<HHII", 282, kind, count, len(data))
    return data[:at] + entry + data[at + 12 :] + struct.pack("<II", 72, 1) * count


def bmp(width: int, ends: int = 0) -> bytes:
    """Of eight rows, each a run of one pixel, with so many ends of rows before them."""
    data, palette = bytes(2 * ends) + b"\x01\x01\x00\x00" * 8 + b"\x00\x01", bytes(4 * 256)
    head = struct.pack("<IiiHHIIiiII", 40, width, 8, 1, 8, 1, len(data), 0, 0, 256, 0)
    at = 14 + len(head) + len(palette)
    return b"BM" + struct.pack("<IHHI", at + len(data), 0, 0, at) + head + palette + data


@pytest.mark.parametrize(
    ("file", "error"),
    [
        (png(MAX_PARTS), "PNG image has more than 65,536 chunks"),
        (png(MAX_PACKED + 1, b"iCCP", PROFILE), "PNG image has more than 64 profiles and texts"),
        (png(MAX_PACKED + 1, b"zTXt", PROFILE), "PNG image has more than 64 profiles and texts"),
        (gif(comments(MAX_PARTS)), "GIF image has more than 65,536 blocks"),
        (gif(b"!\xfe" + b"\x01x" * MAX_PARTS + b"\0"), "GIF image has more than 65,536 blocks"),
        (gif(bytes(MAX_PARTS)), "GIF image has more than 65,536 blocks"),
        (fractions(MAX_PARTS + 1), "TIFF image has more than 65,536 .*fractions"),
        (fractions(MAX_PARTS + 1, 10), "TIFF image has more than 65,536 .*fractions"),
        (jpeg(b"\xff\xec\x00\x02", MAX_PARTS), "JPEG image has more than 65,536 markers"),
        (jpeg(b"\xff\xd8", MAX_PARTS), "JPEG image has more than 65,536 markers"),
        (jpeg(b"\xff", MAX_PARTS), "JPEG image has more than 65,536 markers"),
        (encoded("JPEG")[:4] + b"\0\2" + bytes(2 * MAX_PARTS), "has more than 65,536 markers"),
        (jpeg(segment(0xFFDB, bytes(65_000)), 4), "65,536 markers, or entries in tables"),
        (jpeg(segment(0xFFDE, bytes(65_000)), 4), "65,536 markers, or entries in tables"),
        (jpeg(segment(0xFFED, b"8BIM" * 16_000), 5), "65,536 markers, or entries in tables"),
        (scans(MAX_SCANS + 1), "JPEG image has more than 24 scans; save it with fewer"),
        (scans(MAX_SCANS + 1, between=segment(0xFFFE, b"\xff\xd9")), "more than 24 scans"),
        (scans(MAX_SCANS + 1, between=b"\xff\xfe\0\0\xff\xd0"), "more than 24 scans"),
        (scans(MAX_SCANS + 1, between=b"\xff" * 1_000_000), "more than 24 scans"),
        (scans(MAX_SCANS + 1, between=b"\xff\xfe\0\2" * MAX_PARTS), "65,536 markers"),
        (exif(MAX_EXIF + 1), "JPEG image has more than 16 Exif segments"),
        (tiff(MAX_PARTS + 1), "TIFF image has more than 65,536 tiles"),
        (tiff(MAX_PARTS + 1, ">"), "TIFF image has more than 65,536 tiles"),
        (tiff(MAX_PARTS + 1, big=True), "TIFF image has more than 65,536 tiles"),
        (tiff(MAX_PARTS + 1, ">", big=True), "TIFF image has more than 65,536 tiles"),
        (bmp(MAX_RUNS // 8 + 1), "expected at most 4,000,000 in all"),
        (bmp(8, MAX_RUN_BYTES // 2), "expected at most 9,048,576; save it uncompressed"),
    ],
    ids=[
        *("chunks", "profiles", "texts", "comments", "parts of a comment", "bytes of a GIF"),
        *(
            "fractions",
            "signed fractions",
            "empty segments",
            "markers",
            "fill bytes",
            "bytes between",
            "quantization tables",
            "components",
            "Photoshop's resources",
            "scans",
            "scans, between them an end in a comment",
            "scans, between them others' markers",
            "scans, between them fill bytes",
            "scans, between them comments",
            "Exif",
        ),
        *("strips", "strips, MM", "strips, big", "strips, big, MM", "runs", "empty runs"),
    ],
)
def test_a_file_of_too_many_parts_is_too_large(file: bytes, error: str) -> None:
    with pytest.raises(TooLarge, match=error):
        decode(file)


@pytest.mark.parametrize(
    "file",
    [
        png(100),
        png(1) + bytes(12 * MAX_PARTS),
        png(1, b"iCCP", PROFILE),
        gif(comments(100)),
        encoded("GIF") + bytes(2 * MAX_PARTS),
        gif(b"!\xfe" + (b"\xff" + bytes(255)) * MAX_PARTS + b"\0"),
        fractions(1),
        jpeg(b"\xff\xec\x00\x02", 100),
        jpeg(b"\xff", 100),
        jpeg(segment(0xFFED, b"Photoshop 3.0\0" + b"8BIM\4\4" + bytes(6)), 100),
        scans(MAX_SCANS),
        scans(MAX_SCANS) + bytes(2) + (SCAN + b"\0\2") * 100,
        scans(MAX_SCANS, between=b"\xff" * 1_000_000) + SCAN * 100,
        encoded("JPEG") + SCAN * 100,
        exif(MAX_EXIF - 1),
        bmp(MAX_RUNS // 8, 100),
        *[encoded(kind) for kind in ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WebP")],
    ],
)
def test_a_file_of_fewer_is_read(file: bytes) -> None:
    assert decode(file).ndim == 2


@pytest.mark.parametrize(("mode", "count"), [("L", 6), ("RGB", 10), ("CMYK", 18)])
def test_a_usual_progressive_jpeg_is_read(mode: str, count: int) -> None:
    file = encoded("JPEG", mode, progressive=True)
    assert file.count(SCAN) == count
    assert decode(file).ndim == 2


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
@pytest.mark.parametrize("length", [9, 20, 40])
def test_a_file_that_is_cut_off_is_damaged(kind: str, length: int) -> None:
    with pytest.raises(InvalidInput, match="damaged or truncated"):
        decode(encoded(kind)[:length])


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "I;16"])
def test_a_png_whose_pixels_have_another_checksum_is_damaged(mode: str) -> None:
    """Whatever a flipped bit makes of a digit."""
    image = Image.new("L", (64, 64), 255)
    image.paste(0, (20, 10, 44, 54))
    file = io.BytesIO()
    image.convert(mode).save(file, "PNG")
    data = file.getvalue()
    start = data.index(b"IDAT") + 4
    for at in range(start, start + int.from_bytes(data[start - 8 : start - 4], "big") + 4):
        with pytest.raises(InvalidInput, match="damaged"):
            decode(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])


def test_metadata_of_megabytes_are_not_looked_at() -> None:
    exif = Image.Exif()
    exif[274], exif[271] = 6, "x" * MAX_EXIF_BYTES
    file = io.BytesIO()
    IMAGE.save(file, "PNG", exif=exif)
    assert np.array_equal(decode(file.getvalue()), np.asarray(IMAGE))
