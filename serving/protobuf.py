"""Parsing Protocol Buffers, with a limit on the fields that is checked before.

A field may take two bytes on the wire and a hundred in memory. Wire format:
https://protobuf.dev/programming-guides/encoding/
"""

from google.protobuf.descriptor import Descriptor
from google.protobuf.message import DecodeError, Message

from serving.errors import InvalidInput

NO_MESSAGE = "not a message of V2"
MOST_FIELDS = 1000
"""Most fields of a message and of the messages in it. A request with 256 images has 256 for these,
and a dozen more; numbers are all in one."""

_VARINT, _BYTES = 0, 2
_FIXED = {1: 8, 5: 4}
"""Wire types, the last two with their sizes in bytes. The others are groups, which V2 does not
have, and which would hide fields."""


def parse(kind: type[Message], data: bytes) -> Message:
    """Parse ``data`` as a message of that ``kind``.

    Raises:
        InvalidInput: it is not one, or has more than ``MOST_FIELDS`` fields.
    """
    # A field has at least two bytes.
    if len(data) > 2 * MOST_FIELDS and _count(kind.DESCRIPTOR, data, 0, len(data)) > MOST_FIELDS:
        raise InvalidInput(f"the message has more than {MOST_FIELDS} fields")
    try:
        return kind.FromString(data)
    except DecodeError:
        raise InvalidInput(NO_MESSAGE) from None


def _count(kind: Descriptor, data: bytes, at: int, end: int) -> int:
    """Count the fields of the message of that ``kind`` in ``data[at:end]``; stop at too many."""
    fields = 0
    while at < end and fields <= MOST_FIELDS:
        fields += 1
        tag, at = _varint(data, at)
        wire_type = tag & 7
        if wire_type in _FIXED:
            at += _FIXED[wire_type]
        elif wire_type == _VARINT:
            _, at = _varint(data, at)
        elif wire_type == _BYTES:
            size, at = _varint(data, at)
            field = kind.fields_by_number.get(tag >> 3)
            if field and field.message_type:
                fields += _count(field.message_type, data, at, at + size)
            at += size
        else:
            raise InvalidInput(NO_MESSAGE)
    return fields


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """The number at ``at``, of up to 64 bits, seven to a byte, lowest first; and where it ends."""
    number = 0
    for i, byte in enumerate(data[at : at + 10]):
        number |= (byte & 127) << 7 * i
        if byte < 128:
            return number, at + i + 1
    raise InvalidInput(NO_MESSAGE)
