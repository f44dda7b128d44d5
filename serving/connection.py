"""One connection of HTTP/2, from its first byte to its end (RFC 9113)."""

import asyncio
from http import HTTPStatus
from random import uniform
from time import monotonic
from typing import TYPE_CHECKING

from serving import frames
from serving.frames import HIGHEST, LONGEST_HEAD, Broken, check, frame
from serving.message import refusal
from serving.receiver import STREAMS, Receiver
from serving.stream import UNREAD, Streams
from serving.timeout import Timeout

if TYPE_CHECKING:
    from serving.http2 import Server

TURN = 0.001
"""Seconds for which a connection may take frames before others have their turn."""

AGE = 60
"""Seconds, give or take a tenth, after which a connection accepts no more calls; its client opens
another, perhaps to another pod. A load balancer of connections could not move it otherwise."""
AGE_GRACE = 30
"""Seconds that the calls of such a connection have to end."""
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
        self._rest = b""
        """What is received and not taken yet: part of a frame, or what is left after a turn."""
        self._has_preface = False
        self._is_read = True
        """Whether the client reads what it is sent."""
        self._unread = Timeout(self._loop, UNREAD, self._abort)
        self._farewell: asyncio.TimerHandle | None = None
        """Set when the client is told that the connection is about to end."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Tell our limits."""
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]
        self._streams.transport = self._transport
        self._receiver = Receiver(self._transport, self._streams, self._server.make)
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
            self._transport.write(frames.goaway(self._receiver.last, broken.code))
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
            self._receiver.take(kind, flags, number & HIGHEST, data[begin:end])
            at = end
            if kind == frames.PING and flags & frames.ACK:
                self._on_pong()
            if monotonic() > until:
                self._transport.pause_reading()
                self._loop.call_soon(self._go_on)
                break
        self._rest = data[at:]

    def _go_on(self) -> None:
        if self._is_read and not self._transport.is_closing():
            self._transport.resume_reading()
            self.data_received(b"")

    def _on_pong(self) -> None:
        """The client has answered a ping."""
        if self._farewell and self._receiver.takes_calls:
            self._farewell.cancel()
            self._part()

    def _part(self) -> None:
        """Take no more calls: the client has been told."""
        self._receiver.takes_calls = False
        self._transport.write(frames.goaway(self._receiver.last, frames.NO_ERROR))
        self._farewell = self._loop.call_later(GOODBYE, self._close_if_done)

    def _close_if_done(self) -> None:
        """Close unless there are calls in hand; a client closes as soon as there are none."""
        if self._streams:
            self._farewell = self._loop.call_later(GOODBYE, self._close_if_done)
        else:
            self._transport.close()

    def _abort(self) -> None:
        self._transport.abort()
