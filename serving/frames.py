"""HTTP/2's frames and headers as bytes (RFC 9113 and, for headers, RFC 7541)."""

from collections.abc import Iterable, Mapping
from functools import lru_cache
from struct import Struct
from typing import NamedTuple

from hpack import Decoder, HPACKError

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""What a client sends first."""
HEAD = Struct(">HBBBI")
"""What each frame begins with: its length in 16 and 8 bits, its type, flags and stream."""
SETTING = Struct(">HI")
"""A setting and its value."""
LARGEST = 2**14
"""Most bytes in a frame, unless its receiver allows more."""
HIGHEST = 2**31 - 1
"""The highest stream, and the largest window."""
FIRST_WINDOW = 2**16 - 1
"""Bytes that each side may send before it hears of another window."""

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW, CONTINUATION = (
    range(10)
)
END_STREAM = ACK = 1
END_HEADERS, PADDED, WITH_PRIORITY = 4, 8, 32
MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE, MAX_HEADER_LIST_SIZE = 3, 4, 5, 6
NO_ERROR, PROTOCOL_ERROR, FLOW_CONTROL_ERROR, STREAM_CLOSED, FRAME_SIZE_ERROR = 0, 1, 3, 5, 6
REFUSED_STREAM, CANCEL, COMPRESSION_ERROR, ENHANCE_YOUR_CALM = 7, 8, 9, 11

LONGEST_HEAD = 64 * 1024
"""Most bytes of headers as HTTP/2 counts them: each has 32 more than its name and value. The
proxies in front of us in a cluster have the same limit (Envoy)."""
HEADS = 32
"""Heads that a connection remembers: a client's calls have the same while no header changes."""


class Broken(Exception):
    """A peer has broken a rule, so that its connection must end, with this code."""

    def __init__(self, code: int = PROTOCOL_ERROR) -> None:
        super().__init__(code)
        self.code = code


def check(is_kept: bool, code: int = PROTOCOL_ERROR) -> None:
    """Raise ``Broken`` with ``code`` unless a rule is kept."""
    if not is_kept:
        raise Broken(code)


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """A frame of that ``kind``; ``stream`` is 0 for the connection itself."""
    size = len(payload)
    return HEAD.pack(size >> 8, size & 255, kind, flags, stream) + payload


def settings(values: Iterable[tuple[int, int]]) -> bytes:
    """A frame of settings and their values."""
    return frame(SETTINGS, 0, 0, b"".join([SETTING.pack(*each) for each in values]))


def reset(stream: int, code: int) -> bytes:
    """A frame that ends a stream."""
    return frame(RST_STREAM, 0, stream, code.to_bytes(4))


def goaway(last: int, code: int) -> bytes:
    """A frame that ends a connection: streams above ``last`` are not answered."""
    return frame(GOAWAY, 0, 0, last.to_bytes(4) + code.to_bytes(4))


def without_padding(flags: int, payload: bytes) -> bytes:
    """The payload of a frame that may be padded.

    Raises:
        Broken: there is more padding than payload.
    """
    if not flags & PADDED:
        return payload
    check(len(payload) > 0, FRAME_SIZE_ERROR)
    check(payload[0] < len(payload))
    return payload[1 : len(payload) - payload[0]]


def block(fields: Iterable[tuple[str, str]]) -> bytes:
    """Headers, written out, so that no table is kept.

    The first byte says so: a peer that wants a smaller table than usual waits for it.
    """
    return b"\x20" + b"".join([field(name, value) for name, value in fields])


def field(name: str, value: str) -> bytes:
    """A header that enters no table; what is not ASCII becomes a question mark."""
    key, text = name.encode(), value.encode("ascii", "replace")
    return b"\0%b%b%b%b" % (_integer(len(key)), key, _integer(len(text)), text)


@lru_cache(maxsize=128)
def _integer(number: int) -> bytes:
    """An integer with a prefix of seven bits (RFC 7541, 5.1)."""
    if number < 127:
        return bytes((number,))
    rest = number - 127
    text = bytearray((127,))
    while rest > 127:
        text.append(rest & 127 | 128)
        rest >>= 7
    return bytes((*text, rest))


class Head(NamedTuple):
    """The headers of a call."""

    fields: Mapping[str, str]
    """Names are in lower case; of several with the same name, the last counts."""
    size: int
    """Bytes, as HTTP/2 counts them."""


class Heads:
    """Decodes the heads of one connection, those that it remembers in a fiftieth of the time."""

    def __init__(self) -> None:
        self._decoder = Decoder(LONGEST_HEAD)
        self._known: dict[bytes, Head] = {}

    def decode(self, block: bytes) -> Head:
        """The headers in ``block``.

        Raises:
            Broken: they cannot be decoded, nor any after them.
        """
        if known := self._known.get(block):
            return known
        try:
            fields = self._decoder.decode(block, raw=True)
        except HPACKError:
            raise Broken(COMPRESSION_ERROR) from None
        head = Head(
            {name.decode("latin-1"): value.decode("latin-1") for name, value in fields},
            sum([len(name) + len(value) + 32 for name, value in fields]),
        )
        # Bytes of less than 128 may be part of what changes the table.
        if any(byte < 128 for byte in block) or len(self._known) == HEADS:
            self._known.clear()
        else:
            self._known[block] = head
        return head
