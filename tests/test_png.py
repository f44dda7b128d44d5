"""PNGs that are decoded without Pillow's reader: what comes of them is what it would make of them.

With two exceptions: a grey that is mixed from colours is one level more or less in some pixels, and
the sum of the pixels, within chunks that have checksums of their own, is not looked at.

Pillow's warnings are ignored here because ``transformer.decode`` turns them off for the whole
process, which pytest undoes.
"""

import struct
import zlib
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from serving.errors import InvalidInput, ServingError
from tests.digits import draw, encode
from transformer import decode as module
from transformer.decode import decode

pytestmark = pytest.mark.filterwarnings("ignore:::PIL")

SEVEN = draw(7, 40)
FILES = {mode: encode(SEVEN.convert(mode)) for mode in ("L", "LA", "RGB", "RGBA")}
COLOURS = {"L": 0, "RGB": 2, "LA": 4, "RGBA": 6}
"""The modes as a PNG's header has them."""

Chunk = tuple[bytes, bytes]
"""Name and content."""
END = b"IEND", b""
WRONG_SUM = "of pixels with a wrong sum"


def png(*chunks: Chunk) -> bytes:
    """A PNG of these chunks, with right checksums."""
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + chunk + struct.pack(">I", zlib.crc32(chunk))
        for name, content in chunks
        for chunk in [name + content]
    )


def header(mode: str, width: int = 40, height: int = 40, *, interlaced: int = 0) -> Chunk:
    return b"IHDR", struct.pack(">IIBBBBB", width, height, 8, COLOURS[mode], 0, 0, interlaced)


def rows(mode: str) -> bytes:
    """The seven's pixels as a PNG has them: each row after its filter, which is none."""
    return b"".join(b"\x00" + row.tobytes() for row in np.asarray(SEVEN.convert(mode)))


def pixels(content: bytes) -> Chunk:
    return b"IDAT", zlib.compress(content)


