"""Checks the parts of an image file, before Pillow goes through them one by one.

A few megabytes may hold millions of parts, each of which costs Pillow microseconds, memory or both.
"""

import struct
import zlib
from collections.abc import Iterator

from PIL.JpegImagePlugin import MARKER

from serving.errors import TooLarge

MAX_PARTS = 65_536
"""Most chunks of a PNG, markers of a JPEG before its pixels, tiles or strips of a TIFF, blocks of a
GIF, or fractions in a tag of a TIFF."""
MAX_PACKED = 64
"""Most compressed profiles and texts of a PNG: Pillow inflates each to up to a megabyte."""
MAX_EXIF = 16
"""Most Exif segments of a JPEG: at each, Pillow joins all so far. A photo has one."""

_START_OF_SCAN, _APP1 = 0xFFDA, 0xFFE1
_STRIP_OFFSETS, _TILE_OFFSETS = 273, 324
_FRACTIONS = 5, 10
"""Types of tags whose values are fractions, unsigned and signed."""
_EXTENSION, _IMAGE, _TRAILER = b"!,;"
"""First bytes of a GIF's blocks; nothing behind the trailer is read."""


def check_parts(data: bytes, kind: str | None) -> None:
    """Check that a file in the format ``kind``, as Pillow names it, does not have too many parts.

    Raises:
        TooLarge: it has.
        struct.error, IndexError: it is truncated.
    """
    match kind:
        case "GIF":
            parts, name = _blocks(data), "blocks"
        case "PNG":
            parts, name = _count_chunks(data), "chunks"
        case "JPEG":
            parts, name = _markers(data), "markers"
        case "TIFF":
            parts, name = _tiles(data), "tiles, or fractions in a tag"
        case _:
            return
    if parts > MAX_PARTS:
        raise TooLarge(f"the {kind} image has more than {MAX_PARTS:,} {name}")


def check_sums(png: bytes) -> None:
    """Check the checksums of a PNG's pixels, which Pillow does not.

    Raises:
        ValueError: one is wrong.
    """
    view = memoryview(png)
    for kind, start, end in _chunks(png):
        if kind != b"IDAT":
            continue
        if zlib.crc32(view[start + 4 : end - 4]).to_bytes(4, "big") != png[end - 4 : end]:
            raise ValueError("a chunk has another checksum")


def _chunks(png: bytes) -> Iterator[tuple[bytes, int, int]]:
    """The kind of each chunk, and where it begins and ends; nothing behind the last is read."""
    at, kind = 8, b""
    while at + 8 <= len(png) and kind != b"IEND":
        size, kind = struct.unpack_from(">I4s", png, at)
        yield kind, at, at + 12 + size
        at += 12 + size


def _count_chunks(data: bytes) -> int:
    found = packed = 0
    for kind, *_ in _chunks(data):
        found += 1
        packed += kind in (b"iCCP", b"iTXt", b"zTXt")
        if packed > MAX_PACKED:
            raise TooLarge(f"the PNG image has more than {MAX_PACKED} profiles and texts")
        if found > MAX_PARTS:
            break
    return found


def _blocks(data: bytes) -> int:
    """Count the blocks, their parts that are not full, and stray bytes: Pillow looks at each."""
    at, found = 13 + _palette(data[10]), 0
    while at + 10 < len(data) and data[at] != _TRAILER and found <= MAX_PARTS:
        found += 1
        if data[at] == _EXTENSION:
            at += 2
        elif data[at] == _IMAGE:
            at += 11 + _palette(data[at + 9])
        else:
            at += 1
            continue
        while at < len(data) and data[at] and found <= MAX_PARTS:
            found += data[at] < 255
            at += 1 + data[at]
        at += 1
    return found


def _palette(flags: int) -> int:
    """The size of a GIF's palette in bytes, by the flags before it."""
    return 3 * (2 << (flags & 7)) if flags & 128 else 0


def _markers(data: bytes) -> int:
    """Count the markers before the first scan, and stray bytes: Pillow looks at each."""
    at, found, exif = 2, 0, 0
    while at + 4 <= len(data) and found <= MAX_PARTS:
        found += 1
        marker, size = struct.unpack_from(">HH", data, at)
        if marker == _START_OF_SCAN:
            break
        if marker not in MARKER:
            at += 1
        elif MARKER[marker][2] is None:
            at += 2
        else:
            exif += marker == _APP1 and data.startswith(b"Exif\0\0", at + 4)
            at += 2 + max(size, 2)
        if exif > MAX_EXIF:
            raise TooLarge(f"the JPEG image has more than {MAX_EXIF} Exif segments")
    return found


def _tiles(data: bytes) -> int:
    """Count the tiles or strips, or the fractions in a tag, whichever are more."""
    order = "<" if data[:2] == b"II" else ">"
    if 43 in data[2:4]:  # BigTIFF
        (at,) = struct.unpack_from(f"{order}Q", data, 8)
        number, entry, size = f"{order}Q", struct.Struct(f"{order}HHQ"), 20
    else:
        (at,) = struct.unpack_from(f"{order}I", data, 4)
        number, entry, size = f"{order}H", struct.Struct(f"{order}HHI"), 12
    (entries,) = struct.unpack_from(number, data, at)
    if entries > MAX_PARTS:
        raise TooLarge(f"the TIFF image has more than {MAX_PARTS:,} tags")
    first = at + struct.calcsize(number)
    tags = [entry.unpack_from(data, first + i * size) for i in range(entries)]
    counted = [
        n for tag, kind, n in tags if tag in (_STRIP_OFFSETS, _TILE_OFFSETS) or kind in _FRACTIONS
    ]
    return max(counted, default=0)
