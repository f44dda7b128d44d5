"""The calls of an HTTP/2 connection, and their answers, sent as fast as the client has room."""

import asyncio
from abc import ABC, abstractmethod
from typing import NamedTuple

from serving import frames
from serving.frames import FIRST_WINDOW, HIGHEST, check, frame

UNREAD = 30
"""Seconds that a client has to read what it is sent, and to make room for an answer."""


class Stream(ABC):
    """A call, as its connection sees it."""

    __slots__ = ("is_whole", "number", "streams", "window")

    def __init__(self, streams: "Streams", number: int) -> None:
        """Begin a call among ``streams``, which know it by ``number``."""
        self.streams = streams
        self.number = number
        self.window = streams.first_window
        """Bytes that the client has room for."""
        self.is_whole = False
        """Whether the client has sent all of it."""

    @abstractmethod
    def begin(self) -> None:
        """The head is there; the call may be answered from now on."""

    @abstractmethod
    def receive(self, data: bytes) -> None:
        """Take a piece of the body."""

    @abstractmethod
    def complete(self) -> None:
        """The body is complete."""

    @abstractmethod
    def hang_up(self) -> None:
        """The client has gone, or wants no answer any more."""


class _Unsent(NamedTuple):
    """The rest of an answer that the client has no room for yet."""

    stream: Stream
    message: memoryview
    trailers: bytes
    limit: asyncio.TimerHandle


class Streams:
    """The calls in hand of one connection."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.transport: asyncio.Transport
        """Of the connection, once it is made."""
        self.first_window = FIRST_WINDOW
        """Bytes that the client has room for in each stream at first."""
        self.largest = frames.LARGEST
        """Most bytes that the client takes in a frame."""
        self._loop = loop
        self._window = FIRST_WINDOW
        """Bytes that the client has room for in all streams."""
        self._streams: dict[int, Stream] = {}
        self._unsent: dict[int, _Unsent] = {}

    def __len__(self) -> int:
        return len(self._streams)

    def get(self, number: int) -> Stream | None:
        """The stream with this number, unless it has ended."""
        return self._streams.get(number)

    def begin(self, stream: Stream) -> None:
        """Begin a stream."""
        self._streams[stream.number] = stream
        stream.begin()

    def drop(self, number: int) -> None:
        """The client does not want the answer of a stream, if that has not ended."""
        if unsent := self._unsent.pop(number, None):
            unsent.limit.cancel()
        if stream := self._streams.pop(number, None):
            stream.hang_up()

    def drop_all(self) -> None:
        """The client has gone."""
        for number in [*self._streams]:
            self.drop(number)

    def answer(self, stream: Stream, head: bytes, message: bytes, trailers: bytes) -> None:
        """Answer a stream, unless it has ended, with headers, a message and headers."""
        if not self._awaits(stream):
            return
        number, size = stream.number, len(message)
        start = frame(frames.HEADERS, frames.END_HEADERS, number, head)
        if size <= min(self._window, stream.window, self.largest):
            self._window -= size
            self._finish(stream, start + frame(frames.DATA, 0, number, message), trailers)
        else:
            self.transport.write(start)
            limit = self._loop.call_later(UNREAD, self._cancel, number)
            self._unsent[number] = _Unsent(stream, memoryview(message), trailers, limit)
            self.send()

    def refuse(self, stream: Stream, head: bytes) -> None:
        """Answer a stream, unless it has ended, with headers alone."""
        if self._awaits(stream):
            self._finish(stream, b"", head)

    def resize(self, first_window: int) -> None:
        """The client has room for other many bytes in each stream, those in hand too.

        They may be sent once it is told that we know (``send``).
        """
        check(first_window <= HIGHEST, frames.FLOW_CONTROL_ERROR)
        for stream in self._streams.values():
            stream.window += first_window - self.first_window
        self.first_window = first_window

    def enlarge(self, number: int, more: int) -> None:
        """The client has room for more bytes in a stream, or in all if ``number`` is 0."""
        if number == 0:
            self._window += more
            check(self._window <= HIGHEST, frames.FLOW_CONTROL_ERROR)
        elif stream := self._streams.get(number):
            stream.window += more
            check(stream.window <= HIGHEST, frames.FLOW_CONTROL_ERROR)
        self.send()

    def send(self) -> None:
        """Send as much as the client has room for."""
        for number, unsent in [*self._unsent.items()]:
            stream, message, trailers, limit = unsent
            while (size := min(len(message), self._window, stream.window, self.largest)) > 0:
                self.transport.write(frame(frames.DATA, 0, number, bytes(message[:size])))
                self._window -= size
                stream.window -= size
                message = message[size:]
            if message:
                self._unsent[number] = unsent._replace(message=message)
            else:
                limit.cancel()
                del self._unsent[number]
                self._finish(stream, b"", trailers)

    def _awaits(self, stream: Stream) -> bool:
        return stream.number in self._streams and not self.transport.is_closing()

    def _finish(self, stream: Stream, data: bytes, trailers: bytes) -> None:
        """Send the end of an answer."""
        flags = frames.END_HEADERS | frames.END_STREAM
        data += frame(frames.HEADERS, flags, stream.number, trailers)
        if not stream.is_whole:
            data += frames.reset(stream.number, frames.NO_ERROR)
        self.transport.write(data)
        del self._streams[stream.number]

    def _cancel(self, number: int) -> None:
        self.transport.write(frames.reset(number, frames.CANCEL))
        self.drop(number)
