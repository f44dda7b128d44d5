"""An HTTP/1.1 client for one host: a POST uses an idle connection, or opens a new one.

With a general client, a call costs more time than all else that the transformer does for it
(docs/decisions/calls.md). This one leaves out redirects, cookies, proxies, compression, and
answers that end only with the connection.
"""

import asyncio
import os
import ssl
from collections.abc import Mapping
from typing import cast
from urllib.parse import urlsplit

import httptools

from serving.message import Response, write_headers

LONGEST = 2**20
"""Largest answer, in bytes. The scores of 256 images take a hundredth of it."""


class Client:
    """Connections to one host, as many as there are concurrent requests."""

    def __init__(self, url: str, *, timeout: float) -> None:
        """Post to ``url``; a call may take ``timeout`` seconds.

        Over TLS the host's certificate is checked with the bundle in ``REQUESTS_CA_BUNDLE``, which
        KServe's controller sets, or else with the system's.
        """
        parts = urlsplit(url)
        self._timeout = timeout
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._ssl = None
        if parts.scheme == "https":
            self._ssl = ssl.create_default_context(cafile=os.environ.get("REQUESTS_CA_BUNDLE"))
        self._start = f"POST {parts.path} HTTP/1.1\r\nhost: {parts.netloc}\r\n"
        self._idle: list[_Connection] = []

    async def post(self, body: bytes, headers: Mapping[str, str]) -> Response:
        """POST ``body`` and return the answer.

        Raises:
            ValueError: a header contains a line break.
            TimeoutError: the answer did not come in time.
            OSError: there was no connection, or it broke; as ``ConnectionError`` also if the
                answer was not HTTP, or too long.
        """
        head = f"{self._start}{write_headers(headers)}content-length: {len(body)}\r\n\r\n"
        try:
            async with asyncio.timeout(self._timeout):
                connection = await self._connection()
                try:
                    response = await connection.ask(head.encode("latin-1") + body)
                except BaseException:
                    connection.close()  # the rest of the answer must not be taken for the next one
                    raise
        except OSError:  # TimeoutError is one
            self.close()  # if the host has vanished, the idle ones are dead too
            raise
        if connection.is_open:
            self._idle.append(connection)
        return response

    def close(self) -> None:
        """Close the idle connections."""
        for connection in self._idle:
            connection.close()

    async def _connection(self) -> "_Connection":
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open:
                return connection
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(
            _Connection, self._host, self._port, ssl=self._ssl
        )
        return connection


class _Connection(asyncio.Protocol):
    """One connection, with one request at a time; httptools' parser calls the methods ``on_…``."""

    _transport: asyncio.Transport

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._answer: asyncio.Future[Response] | None = None
        self._received = 0
        self.is_open = True

    async def ask(self, request: bytes) -> Response:
        self._answer = asyncio.get_running_loop().create_future()
        self._received = 0
        self._transport.write(request)
        return await self._answer

    def close(self) -> None:
        self.is_open = False
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, error: Exception | None) -> None:
        self.is_open = False
        self._fail(error or ConnectionResetError("the connection was closed"))

    def data_received(self, data: bytes) -> None:
        self._received += len(data)
        if self._received > LONGEST:
            self.close()
            self._fail(ConnectionError(f"an answer of more than {LONGEST} bytes"))
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self.close()
            self._fail(ConnectionError(f"not HTTP: {error}"))

    def on_message_begin(self) -> None:
        if self._answer is None:
            self.close()  # an answer to no request
        self._headers: dict[str, str] = {}
        self._chunks: list[bytes] = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_body(self, chunk: bytes) -> None:
        self._chunks.append(chunk)

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:
            return  # an interim answer: the real one follows
        if not self._parser.should_keep_alive():
            self.close()
        answer, self._answer = self._answer, None
        if answer and not answer.done():
            answer.set_result(Response(status, self._headers, b"".join(self._chunks)))

    def _fail(self, error: Exception) -> None:
        if self._answer and not self._answer.done():
            self._answer.set_exception(error)
