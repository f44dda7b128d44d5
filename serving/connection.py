"""One connection of HTTP/2: it takes a client's frames, and makes calls of them.

Rules: RFC 9113. A client that breaks one, where no call alone can be blamed, loses the connection.
"""

import asyncio
from http import HTTPStatus
from random import uniform
from time import monotonic
from typing import TYPE_CHECKING

from serving import frames
from serving.frames import HIGHEST, LONGEST_HEAD, Broken, Heads, check, frame
from serving.message import refusal
from serving.stream import Stream, Streams
from serving.timeout import Timeout

if TYPE_CHECKING:
    from serving.http2 import Server

STREAMS = 400
"""Most calls at a time on one connection; further ones are refused on the wire. A gateway's
connection has those of many clients."""
IDLE_FRAMES = 1000
"""Most frames between two calls, complete or refused, that bring no call on, such as pings."""
TURN = 0.001
"""Seconds for which a connection may take frames before others have their turn."""

AGE = 60
"""Seconds, give or take a tenth, after which a connection accepts no more calls; its client opens
another, perhaps to another pod. A load balancer of connections could not move it otherwise."""
AGE_GRACE = 30
"""Seconds that the calls of such a connection have to end."""
UNREAD = 30
"""Seconds that a client has to read what it is sent."""
GOODBYE = 1
"""Seconds that a client has to answer that its connection ends, and again to close it."""

NO_HTTP2 = refusal(HTTPStatus.BAD_REQUEST, "this port speaks gRPC; REST has another").encode(
    keep_alive=False
)


class Connection(asyncio.Protocol):
    """One connection of a client."""

    def __init__(self, server: "Server") -> None:
        """Receive calls for ``server``."""
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._streams = Streams(self._loop)
        self._heads = Heads()
        self._rest = b""
        """What is received and not taken yet: part of a frame, or what is left after a turn."""
        self._has_preface = False
        self._head: tuple[int, int, bytes] | None = None
        """The flags and the stream of a head that is not complete, and what there is of it."""
        self._last = 0
        """The highest stream so far."""
        self._received = 0
        """Bytes of data since the client was told that it may send as many again."""
        self._idle = 0
        """Frames since the last call that was complete, or refused, that brought no call on."""
        self._is_read = True
        """Whether the client reads what it is sent."""
        self._unread = Timeout(self._loop, UNREAD, self._abort)
        self._farewell: asyncio.TimerHandle | None = None
        """Set when the client is told that the connection is about to end."""
        self._takes_calls = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Tell our limits."""
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]
        self._streams.transport = self._transport
        self._end = self._loop.call_later(AGE * uniform(0.9, 1.1), self.retire, AGE_GRACE)
        ours = {
            frames.MAX_CONCURRENT_STREAMS: STREAMS,
            frames.INITIAL_WINDOW_SIZE: self._server.window,
            frames.MAX_HEADER_LIST_SIZE: LONGEST_HEAD,
        }
        more = (HIGHEST - frames.FIRST_WINDOW).to_bytes(4)
        self._transport.write(frames.settings(ours.items()) + frame(frames.WINDOW, 0, 0, more))
        self._server.add(self)

    def connection_lost(self, _: Exception | None) -> None:
        """The client has gone, or we have closed."""
        self._server.discard(self)
        self._unread.close()
        self._end.cancel()
        if self._farewell:
            self._farewell.cancel()
        self._streams.drop_all()

    def pause_writing(self) -> None:
        """The client does not read: give it ``UNREAD`` seconds, and take nothing meanwhile."""
        self._is_read = False
        self._unread.begin()
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        """The client has read all."""
        self._is_read = True
        self._unread.end()
        self._go_on()

    def data_received(self, data: bytes) -> None:
        """Take the frames that are complete."""
        self._rest += data
        try:
            if self._has_preface or self._take_preface():
                self._take_frames()
        except Broken as broken:
            self._transport.write(frames.goaway(self._last, broken.code))
            self._transport.close()

    def retire(self, grace: float) -> None:
        """Take no more calls but those on their way; all have ``grace`` seconds to end.

        The client, which may have sent calls before it knew, is told twice (RFC 9113, 6.8).
        """
        self._end.cancel()
        self._end = self._loop.call_later(grace, self._abort)
        if not self._farewell:
            self._transport.write(
                frames.goaway(HIGHEST, frames.NO_ERROR) + frame(frames.PING, 0, 0, bytes(8))
            )
            self._farewell = self._loop.call_later(GOODBYE, self._part)

    def _take_preface(self) -> bool:
        """Whether the client speaks HTTP/2; if it does not, close."""
        begin = self._rest[: len(frames.PREFACE)]
        if begin == frames.PREFACE:
            self._has_preface = True
            self._rest = self._rest[len(begin) :]
        elif not frames.PREFACE.startswith(begin):
            self._transport.write(NO_HTTP2)
            self._transport.close()
        return self._has_preface

    def _take_frames(self) -> None:
        data, at = self._rest, 0
        until = monotonic() + TURN
        while (begin := at + frames.HEAD.size) <= len(data) and not self._transport.is_closing():
            high, low, kind, flags, number = frames.HEAD.unpack_from(data, at)
            end = begin + (high << 8 | low)
            check(end - begin <= frames.LARGEST, frames.FRAME_SIZE_ERROR)
            if end > len(data):
                break
            self._take(kind, flags, number & HIGHEST, data[begin:end])
            at = end
            if monotonic() > until:
                self._transport.pause_reading()
                self._loop.call_soon(self._go_on)
                break
        self._rest = data[at:]

    def _go_on(self) -> None:
        if self._is_read and not self._transport.is_closing():
            self._transport.resume_reading()
            self.data_received(b"")

    def _take(self, kind: int, flags: int, number: int, payload: bytes) -> None:
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
        elif number <= self._last or not self._takes_calls:
            self._count_idle()
            return
        elif len(self._streams) == STREAMS:
            self._last = number
            self._count_idle()
            self._transport.write(frames.reset(number, frames.REFUSED_STREAM))
            return
        else:
            self._last = number
            stream = self._server.make(self._streams, number, head)
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
        elif self._farewell and self._takes_calls:
            self._farewell.cancel()
            self._part()

    def _take_window(self, number: int, payload: bytes) -> None:
        self._count_idle()
        check(len(payload) == 4, frames.FRAME_SIZE_ERROR)
        self._check_begun(number)
        more = int.from_bytes(payload) & HIGHEST
        check(more > 0)
        self._streams.enlarge(number, more)

    def _check_begun(self, number: int) -> None:
        """Check that a stream has begun, or might have before the client knew of the end."""
        check(number <= self._last or not self._takes_calls)

    def _count_idle(self) -> None:
        """Count a frame that brings no call on."""
        self._idle += 1
        check(self._idle <= IDLE_FRAMES, frames.ENHANCE_YOUR_CALM)

    def _part(self) -> None:
        """Take no more calls: the client has been told."""
        self._takes_calls = False
        self._transport.write(frames.goaway(self._last, frames.NO_ERROR))
        self._farewell = self._loop.call_later(GOODBYE, self._close_if_done)

    def _close_if_done(self) -> None:
        """Close unless there are calls in hand; a client closes as soon as there are none."""
        if self._streams:
            self._farewell = self._loop.call_later(GOODBYE, self._close_if_done)
        else:
            self._transport.close()

    def _abort(self) -> None:
        self._transport.abort()
