"""Checks the parts of an image file, before Pillow goes through them one by one.

A few megabytes may hold millions of parts, each of which costs Pillow microseconds, memory or both.
"""

import re
import struct
import zlib
from collections.abc import Iterator

from PIL.JpegImagePlugin import DQT, MARKER, SOF

from serving.errors import TooLarge

MAX_PARTS = 65_536
"""Most chunks of a PNG, markers of a JPEG before its pixels and entries in their tables, tiles or
strips of a TIFF, blocks of a GIF, or fractions in a tag of a TIFF."""
MAX_SCANS = 24
"""Most scans of a JPEG: each is a pass over all pixels. Cameras write one, Photoshop three to five,
libjpeg's standard script for progressive files 10, or 18 in CMYK, and mozjpeg up to 17."""
MAX_PACKED = 64
"""Most compressed profiles and texts of a PNG: Pillow inflates each to up to a megabyte."""
MAX_EXIF = 16
"""Most Exif segments of a JPEG: at each, Pillow joins all so far. A photo has one."""

SCAN = b"\xff\xda"
"""The marker before each scan of a JPEG; within the pixels there is none."""
_START_OF_SCAN, _APP1 = 0xFFDA, 0xFFE1
_END = b"\xff\xd9"
_MARKER = re.compile(rb"\xff[^\x00\x01\xff\xd0-\xd7]")
"""A marker that is not among a JPEG's pixels: it has a length, or is the end."""
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
            if _scans(data) > MAX_SCANS:
                raise too_many_scans("the JPEG image has")
            parts, name = _markers(data), "markers, or entries in tables"
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


def too_many_scans(what: str) -> TooLarge:
    """The error if ``what`` there is more than that many scans, with what to do about it."""
    return TooLarge(f"{what} more than {MAX_SCANS} scans; save it with fewer, or not progressive")


def _scans(data: bytes) -> int:
    """Count the scans, as libjpeg finds them, or more if these are few enough."""
    # Behind the picture there may be anything, such as the film of a phone's motion photo.
    if (most := data.count(SCAN)) <= MAX_SCANS:
        return most
    at, found = 2, 0
    for _ in range(MAX_PARTS):
        marker = _MARKER.search(data, at)
        if marker is None or marker[0] == _END or found > MAX_SCANS:
            return found
        found += marker[0] == SCAN
        at = marker.end() + max(int.from_bytes(data[marker.end() : marker.end() + 2], "big"), 2)
    raise TooLarge(f"the JPEG image has more than {MAX_PARTS:,} markers")


def _markers(data: bytes) -> int:
    """Count the markers before the first scan, stray bytes, and entries in some markers' tables.

    Pillow looks at each. The tables are of quantization, of a frame's components, and of what
    Photoshop keeps, where each entry begins with 8BIM.
    """
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
            found += size // 3 if MARKER[marker][2] in (DQT, SOF) else 0
            found += data.count(b"8BIM", at, at + size)
            at += 2 + max(size, 2)
        if exif > MAX_EXIF:
            raise TooLarge(f"the JPEG image has more than {MAX_EXIF} Exif segments")
    return found
