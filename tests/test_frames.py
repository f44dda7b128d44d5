"""Frames and headers, as bytes: an independent implementation reads what we write."""

import pytest
from h2.errors import ErrorCodes
from h2.settings import SettingCodes
from hpack import Decoder, Encoder, HeaderTuple, HPACKError, NeverIndexedHeaderTuple
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from serving import frames
from serving.frames import HEADS, LONGEST_HEAD, Broken, Head, Heads, block, field

LENGTHS = [0, 1, 126, 127, 128, 254, 255, 256, 16_383, 16_384, 16_510, 16_511, 20_000]
"""Around those at which the length of the length changes."""
PRINTABLE = st.characters(min_codepoint=0x20, max_codepoint=0x7E)
texts = st.text(PRINTABLE, max_size=12) | st.builds(
    lambda length, character: character * length, st.sampled_from(LENGTHS), PRINTABLE
)


def read(decoder: Decoder, written: bytes) -> list[tuple[str, str]]:
    return [(str(name), str(value)) for name, value in decoder.decode(written)]


def test_numbers_are_those_of_the_standard() -> None:
    """A client has its own; our tests have these."""
    for names in (ErrorCodes, SettingCodes):
        same = {each.name: each.value for each in names if hasattr(frames, each.name)}
        assert same == {name: getattr(frames, name) for name in same}
    assert (frames.LARGEST, frames.FIRST_WINDOW, frames.HIGHEST) == (16_384, 65_535, 2_147_483_647)


@pytest.mark.parametrize("table", [4096, 0], ids=["usual", "none"])
@given(fields=st.lists(st.tuples(texts, texts), max_size=5))
def test_any_headers_are_read_back(table: int, fields: list[tuple[str, str]]) -> None:
    decoder = Decoder(max_header_list_size=2**20)
    decoder.max_allowed_table_size = table  # the peer has said so, and waits for an update
    assert read(decoder, block(fields)) == fields
    assert read(decoder, b"".join(field(*each) for each in fields)) == fields
    assert not decoder.header_table.dynamic_entries


@pytest.mark.parametrize("length", LENGTHS)
def test_a_header_of_any_length_is_read_back(length: int) -> None:
    for each in (("x" * length, ""), ("", "x" * length)):
        assert read(Decoder(), field(*each)) == [each]


def test_what_is_not_ascii_becomes_a_question_mark() -> None:
    assert read(Decoder(), field("x", "vé\N{CJK UNIFIED IDEOGRAPH-4E00}")) == [("x", "v??")]


names = st.sampled_from([b":path", b":status", b"content-type", b"grpc-timeout", b"x", b""])
values = st.sampled_from([b"/", b"200", b"1S", b"", b"x" * 60, b"\xff"]) | st.binary(max_size=3)


@st.composite
def blocks(draw: DrawFn) -> list[bytes]:
    """What an encoder makes of heads that resemble one another, and some of them again."""
    encoder = Encoder()
    known = draw(st.lists(st.lists(st.tuples(names, values, st.booleans()), max_size=4)))
    made: list[bytes] = []
    for _ in range(draw(st.integers(1, 40))):
        if draw(st.integers(0, 9)) == 0:
            encoder.header_table_size = draw(st.sampled_from([0, 40, 100, 4096]))
        if made and draw(st.integers(0, 9)) == 0:
            made.append(draw(st.sampled_from(made)))  # refers to the table as it is now
            continue
        fields = [
            (NeverIndexedHeaderTuple if is_secret else HeaderTuple)(name, value)
            for name, value, is_secret in (draw(st.sampled_from(known)) if known else ())
        ]
        made.append(encoder.encode(fields, huffman=draw(st.booleans())))
    return made


def plainly(decoder: Decoder, block: bytes) -> Head | None:
    """What a decoder without memory finds; ``None`` if it can read no further."""
    try:
        fields = [
            (name.decode("latin-1"), value.decode("latin-1"))
            for name, value in decoder.decode(block, raw=True)
        ]
    except HPACKError:
        return None
    return Head(dict(fields), sum(len(name) + len(value) + 32 for name, value in fields))


