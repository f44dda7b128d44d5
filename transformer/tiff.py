"""Checks a TIFF's directory, before Pillow and libtiff follow it.

Tags, and tiles of the image, may lie in one place of the file, but each is read: so a megabyte may
be read 65,536 times. And a tile is decoded as a whole, however little of it is in the image.
"""

import struct
from collections.abc import Iterable
from itertools import product
from typing import NamedTuple

from serving.errors import TooLarge
from transformer.structure import MAX_PARTS, MAX_SCANS, SCAN, too_many_scans

MAX_SHARED = 2**25
"""Most bytes of all tags, and of all tiles, of a file that is smaller. In a larger one they may
have as many as the file: more are only in one whose tiles share bytes, such as those of a blank
background, which hardly any program writes."""

_COMPRESSION, _JPEG = 259, 7
_OFFSETS, _SIZES = (273, 324), (279, 325)
"""Tags that say where the strips, or the tiles, are, and how many bytes each has."""
_SIDES = 256, 257, 322, 323
"""Tags of the image's width and height, and of a tile's."""
_FRACTIONS = 5, 10
"""Types of tags whose values are fractions, unsigned and signed."""
_FORMATS = dict(zip((*range(1, 14), 16, 17, 18), "BBHIQBBHIQIQIQQQ", strict=True))
"""How to unpack a value, without sign, by the type of its tag. Those of other types are ignored."""
_WIDTHS = {kind: struct.calcsize(f"<{form}") for kind, form in _FORMATS.items()}


class _Tag(NamedTuple):
    number: int
    kind: int
    values: int
    """How many."""
    size: int
    """Their bytes."""
    at: int
    """Where they are in the file."""


def check_tiff(data: bytes, *, max_pixels: int) -> None:
    """Check that a TIFF has not too many parts, and that they are not too large together.

    Raises:
        TooLarge: it has.
        struct.error: it is truncated.
    """
    order = "<" if data[:2] == b"II" else ">"
    tags = _tags(data, order)
    for tag in tags:
        if tag.values > MAX_PARTS and (tag.number in _OFFSETS + _SIZES or tag.kind in _FRACTIONS):
            what = "tiles, or fractions in a tag"
            raise TooLarge(f"the TIFF image has more than {MAX_PARTS:,} {what}")
    _check_bytes(data, [tag.size for tag in tags], "tags")

    # Of equal tags the first is read.
    first = {tag.number: tag for tag in reversed(tags) if tag.size}

    def values(*numbers: int) -> list[tuple[int, ...]]:
        return [
            struct.unpack_from(
                f"{order}{min(tag.values, MAX_PARTS)}{_FORMATS[tag.kind]}", data, tag.at
            )
            for tag in map(first.get, numbers)
            if tag
        ]

    if len(sides := values(*_SIDES)) == len(_SIDES):
        # Not as Pillow reads them: it skips types of numbers that libtiff knows.
        _check_tiles(*[side[0] for side in sides], max_pixels=max_pixels)
    sizes = values(*_SIZES)
    for each in sizes:
        _check_bytes(data, each, "tiles")
    if not any(_JPEG in each for each in values(_COMPRESSION)):
        return
    pairs = list(product(values(*_OFFSETS), sizes))
    if not sizes or any(0 in each for each in sizes):  # libtiff guesses sizes that are not there.
        pairs = [((0,), (len(data),))]
    for offsets, lengths in pairs:
        for at, size in zip(offsets, lengths, strict=False):
            if data.count(SCAN, at, at + size) > MAX_SCANS:
                raise too_many_scans("a tile of the TIFF image has")


def _tags(data: bytes, order: str) -> list[_Tag]:
    """The tags of the first directory: of the others nothing is read."""
    big = 43 in data[2:4]  # BigTIFF
    number = struct.Struct(f"{order}{'Q' if big else 'I'}")
    entry = struct.Struct(f"{order}HH{'QQ' if big else 'II'}")
    (start,) = number.unpack_from(data, number.size)
    length = struct.Struct(f"{order}{'Q' if big else 'H'}")
    (entries,) = length.unpack_from(data, start)
    if entries > MAX_PARTS:
        raise TooLarge(f"the TIFF image has more than {MAX_PARTS:,} tags")
    start += length.size
    tags = []
    for end in range(start + entry.size, start + (entries + 1) * entry.size, entry.size):
        tag, kind, values, at = entry.unpack_from(data, end - entry.size)
        size = values * _WIDTHS.get(kind, 0)
        # Short values are in place of where others are.
        tags.append(_Tag(tag, kind, values, size, end - number.size if size <= number.size else at))
    return tags


def _check_tiles(width: int, height: int, wide: int, high: int, *, max_pixels: int) -> None:
    across, down = -(-width // max(1, wide)), -(-height // max(1, high))
    pixels = across * wide * down * high
    if pixels > max_pixels:
        raise TooLarge(
            f"the tiles of the TIFF image have {pixels:,} pixels; expected at most {max_pixels:,} "
            "in all"
        )


def _check_bytes(data: bytes, sizes: Iterable[int], what: str) -> None:
    most = max(len(data), MAX_SHARED)
    # Of what is larger than the file, libtiff reads a part.
    if sum(min(size, len(data)) for size in sizes) > most:
        raise TooLarge(
            f"the {what} of the TIFF image have more than {most:,} bytes together, because they "
            "overlap; save it anew"
        )
