"""Messages of gRPC that are compressed."""

import zlib

from serving.errors import InvalidInput, TooLarge

WINDOWS = {"gzip": zlib.MAX_WBITS + 16, "deflate": zlib.MAX_WBITS}
"""Encodings that can be read, with what ``zlib`` calls them."""


def inflate(message: bytes, encoding: str, *, most: int) -> bytes:
    """What has been compressed to ``message``.

    Raises:
        InvalidInput: it is not one, whole, in this encoding.
        TooLarge: it has more than ``most`` bytes.
    """
    if encoding not in WINDOWS:
        raise InvalidInput("the message is compressed, but not by any grpc-encoding")
    inflater = zlib.decompressobj(WINDOWS[encoding])
    broken = f"the message is not compressed by {encoding}"
    try:
        inflated = inflater.decompress(message, most + 1)
    except zlib.error:
        raise InvalidInput(broken) from None
    if len(inflated) > most:
        raise TooLarge(f"the message is over the limit of {most} bytes")
    if inflater.unused_data or not inflater.eof:  # the checksum is at the end
        raise InvalidInput(broken)
    return inflated
