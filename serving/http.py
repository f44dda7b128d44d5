"""uvicorn's HTTP/1.1 with the limits that it lacks, and a shortcut for inferences.

What a client sends has limits (``serving.arrival``), and so has the time to begin with a request. A
request beyond the limit of requests in hand is refused as soon as its head has arrived, without a
task of its own, so that refusals take little from the requests that are answered; if there are too
many, the next ones wait in the kernel, which costs nothing (``serving.gate.InHand``). Inferences go
straight to our app (``serving.exchange``), everything else goes through ASGI.

Overrides ``uvicorn.protocols.http.httptools_impl.HttpToolsProtocol`` of uvicorn 0.54.
"""

import asyncio
from functools import lru_cache
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from serving.app import App, Found
from serving.arrival import LONGEST_HEAD, MOST_HEADERS, TOO_LARGE, TOO_SLOW, Arrival
from serving.errors import Overloaded
from serving.exchange import Exchange
from serving.gate import TOO_MANY, Bodies, InHand
from serving.listener import Listener
from serving.message import refusal
from serving.timeout import Timeout
from serving.turn import Turn
from serving.upgrade import feed

UNREAD = 30
"""Seconds that a client has to read what it is sent."""
PIPELINED = 64
"""Requests that a client may have waiting behind the one that is being answered."""
GOODBYE = 1
"""Seconds that an idle client has to close TLS when the program stops."""

INVALID = refusal(HTTPStatus.BAD_REQUEST, "this is not HTTP").encode(keep_alive=False)


@lru_cache(maxsize=32)
def _split(url: bytes) -> tuple[str, str]:
    """Path and query of a request's URL."""
    parts = httptools.parse_url(url)
    if parts.path is None:
        raise httptools.HttpParserInvalidURLError(url)
    return unquote(parts.path.decode("ascii")), (parts.query or b"").decode("latin-1")


