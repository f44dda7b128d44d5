"""How many parts an image file has, seen before a reader goes through them one by one.

A few megabytes may hold millions, each of which costs Pillow microseconds, memory, or both.
"""

import struct

from PIL.JpegImagePlugin import MARKER

from serving.errors import TooLarge

MAX_PARTS = 65_536
"""Chunks of a PNG, markers of a JPEG before its pixels, tiles or strips of a TIFF."""
MAX_EXIF = 16
"""Exif segments of a JPEG, which Pillow joins again for each. A photo has one."""

_START_OF_SCAN, _APP1 = 0xFFDA, 0xFFE1
_STRIP_OFFSETS, _TILE_OFFSETS = 273, 324


def check_parts(data: bytes, kind: str | None) -> None:
    """See that a file in the format ``kind``, as Pillow names it, has no more parts than it may.

    Raises:
        TooLarge: it has.
        struct.error: it is cut off.
    """
    match kind:
        case "PNG":
            parts, name = _chunks(data), "chunks"
        case "JPEG":
            parts, name = _markers(data), "markers"
        case "TIFF":
            parts, name = _tiles(data), "tiles"
        case _:
            return
    if parts > MAX_PARTS:
        raise TooLarge(f"the {kind} image has more than {MAX_PARTS:,} {name}")


def _chunks(data: bytes) -> int:
    at, found = 8, 0
    while at + 8 <= len(data) and found <= MAX_PARTS:
        at += 12 + int.from_bytes(data[at : at + 4], "big")
        found += 1
    return found


def _markers(data: bytes) -> int:
    """Those before the first scan, and the bytes between them, each of which Pillow looks at."""
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
    return max([n for tag, _, n in tags if tag in (_STRIP_OFFSETS, _TILE_OFFSETS)], default=0)