def check_like_plain(blocks: list[bytes]) -> None:
    """The heads of one connection are those that a decoder without memory finds."""
    heads, decoder = Heads(), Decoder(LONGEST_HEAD)
    for each in blocks:
        expected = plainly(decoder, each)
        if expected is None:
            with pytest.raises(Broken) as broken:
                heads.decode(each)
            assert broken.value.code == frames.COMPRESSION_ERROR
            return
        assert heads.decode(each) == expected


@given(blocks())
def test_known_heads_are_never_wrong(blocks: list[bytes]) -> None:
    check_like_plain(blocks)


pieces = st.sampled_from(
    [b"\x82", b"\xbe", b"\xbf", b"\xc0", b"\xff\x00", b"\x40\x01a\x01b", b"\x40\x01c\x01d",
     b"\x7e\x01e", b"\x20", b"\x3f\x29", b"\x3f\xe1\x1f", b"\0\x01a\x01b", b"\x10\x81\x1f\x01x",
     b"\x80", b"\xff", b"\x41", b"\x40\x82\xff\xff\0"]
)  # fmt: skip
"""Of header blocks: those of the table, such as enter it, other sizes of it, and broken ones."""
garbage = st.lists(pieces, max_size=4).map(b"".join) | st.binary(max_size=20)


@given(st.lists(garbage, max_size=60))
def test_whatever_is_sent_is_a_head_or_breaks_the_connection(blocks: list[bytes]) -> None:
    check_like_plain(blocks)


@pytest.mark.parametrize("change", [b"\x41\x81\xfd", b"\x7e\x81\xfd", b"\x20", b"\x3f\x01"])
def test_what_changes_the_table_changes_what_a_known_head_means(change: bytes) -> None:
    enter, known = b"\x41\x81\xfc", b"\xbe"
    check_like_plain([enter, known, known, change, known, enter, known])


def test_more_heads_than_are_remembered_are_right_too() -> None:
    encoder = Encoder()
    fields = [(b"x", b"%d" % number) for number in range(2 * HEADS)]
    entered = [encoder.encode([each]) for each in fields]
    known = [encoder.encode([each]) for each in fields]
    check_like_plain(entered + 2 * known)


def test_a_known_head_is_not_decoded_again(monkeypatch: pytest.MonkeyPatch) -> None:
    heads = Heads()
    first = heads.decode(b"\x82\x84")
    monkeypatch.setattr(Decoder, "decode", None)
    assert heads.decode(b"\x82\x84") is first


def test_few_heads_are_remembered() -> None:
    """Each may have 64 KB in memory."""
    heads = Heads()
    first = heads.decode(b"\x82")
    for number in range(HEADS):
        heads.decode(b"\x82" * (2 + number))
    assert heads.decode(b"\x82") is not first


def test_a_list_of_headers_is_read_up_to_the_limit() -> None:
    most = LONGEST_HEAD - 32 - len("x")
    assert Heads().decode(block([("x", "y" * most)])).size == LONGEST_HEAD
    bomb = b"\x40\x01x" + b"\x7f\xe1\x1d" + b"y" * 3936 + b"\xbe" * 20
    """A header of 4 KB that enters the table, and is then meant by each byte."""
    for beyond in (block([("x", "y" * (most + 1))]), bomb):
        with pytest.raises(Broken) as broken:
            Heads().decode(beyond)
        assert broken.value.code == frames.COMPRESSION_ERROR


@given(st.binary(max_size=300), st.integers(0, 255))
def test_padding_is_taken_off(payload: bytes, padding: int) -> None:
    padded = bytes((padding,)) + payload + bytes(padding)
    assert frames.without_padding(frames.PADDED | frames.END_STREAM, padded) == payload
    assert frames.without_padding(frames.END_STREAM, padded) == padded


@pytest.mark.parametrize(
    ("payload", "code"),
    [(b"", frames.FRAME_SIZE_ERROR), (b"\x01", 1), (b"\x03ab", 1), (b"\xff" + bytes(254), 1)],
)
def test_padding_is_no_longer_than_its_frame(payload: bytes, code: int) -> None:
    with pytest.raises(Broken) as broken:
        frames.without_padding(frames.PADDED, payload)
    assert broken.value.code == code
