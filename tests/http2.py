"""A server of ``serving.http2`` on loopback, in this process, and clients that send it bytes."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

from serving import frames
from serving.frames import Head, block, frame
from serving.http2 import Server
from serving.stream import Stream, Streams

LARGEST = 2**20
"""Bytes that the server takes in a body."""
HEAD = block([(":status", "200")])
TRAILERS = block([("x-end", "1")])


class Echo(Stream):
    """Answers with what it has received: at ``/held`` later, at ``/refused`` with headers alone."""

    __slots__ = ("body", "is_gone", "path")

    def __init__(self, streams: Streams, number: int, head: Head) -> None:
        super().__init__(streams, number)
        self.path = head.fields.get(":path", "")
        self.body = b""
        self.is_gone = False

    def begin(self) -> None:
        if self.path == "/refused":
            self.streams.refuse(self, HEAD)

    def receive(self, data: bytes) -> None:
        self.body += data

    def complete(self) -> None:
        if self.path != "/held":
            self.answer()

    def answer(self) -> None:
        self.streams.answer(self, HEAD, self.body, TRAILERS)

    def hang_up(self) -> None:
        self.is_gone = True


class Service:
    """A server, and the calls that it has taken."""

    def __init__(self, largest: int = LARGEST) -> None:
        self.calls: list[Echo] = []
        self.heads: list[Head] = []
        self.server = Server(self._make, largest=largest)
        self._clients: list[asyncio.StreamWriter] = []

    def _make(self, streams: Streams, number: int, head: Head) -> Echo:
        self.heads.append(head)
        self.calls.append(Echo(streams, number, head))
        return self.calls[-1]

    async def dial(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection on which nothing is said yet."""
        reader, writer = await asyncio.open_connection(*self.address)
        self._clients.append(writer)
        return reader, writer

    async def connect(self, *settings: tuple[int, int]) -> "Client":
        """A client that has said hello."""
        client = Client(*await self.dial())
        client.send(frames.PREFACE, frames.settings(settings))
        return client

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Service"]:
        listening = socket.create_server(("127.0.0.1", 0))
        self.address = listening.getsockname()
        await self.server.start(listening)
        try:
            yield self
        finally:
            for writer in self._clients:
                writer.close()
            await self.server.stop(0)


class Frame(NamedTuple):
    """One of the server's."""

    kind: int
    flags: int
    stream: int
    payload: bytes


class Client:
    """A connection of a client, which keeps no rule but those that its test does."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, *parts: bytes) -> None:
        self.writer.write(b"".join(parts))

    async def frame(self) -> Frame:
        """The next frame."""
        async with asyncio.timeout(10):
            head = await self.reader.readexactly(frames.HEAD.size)
            high, low, kind, flags, stream = frames.HEAD.unpack(head)
            return Frame(kind, flags, stream, await self.reader.readexactly(high << 8 | low))

    async def next(self, kind: int) -> Frame:
        """The next frame of that ``kind``."""
        while (each := await self.frame()).kind != kind:
            pass
        return each

    async def echoed(self, stream: int) -> bytes:
        """The whole answer of a stream, up to its end."""
        data = bytearray()
        while True:
            each = await self.frame()
            assert each.kind != frames.GOAWAY, each
            if each.stream == stream and each.kind == frames.DATA:
                data += each.payload
            elif each.stream == stream and each.flags & frames.END_STREAM:
                return bytes(data)

    async def ended(self) -> tuple[int, int]:
        """The last stream and the code of the GOAWAY with which the server closes."""
        payload = (await self.next(frames.GOAWAY)).payload
        assert await self.reader.read() == b""
        return int.from_bytes(payload[:4]), int.from_bytes(payload[4:])

    async def is_closed(self) -> bool:
        """Whether the server closes, whatever it sends before."""
        async with asyncio.timeout(10):
            try:
                while await self.reader.read(2**16):
                    pass
            except ConnectionError:
                pass
        return True


def opened(stream: int, path: str = "/", *, end: bool = False, more: int = 0) -> bytes:
    """The head of a call, with ``more`` flags."""
    head = block([(":method", "POST"), (":path", path)])
    flags = frames.END_HEADERS | (frames.END_STREAM if end else 0) | more
    return frame(frames.HEADERS, flags, stream, head)


def data(stream: int, body: bytes = b"", *, end: bool = True) -> bytes:
    """A piece of a body, by default the last."""
    return frame(frames.DATA, frames.END_STREAM if end else 0, stream, body)


def call(stream: int, body: bytes = b"body", path: str = "/") -> bytes:
    """A whole one."""
    return opened(stream, path) + data(stream, body)


def window(stream: int, more: int) -> bytes:
    """Room for ``more`` bytes in a stream, or in all if it is 0."""
    return frame(frames.WINDOW, 0, stream, more.to_bytes(4))
