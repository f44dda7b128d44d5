"""Requests that ask to upgrade the connection, answered as if they did not.

A server may ignore an upgrade (RFC 9110, 7.8), and Java's client asks for HTTP/2 each time. But to
httptools such a request ends after its head, and its body would be lost.
"""

from typing import Any, Protocol

import httptools


class Connection(Protocol):
    """What the parser calls back, with the head that it has read."""

    parser: Any
    url: bytes
    headers: list[tuple[bytes, bytes]]


def feed(connection: Connection, data: bytes) -> None:
    """Feed ``data`` to the connection's parser, and each head with an upgrade again without it.

    Raises:
        httptools.HttpParserError: it is not HTTP, or a CONNECT.
    """
    rest = memoryview(data)
    while rest:
        try:
            connection.parser.feed_data(rest)
            return
        except httptools.HttpParserUpgrade as upgrade:
            rest = rest[upgrade.args[0] :]
        if connection.parser.get_method() == b"CONNECT":  # an upgrade too, for the parser
            raise httptools.HttpParserInvalidMethodError("CONNECT")
        head = _head_without_upgrade(connection)
        connection.parser = httptools.HttpRequestParser(connection)
        connection.parser.feed_data(head)


def _head_without_upgrade(connection: Connection) -> bytes:
    parser = connection.parser
    version = parser.get_http_version().encode()
    lines = [b"%b %b HTTP/%b" % (parser.get_method(), connection.url, version)]
    lines += [b"%b: %b" % header for header in connection.headers if header[0] != b"upgrade"]
    return b"\r\n".join([*lines, b"", b""])