class Protocol(HttpToolsProtocol):
    """One connection."""

    def __init__(
        self,
        *args: Any,
        listener: Listener,
        app: App,
        in_hand: InHand,
        bodies: Bodies,
        **kwargs: Any,
    ) -> None:
        """Set up one connection.

        Args:
            args: from uvicorn.
            listener: accepts further connections.
            app: answers inferences.
            in_hand: the requests of all connections; a POST beyond the limit is refused, a health
                check never.
            bodies: the bodies of all connections.
            kwargs: from uvicorn.
        """
        super().__init__(*args, **kwargs)
        self._listener = listener
        self._inferences = app
        self._in_hand = in_hand
        self._bodies = bodies
        self._idle = Timeout(self.loop, self.timeout_keep_alive, self._time_out_idle)
        self._arrival = Arrival(self.loop, self._time_out)
        self._unread = Timeout(self.loop, UNREAD, lambda: self.transport.abort())
        self._running: Exchange | RequestResponseCycle | None = None
        """The request being answered; ``cycle`` is the last one received."""
        self._is_refused = False
        self._last_answer: bytes | None = None
        """An error to send, before closing, once the requests before it are answered."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Accept further connections; wait for the first request as long as for the next ones."""
        super().connection_made(transport)
        self._turn = Turn(self.loop, self._in_hand, self.flow, transport)
        # So that we notice any unread byte. With 0, uvloop's TLS would find 0 bytes too many.
        transport.set_write_buffer_limits(1)
        if self._listener.is_closed:
            transport.close()
            return
        self._listener.take(self._another, self.config.ssl)
        self._idle.begin()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the timers and the requests that are not answered yet."""
        unanswered: list[Any] = [self._running, *[cycle for cycle, _ in self.pipeline]]
        for each in unanswered:
            if isinstance(each, Exchange):
                each.hang_up()
        if isinstance(self._running, RequestResponseCycle):
            self.cycle = self._running  # uvicorn tells this one
        elif isinstance(self.cycle, Exchange):
            self.cycle = None
        super().connection_lost(exc)
        self._running = None
        self._in_hand.leave(self)
        for each in (self._idle, self._arrival.time, self._unread, self._turn):
            each.close()

    def data_received(self, data: bytes) -> None:
        """Feed the parser, which calls the methods below; limit what is still incomplete."""
        if self._is_ending():
            return
        self._arrival.receive(len(data))
        try:
            feed(self, data)
        except httptools.HttpParserError as error:
            raised = error.__context__  # what a method below raised
            if raised and not isinstance(raised, (httptools.HttpParserError, UnicodeError)):
                raise  # a defect, which the loop logs
            self.logger.warning("what came was not HTTP")
            self._close(INVALID)
        in_part = self._arrival.in_head or self._arrival.in_body or self._is_refused
        # An empty line does not begin a request: the connection stays idle.
        if in_part or not self._is_answered():
            self._idle.end()
        elif not self._idle.has_begun():  # a body has ended, after its answer
            self._idle.begin()
        if in_part and not self._is_ending() and (refused := self._arrival.refusal()):
            self._close(refused)

    def on_message_begin(self) -> None:
        """A head begins."""
        super().on_message_begin()
        self._arrival.begin_head()

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header has come, in a head or behind the last chunk."""
        if len(self.headers) < MOST_HEADERS:
            super().on_header(name, value)
        elif not self._is_ending():
            self._close(TOO_LARGE)

    def on_headers_complete(self) -> None:
        """A head is complete: begin to answer the request, or refuse it at once."""
        if self.parser.should_upgrade() or self._is_ending():
            return  # an upgrade is parsed again without it, see `serving.upgrade`
        self._arrival.end()
        path, query = _split(self.url)
        is_post = self.parser.get_method() == b"POST"
        is_next = self._is_answered()  # pipelined requests must be answered in order
        size = len(self.url) + sum([len(name) + len(value) for name, value in self.headers])
        if size > LONGEST_HEAD:
            self._close(TOO_LARGE)
        elif len(self.pipeline) == PIPELINED:
            self.transport.abort()
        elif is_next and is_post and not self._turn.asked():
            self._listener.shorten()
        elif is_next and is_post and self._in_hand.is_full():
            self._refuse(path)
        else:
            self._arrival.in_body = True
            if found := self._inferences.find(path) if is_post else None:
                self._begin(found, query, is_next=is_next)
            else:
                super().on_headers_complete()

    def on_chunk_header(self) -> None:
        """A chunk of a body begins."""
        self._arrival.begin_chunk()

    def on_body(self, body: bytes) -> None:
        """Pass on a piece of a body, or drop it if its request is refused."""
        self._arrival.receive_body()
        if self._is_refused or self._is_ending():
            return
        if isinstance(self.cycle, Exchange):
            self.cycle.receive(body)
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """A request has arrived completely, or a refused one is over."""
        if self.parser.should_upgrade():
            return
        self._arrival.end()
        self.count()
        if self._is_refused:
            self._is_refused = False
            if self.parser.should_keep_alive():
                self.on_response_complete()
                if not self._listener.is_closed:
                    self._turn.refused()
            else:
                self.transport.close()
        elif isinstance(self.cycle, Exchange):
            self.cycle.complete()
            if self.cycle.response_complete and not self.cycle.keep_alive:
                self.transport.close()
        elif not self._is_ending():
            super().on_message_complete()

    def on_response_complete(self) -> None:
        """Go on with the next pipelined request, as uvicorn does; read on only once there is none.

        Without any, our timer begins, for the time in which nothing is received.
        """
        is_inference = isinstance(self._running, Exchange)
        self._running = None
        self.count()
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            following, app = self.pipeline.pop()
            if isinstance(following, Exchange) and self._in_hand.is_full():
                following.refuse(Overloaded(TOO_MANY))
            self._start_asgi_task(following, app)
            if self.pipeline and not self._last_answer:
                self.flow.pause_reading()
        elif self._last_answer:
            self.transport.write(self._last_answer)
            self.transport.close()
        elif not (self._arrival.in_head or self._arrival.in_body):
            self._idle.begin()
            if is_inference:
                self._turn.answered()

    def pause_writing(self) -> None:
        """The client does not read: give it ``UNREAD`` seconds."""
        super().pause_writing()
        self.count()
        self._unread.begin()

    def resume_writing(self) -> None:
        """The client has read all."""
        super().resume_writing()
        self.count()
        self._unread.end()

    def shutdown(self) -> None:
        """Close if idle; over TLS, wait at most ``GOODBYE`` seconds for the client to close too."""
        if self._turn.is_awaited():
            self._turn.read_on()
            self.loop.call_later(GOODBYE, self.shutdown)
            return
        super().shutdown()
        has_unsent = self.transport.get_write_buffer_size() > 0
        if self.transport.is_closing() and self.config.ssl and not has_unsent:
            self.loop.call_later(GOODBYE, self.transport.abort)

    def count(self) -> None:
        """Count the request being answered as in hand, unless it waits for its client."""
        running = self._running
        is_whole = bool(self.pipeline) or not self._arrival.in_body
        is_read = not self.flow.write_paused or (isinstance(running, Exchange) and running.works)
        if running and is_whole and is_read:
            self._in_hand.busy.add(self)
        else:
            self._in_hand.leave(self)

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)
        self.count()

    def _another(self) -> asyncio.Protocol:
        config, state = self.config, self.server_state
        make: Any = config.http_protocol_class
        protocol: asyncio.Protocol = make(
            config=config, server_state=state, app_state=self.app_state, _loop=self.loop
        )
        return protocol

    def _begin(self, found: Found, query: str, *, is_next: bool) -> None:
        """Answer an inference, at once or after those before it."""
        version = self.parser.get_http_version()
        exchange = Exchange(
            self,
            self._inferences,
            self._bodies,
            found,
            query,
            keep_alive=version != "1.0" and self.parser.should_keep_alive(),
            expects_continue=self.expect_100_continue and version != "1.0",
        )
        self.cycle = exchange  # type: ignore[assignment]
        if is_next:
            self._start_asgi_task(exchange, self.app)
        else:
            # As uvicorn does. While reading is paused, we do not notice that a client hangs up.
            self.flow.pause_reading()
            self.pipeline.appendleft((exchange, self.app))  # type: ignore[arg-type]

    def _refuse(self, path: str) -> None:
        self._is_refused = True
        self._inferences.refused(path)
        if self.flow.write_paused:  # the client has not read its last answer
            self.transport.abort()
        else:
            self.transport.write(self._inferences.overloaded)

    def _is_answered(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _time_out_idle(self) -> None:
        if self.flow.read_paused:  # we are the ones who do not read
            self._idle.begin()
        else:
            self.timeout_keep_alive_handler()

    def _time_out(self) -> None:
        if self.flow.read_paused:  # we are the ones who do not read
            self._arrival.time.begin()
        else:
            self._close(TOO_SLOW)

    def _is_ending(self) -> bool:
        return self._last_answer is not None or self.transport.is_closing()

    def _close(self, answer: bytes) -> None:
        """Answer what is being received once all before it is answered, and close."""
        is_next = not self.pipeline if self._arrival.in_body else self._is_answered()
        if is_next:
            has_answer = self.cycle.response_started if self._arrival.in_body else self._is_refused
            if not has_answer:
                self.transport.write(answer)
            self.transport.close()
            return
        self._last_answer = answer
        if self._arrival.in_body:
            exchange, _ = self.pipeline.popleft()
            if isinstance(exchange, Exchange):
                exchange.hang_up()
        self._arrival.end()
        self.flow.resume_reading()  # closing with unread data could lose answers to the client
