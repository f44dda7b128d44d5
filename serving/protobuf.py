"""Parsing Protocol Buffers, with a limit on the fields that is checked before.

A field may take two bytes on the wire and a hundred in memory. Wire format:
https://protobuf.dev/programming-guides/encoding/
"""

from google.protobuf.message import DecodeError, Message

NO_MESSAGE = "not a message of V2"
MOST_FIELDS = 100
"""Most top-level fields of a message: model, id, parameters, and up to three for each tensor."""

_VARINT, _BYTES = 0, 2
_FIXED = {1: 8, 5: 4}
"""Wire types, the last two with their sizes in bytes. The others are groups, which V2 does not
have, and which would hide fields."""


def parse(kind: type[Message], data: bytes) -> Message:
    """Parse ``data`` as a message of that ``kind``.

    Raises:
        DecodeError: it is not one, or has more than ``MOST_FIELDS`` fields.
    """
    at = fields = 0
    while at < len(data):
        fields += 1
        if fields > MOST_FIELDS:
            raise DecodeError(f"the message has more than {MOST_FIELDS} fields")
        tag, at = _varint(data, at)
        wire_type = tag & 7
        if wire_type in _FIXED:
            at += _FIXED[wire_type]
        elif wire_type in (_VARINT, _BYTES):
            number, at = _varint(data, at)
            at += number if wire_type == _BYTES else 0
        else:
            raise DecodeError(NO_MESSAGE)
    try:
        return kind.FromString(data)
    except DecodeError:
        raise DecodeError(NO_MESSAGE) from None


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """The number at ``at``, of up to 64 bits, seven to a byte, lowest first; and where it ends."""
    number = 0
    for i, byte in enumerate(data[at : at + 10]):
        number |= (byte & 127) << 7 * i
        if byte < 128:
            return number, at + i + 1
    raise DecodeError(NO_MESSAGE)
