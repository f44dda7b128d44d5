"""Requests that ask to upgrade the connection, answered as if they did not.

A server may ignore that (RFC 9110, 7.8), and Java's client asks for HTTP/2 each time. But httptools
ends such a request with its head, and would lose its body.
"""

from typing import Any, Protocol

import httptools


class Connection(Protocol):
    """What its parser calls back, and has read a head of."""

    parser: Any
    url: bytes
    headers: list[tuple[bytes, bytes]]


def feed(connection: Connection, data: bytes) -> None:
    """Have the connection's parser read ``data``, and each head that asks to upgrade once more.

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
        if connection.parser.get_method() == b"CONNECT":  # an upgrade, to the parser
            raise httptools.HttpParserInvalidMethodError("CONNECT")
        head = _head_without_upgrade(connection)
        connection.parser = httptools.HttpRequestParser(connection)
        connection.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        connection.parser.feed_data(head)


def _head_without_upgrade(connection: Connection) -> bytes:
    parser = connection.parser
    version = parser.get_http_version().encode()
    lines = [b"%b %b HTTP/%b" % (parser.get_method(), connection.url, version)]
    lines += [b"%b: %b" % header for header in connection.headers if header[0] != b"upgrade"]
    return b"\r\n".join([*lines, b"", b""])
