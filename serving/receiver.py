"""What a client of HTTP/2 sends: its frames, of which calls are made.

Rules: RFC 9113. A client that breaks one, where no call alone can be blamed, loses the connection.
"""

import asyncio
from collections.abc import Callable

from serving import frames
from serving.frames import HIGHEST, LONGEST_HEAD, Broken, Head, Heads, check, frame
from serving.stream import Stream, Streams

STREAMS = 400
"""Most calls at a time on one connection; further ones are refused on the wire. A gateway's
connection has those of many clients."""
IDLE_FRAMES = 1000
"""Most frames between two calls, complete or refused, that bring no call on, such as pings."""


class Receiver:
    """Takes the frames of one connection."""

    def __init__(
        self,
        transport: asyncio.Transport,
        streams: Streams,
        make: Callable[[Streams, int, Head], Stream],
    ) -> None:
        """Answer frames by ``transport``; begin what ``make`` makes of a head among ``streams``."""
        self._transport = transport
        self._streams = streams
        self._make = make
        self._heads = Heads()
        self._head: tuple[int, int, bytes] | None = None
        """The flags and the stream of a head that is not complete, and what there is of it."""
        self._received = 0
        """Bytes of data since the client was told that it may send as many again."""
        self._idle = 0
        """Frames since the last call that was complete, or refused, that brought no call on."""
        self.last = 0
        """The highest stream so far."""
        self.takes_calls = True
        """Whether further calls are taken."""

    def take(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        """Take a frame.

        Raises:
            Broken: it breaks a rule.
        """
        check(self._head is None or kind == frames.CONTINUATION)
        match kind:
            case frames.DATA:
                self._take_data(flags, number, payload)
            case frames.HEADERS:
                self._take_headers(flags, number, payload)
            case frames.CONTINUATION:
                self._take_continuation(flags, number, payload)
            case frames.RST_STREAM:
                self._take_reset(number, payload)
            case frames.SETTINGS:
                self._take_settings(flags, number, payload)
            case frames.PING:
                self._take_ping(flags, number, payload)
            case frames.WINDOW:
                self._take_window(number, payload)
            case frames.PUSH_PROMISE:
                raise Broken
            case _:
                self._count_idle()

    def _take_data(self, flags: int, number: int, payload: bytes) -> None:
        check(number > 0)
        self._check_begun(number)
        self._received += len(payload)
        if self._received > HIGHEST // 2:
            more = self._received.to_bytes(4)
            self._transport.write(frame(frames.WINDOW, 0, 0, more))
            self._received = 0
        data = frames.without_padding(flags, payload)
        stream = self._streams.get(number)
        if not data:
            self._count_idle()
        if stream is None:  # refused, which a client learns when it has sent the rest
            return
        check(not stream.is_whole, frames.STREAM_CLOSED)
        stream.is_whole = bool(flags & frames.END_STREAM)
        stream.receive(data)
        self._complete_if_whole(stream)

    def _take_headers(self, flags: int, number: int, payload: bytes) -> None:
        check(number % 2 == 1)
        head = frames.without_padding(flags, payload)
        if flags & frames.WITH_PRIORITY:
            head = head[5:]
        if flags & frames.END_HEADERS:
            self._begin(flags, number, head)
        else:
            self._head = flags, number, head

    def _take_continuation(self, flags: int, number: int, payload: bytes) -> None:
        self._count_idle()
        if self._head is None or number != self._head[1]:
            raise Broken
        first, _, head = self._head
        head += payload
        check(len(head) <= LONGEST_HEAD, frames.ENHANCE_YOUR_CALM)
        if flags & frames.END_HEADERS:
            self._head = None
            self._begin(first, number, head)
        else:
            self._head = first, number, head

    def _begin(self, flags: int, number: int, block: bytes) -> None:
        """A head is complete, or the trailers of a call."""
        head = self._heads.decode(block)
        is_whole = bool(flags & frames.END_STREAM)
        if stream := self._streams.get(number):
            check(is_whole and not stream.is_whole)
            stream.is_whole = True
        elif number <= self.last or not self.takes_calls:
            self._count_idle()
            return
        elif len(self._streams) == STREAMS:
            self.last = number
            self._count_idle()
            self._transport.write(frames.reset(number, frames.REFUSED_STREAM))
            return
        else:
            self.last = number
            stream = self._make(self._streams, number, head)
            stream.is_whole = is_whole
            self._streams.begin(stream)
        self._complete_if_whole(stream)

    def _complete_if_whole(self, stream: Stream) -> None:
        if self._streams.get(stream.number) is None:  # it has been refused
            self._idle = 0
        elif stream.is_whole:
            self._idle = 0
            stream.complete()

    def _take_reset(self, number: int, payload: bytes) -> None:
        self._count_idle()
        check(len(payload) == 4, frames.FRAME_SIZE_ERROR)
        check(number > 0)
        self._check_begun(number)
        self._streams.drop(number)

    def _take_settings(self, flags: int, number: int, payload: bytes) -> None:
        self._count_idle()
        check(number == 0)
        check(len(payload) % frames.SETTING.size == 0, frames.FRAME_SIZE_ERROR)
        if flags & frames.ACK:
            return
        values = dict(frames.SETTING.iter_unpack(payload))  # of thousands of one, the last counts
        if (largest := values.get(frames.MAX_FRAME_SIZE)) is not None:
            check(frames.LARGEST <= largest < 2**24)
            self._streams.largest = largest
        if (first_window := values.get(frames.INITIAL_WINDOW_SIZE)) is not None:
            self._streams.resize(first_window)
        self._transport.write(frame(frames.SETTINGS, frames.ACK, 0))
        self._streams.send()

    def _take_ping(self, flags: int, number: int, payload: bytes) -> None:
        self._count_idle()
        check(len(payload) == 8, frames.FRAME_SIZE_ERROR)
        check(number == 0)
        if not flags & frames.ACK:
            self._transport.write(frame(frames.PING, frames.ACK, 0, payload))

    def _take_window(self, number: int, payload: bytes) -> None:
        self._count_idle()
        check(len(payload) == 4, frames.FRAME_SIZE_ERROR)
        self._check_begun(number)
        more = int.from_bytes(payload) & HIGHEST
        check(more > 0)
        self._streams.enlarge(number, more)

    def _check_begun(self, number: int) -> None:
        """Check that a stream has begun, or might have before the client knew of the end."""
        check(number <= self.last or not self.takes_calls)

    def _count_idle(self) -> None:
        """Count a frame that brings no call on."""
        self._idle += 1
        check(self._idle <= IDLE_FRAMES, frames.ENHANCE_YOUR_CALM)
