"""TIFFs that would have one place read many times are refused before it is.

Pillow's warnings are ignored here because ``transformer.decode`` turns them off for the whole
process, which pytest undoes.
"""

import struct
import zlib

import numpy as np
import pytest
from PIL.ExifTags import IFD, Base
from PIL.Image import Exif
from PIL.TiffImagePlugin import TiffImageFile

from serving.errors import InvalidInput, TooLarge
from tests.test_structure import IMAGE, encoded, scans
from transformer.decode import decode
from transformer.structure import MAX_SCANS
from transformer.tiff import MAX_SHARED

pytestmark = pytest.mark.filterwarnings("ignore:::PIL")

MIB = 2**20
BLANK = zlib.compress(bytes(32 * 32))
FORMS = [("<", False), (">", False), ("<", True)]
"""Byte orders, and whether it is a BigTIFF. Pillow reads no BigTIFF in the other order."""


def tiff(
    data: bytes,
    tiles: int,
    *extra: tuple[int, int, int, int],
    order: str = "<",
    big: bool = False,
    compression: int = 8,
    begin: int = 0,
    size: int | None = None,
) -> bytes:
    """Of so many tiles of 32×32 pixels, each of which is all of ``data[begin:]``.

    ``size`` is what it says of the bytes in each. ``extra`` are tags: number, type, how many
    values, and where these are in ``data``.
    """
    kind, number, start = (16, "Q", 16) if big else (4, "I", 8)
    head = {"<": b"II", ">": b"MM"}[order] + struct.pack(f"{order}H", 43 if big else 42)
    head += struct.pack(f"{order}HH", 8, 0) if big else b""
    head += struct.pack(f"{order}{number}", start + len(data)) + data
    tags = {256: 32 * tiles, 257: 32, 258: 8, 259: compression, 262: 1, 277: 1, 322: 32, 323: 32}
    lists = {324: start + begin, 325: len(data) - begin if size is None else size}
    count = len(tags) + len(lists) + len(extra)
    end = len(head) + (8 if big else 2) + count * struct.calcsize(f"<HH{number * 2}") + 8
    entries = [(tag, kind, 1, value) for tag, value in tags.items()]
    tail = b""
    for tag, value in lists.items():
        entries.append((tag, kind, tiles, value if tiles == 1 else end + len(tail)))
        tail += struct.pack(f"{order}{number}", value) * tiles
    entries += [(tag, of, values, start + at) for tag, of, values, at in extra]
    head += struct.pack(f"{order}{'Q' if big else 'H'}", count)
    for entry in sorted(entries):
        head += struct.pack(f"{order}HH{number * 2}", *entry)
    return head.ljust(end, b"\0") + tail


@pytest.mark.parametrize(("order", "big"), FORMS)
def test_tiles_may_share_their_bytes(order: str, big: bool) -> None:
    assert decode(tiff(BLANK, 30, order=order, big=big)).shape == (32, 960)
    assert decode(tiff(BLANK, 1, order=order, big=big)).shape == (32, 32)


@pytest.mark.parametrize(("order", "big"), FORMS)
def test_but_not_too_many(order: str, big: bool) -> None:
    for size in (None, 2**31):
        file = tiff(BLANK + bytes(MIB), MAX_SHARED // MIB, order=order, big=big, size=size)
        with pytest.raises(TooLarge, match="tiles of the TIFF .* 33,554,432 bytes .* overlap"):
            decode(file)


@pytest.mark.parametrize(("order", "big"), FORMS)
def test_nor_too_many_tags(order: str, big: bool) -> None:
    def file(tags: int) -> bytes:
        extra = [(40_000 + i, 7, MIB, 0) for i in range(tags)]
        return tiff(bytes(MIB) + BLANK, 1, *extra, order=order, big=big, begin=MIB)

    most = MAX_SHARED // MIB
    assert decode(file(most - 1)).shape == (32, 32)
    with pytest.raises(TooLarge, match="tags of the TIFF .* 33,554,432 bytes .* overlap"):
        decode(file(most + 1))


def test_what_is_beyond_the_end_is_not_counted() -> None:
    assert decode(tiff(BLANK, 1, *[(40_000 + i, 7, 2**30, 0) for i in range(9)])).size == 1024
    assert decode(tiff(bytes(32 * 32), 1, compression=1, size=2**30)).size == 1024


def test_a_large_file_may_have_large_tiles() -> None:
    noise = np.random.default_rng(0).bytes(MAX_SHARED + MIB)
    assert decode(tiff(BLANK + noise, 1)).shape == (32, 32)


@pytest.mark.parametrize(("order", "big"), FORMS)
def test_a_tile_may_have_as_many_scans_as_a_jpeg(order: str, big: bool) -> None:
    few, many = (
        tiff(scans(MAX_SCANS + more), 2, order=order, big=big, compression=7) for more in (0, 1)
    )
    assert decode(few).shape == (32, 64)
    with pytest.raises(TooLarge, match="a tile of the TIFF image has more than 24 scans; save it"):
        decode(many)


@pytest.mark.parametrize("hide", ["no sizes", "0", "beyond the end"])
def test_also_if_its_size_is_not_told(hide: str) -> None:
    sizes = {"no sizes": None, "0": 0, "beyond the end": 2**31}
    file = tiff(scans(MAX_SCANS + 1), 1, compression=7, size=sizes[hide])
    if hide == "no sizes":
        file = file.replace(struct.pack("<HH", 325, 4), struct.pack("<HH", 40_000, 4))
    with pytest.raises(TooLarge, match="more than 24 scans"):
        decode(file)


@pytest.mark.parametrize("kind", [16, 17], ids=["unsigned", "signed, which Pillow skips"])
def test_all_of_a_tile_counts_however_little_is_in_the_image(kind: int) -> None:
    """A file of 56 KB can have 640 tiles of 51 megapixels, for an image of 10240×8."""

    def file(high: int) -> bytes:
        data = tiff(zlib.compress(bytes(32 * high)), 3, big=True)
        length = struct.pack("<HHQQ", 323, 16, 1, 32)
        assert length in data
        return data.replace(length, struct.pack("<HHQQ", 323, kind, 1, high))

    assert decode(file(64), max_pixels=3 * 32 * 64).shape == (32, 96)
    with pytest.raises(TooLarge, match="tiles of the TIFF .* 7,680 pixels; expected at most 6,144"):
        decode(file(80), max_pixels=3 * 32 * 64)


def test_pages_are_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of 100 KB can have 4,000 directories of 4,000 tags each, in one another."""
    monkeypatch.setattr(TiffImageFile, "n_frames", property(lambda _: pytest.fail("counted")))
    with pytest.raises(InvalidInput, match="several frames"):
        decode(encoded("TIFF", save_all=True, append_images=[IMAGE.copy()]))


def test_exif_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    exif = Exif()
    exif[Base.Orientation] = 6
    exif[IFD.Exif] = {Base.ExposureTime: 0.5}
    file = encoded("TIFF", exif=exif.tobytes())
    monkeypatch.setattr(Exif, "get_ifd", lambda *_: pytest.fail("read"))
    assert np.array_equal(decode(file), np.rot90(np.asarray(IMAGE), -1))