def pngs(mode: str) -> dict[str, bytes]:
    """A seven, and what may go wrong with it."""
    head, whole = header(mode), rows(mode)
    data = pixels(whole)
    parts = [(b"IDAT", data[1][at : at + 100]) for at in range(0, len(data[1]), 100)]
    turn = b"eXIf", struct.pack(">2sHIHHHIHHI", b"MM", 42, 8, 1, 0x0112, 3, 1, 6, 0, 0)
    return {
        "plain": png(head, data, END),
        "in parts": png(head, *parts, END),
        "in parts, one empty": png(head, parts[0], (b"IDAT", b""), *parts[1:], END),
        "with a comment between the parts": png(
            head, parts[0], (b"tEXt", b"a\0b"), *parts[1:], END
        ),
        "with a turn": png(head, turn, data, END),
        "with a turn at the end": png(head, data, turn, END),
        "with a tone transparent": png(head, (b"tRNS", b"\x00\xff" * 3), data, END),
        "with half a transparent tone": png(head, (b"tRNS", b"\x00"), data, END),
        "with a gamma": png(head, (b"gAMA", struct.pack(">I", 20_000)), data, END),
        "animated": png(head, (b"acTL", struct.pack(">II", 2, 0)), data, END),
        "interlaced": png(header(mode, interlaced=1), data, END),
        "without an end": png(head, data),
        "with more after its end": png(head, data, END) + b"more",
        "without pixels": png(head, END),
        "with pixels of no bytes": png(head, (b"IDAT", b""), END),
        "of no rows": png(header(mode, height=0), data, END),
        "too high": png(header(mode, height=2**32 - 1), data, END),
        "too low": png(header(mode, height=7), data, END),
        "wide": png(header(mode, 1025), pixels(bytes(40 * (1 + 1025 * len(mode)))), END),
        "named a GIF": png(head, data, END).replace(b"\x89PNG\r\n", b"GIF89a"),
        "with half its rows": png(head, pixels(whole[: len(whole) // 2]), END),
        "with too many rows": png(head, pixels(whole * 2), END),
        "cut within its pixels": png(head, parts[0], END),
        "with an unknown filter": png(head, pixels(b"\x09" + whole[1:]), END),
        "of another height than was checked": png(head, data, END).replace(
            b"\x28\x08", b"\x27\x08"
        ),
        "of other pixels than were checked": png(head, data, END).replace(
            data[1], data[1][:-1] + b"?"
        ),
        WRONG_SUM: png(head, (b"IDAT", data[1][:-1] + b"?"), END),
    }


VARIANTS = {mode: pngs(mode) for mode in COLOURS}
PLAIN = "L", "RGB", "RGBA"
"""The modes that need no reader."""


def outcome(file: bytes) -> tuple[object, ...]:
    """The picture, or the error."""
    try:
        grey = decode(file)
    except ServingError as error:
        return type(error), str(error)
    return grey.shape, grey.dtype, grey.tobytes()


def outcome_of_the_reader(file: bytes) -> tuple[object, ...]:
    """What Pillow's reader makes of the file."""
    with mock.patch.object(module, "decode_plain", return_value=None):
        return outcome(file)


def summed(stream: bytes) -> bytes:
    """A compressed stream with the sum that its content has; as it is where it has no end."""
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        content = inflate.decompress(stream[2:])
    except zlib.error:
        return stream
    end = len(stream) - len(inflate.unused_data)
    return stream[:end] + struct.pack(">I", zlib.adler32(content)) if inflate.eof else stream


@pytest.mark.parametrize("name", sorted(VARIANTS["L"].keys() - {WRONG_SUM}))
@pytest.mark.parametrize("mode", VARIANTS)
def test_a_png_is_read_or_refused_as_by_pillows_reader(mode: str, name: str) -> None:
    assert outcome(VARIANTS[mode][name]) == outcome_of_the_reader(VARIANTS[mode][name])


@pytest.mark.parametrize("mode", PLAIN)
def test_a_sum_within_a_checksum_is_not_looked_at(mode: str) -> None:
    assert outcome(VARIANTS[mode][WRONG_SUM]) == outcome(VARIANTS[mode]["plain"])
    kind, _ = outcome_of_the_reader(VARIANTS[mode][WRONG_SUM])
    assert kind is InvalidInput


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_a_grey_mixed_from_colours_is_the_readers_within_one_level(mode: str) -> None:
    colours = np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8)
    file = encode(Image.fromarray(colours).convert(mode))
    with mock.patch.object(module, "decode_plain", return_value=None):
        expected = decode(file).astype(int)
    difference = np.abs(decode(file) - expected)
    assert difference.max() <= 1
    assert np.mean(difference) < 0.005


@pytest.mark.parametrize("name", ["plain", "in parts", "in parts, one empty"])
@pytest.mark.parametrize("mode", PLAIN)
def test_a_plain_png_needs_no_reader(mode: str, name: str) -> None:
    with mock.patch.object(module, "_read", side_effect=AssertionError):
        assert np.array_equal(decode(VARIANTS[mode][name]), np.asarray(SEVEN))


def alike(found: tuple[object, ...], expected: tuple[object, ...]) -> bool:
    """The same error, or the same picture but for one level."""
    *kind, pixels = found
    *kind_expected, pixels_expected = expected
    if kind != kind_expected or not isinstance(pixels, bytes):
        return found == expected
    assert isinstance(pixels_expected, bytes)
    greys = (np.frombuffer(each, np.uint8).astype(int) for each in (pixels, pixels_expected))
    return bool(np.abs(np.subtract(*greys)).max() <= 1)


FLIPS = st.lists(st.tuples(st.integers(0), st.integers(0, 7)), max_size=3)
LENGTHS = st.none() | st.integers(0, 2000)


def damaged(data: bytes, flips: list[tuple[int, int]], length: int | None) -> bytes:
    """With other bits here and there, and cut."""
    changed = bytearray(data)
    for at, bit in flips:
        changed[at % len(data)] ^= 1 << bit
    return bytes(changed[:length])


@given(mode=st.sampled_from(list(FILES)), flips=FLIPS, length=LENGTHS)
def test_so_is_a_damaged_one(mode: str, flips: list[tuple[int, int]], length: int | None) -> None:
    file = damaged(FILES[mode], flips, length)
    assert outcome(file) == outcome_of_the_reader(file)


@given(mode=st.sampled_from(list(FILES)), flips=FLIPS, length=LENGTHS)
def test_so_is_one_damaged_before_its_checksums_were_made(
    mode: str, flips: list[tuple[int, int]], length: int | None
) -> None:
    stream = damaged(zlib.compress(rows(mode)), flips, length)
    for data in (stream, zlib.compress(damaged(rows(mode), flips, length))):
        file, with_right_sum = (
            png(header(mode), (b"IDAT", each), END) for each in (data, summed(data))
        )
        found = outcome(file)
        assert alike(found, outcome_of_the_reader(file)) or alike(
            found, outcome_of_the_reader(with_right_sum)
        )


@pytest.mark.parametrize("mode", FILES)
def test_damage_on_the_way_is_not_told_on_stderr(
    mode: str, capfd: pytest.CaptureFixture[str]
) -> None:
    for at in range(len(FILES[mode])):
        outcome(damaged(FILES[mode], [(at, 3)], None))
        outcome(FILES[mode][:at])
    assert capfd.readouterr().err == ""


@given(st.binary(max_size=5))
def test_any_kind_of_header_is_read_or_refused_as_by_the_reader(kind: bytes) -> None:
    head = b"IHDR", (struct.pack(">II", 40, 40) + kind).ljust(13, b"\x00")
    file = png(head, pixels(rows("RGBA")), END)
    assert outcome(file) == outcome_of_the_reader(file)
