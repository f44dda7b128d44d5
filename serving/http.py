"""uvicorn's HTTP/1.1, with the limits that it lacks, and a short way to the inferences.

What a connection costs before there is a request: a head (request line and headers) is held to a
size and a time, a body to a time, and so is a connection that sends nothing. What a request costs
before it is known to be one too many: it is refused as soon as its head is there, without a task of
its own, so that a service that is asked for ten times what it can do still does what it can.
An inference goes to our app straight from here (``serving.exchange``), all else by ASGI.

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
from serving.errors import Overloaded
from serving.exchange import Bodies, Exchange
from serving.gate import TOO_MANY, InHand
from serving.listener import Listener
from serving.message import refusal
from serving.upgrade import feed

LONGEST_HEAD = 64 * 1024
"""Bytes of request line and headers. What stands before us in a cluster has the same limit (Envoy)
or a higher one (Go)."""
TIMEOUT = 30
"""Seconds that a client has to send a head that it has begun, and again the body."""
UNREAD = 30
"""Seconds that a client has to read what it is sent."""
PIPELINED = 64
"""Requests that a client may have waiting behind the one that is being answered."""
GOODBYE = 1
"""Seconds that an idle client has to end TLS when the program stops."""

INVALID = refusal(HTTPStatus.BAD_REQUEST, "this is not HTTP").encode(keep_alive=False)
TOO_LARGE = refusal(
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    f"request line and headers have more than {LONGEST_HEAD} bytes",
).encode(keep_alive=False)
TOO_SLOW = refusal(
    HTTPStatus.REQUEST_TIMEOUT, f"the request was not complete after {TIMEOUT} s"
).encode(keep_alive=False)


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
        """Limit the requests in hand, over all connections; the rest is uvicorn's.

        Args:
            args: as uvicorn gives them.
            listener: brings further connections.
            app: answers the inferences.
            in_hand: counts the requests; a POST beyond its limit is refused, a health check never.
            bodies: those of all connections.
            kwargs: as uvicorn gives them.
        """
        super().__init__(*args, **kwargs)
        self._listener = listener
        self._inferences = app
        self._in_hand = in_hand
        self._bodies = bodies
        self._overhead = 0
        """Bytes so far of a head that is not complete, or of what is between a body's chunks."""
        self._timer: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None
        self._running: Exchange | RequestResponseCycle | None = None
        """The request that is being answered; ``cycle`` is the last one that has come."""
        self._in_head = False
        self._advances = False
        """Whether a head begins or ends in the piece at hand, or some of a body is in it."""
        self._in_body = False
        self._is_refused = False
        self._last_answer: bytes | None = None
        """What ends the connection, once all that is in hand is answered."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for a first request as long as for a further one."""
        super().connection_made(transport)
        # Whatever is not read is noticed. Of 0 bytes, uvloop's TLS would take 0 for too many.
        transport.set_write_buffer_limits(1)
        if self._listener.is_closed:
            transport.close()
            return
        self._listener.take(self._another, self.config.ssl)
        self.timeout_keep_alive_task = self.loop.call_later(
            self.timeout_keep_alive, self.timeout_keep_alive_handler
        )

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the timer, and what was on its way; give up what is being answered."""
        unanswered: list[Any] = [self._running, *[cycle for cycle, _ in self.pipeline]]
        for each in unanswered:
            if isinstance(each, Exchange):
                each.hang_up()
        if isinstance(self._running, RequestResponseCycle):
            self.cycle = self._running  # who is told by uvicorn
        elif isinstance(self.cycle, Exchange):
            self.cycle = None
        self._unset_keepalive_if_required()  # uvicorn does so only without an error
        super().connection_lost(exc)
        self._running = None
        self._in_hand.busy.discard(self)
        self._end_part()
        self._end_unread()

    def data_received(self, data: bytes) -> None:
        """Feed the parser, which calls the methods below; see what is left without an end."""
        if self._is_ending():
            return
        overhead, self._advances = self._overhead + len(data), False
        try:
            feed(self, data)
        except httptools.HttpParserError as error:
            raised = error.__context__  # by a method below
            if raised and not isinstance(raised, (httptools.HttpParserError, UnicodeError)):
                raise  # a defect, which the loop logs
            self.logger.warning("what came was not HTTP")
            self._close(INVALID)
        in_part = self._in_head or self._in_body or self._is_refused
        # An empty line is neither: the client has its time for a request all the same.
        if in_part or not self._is_answered():
            self._unset_keepalive_if_required()
        if not in_part or self._is_ending():
            return
        self._overhead = 0 if self._advances else overhead
        if self._overhead > LONGEST_HEAD:
            self._close(TOO_LARGE)
        elif self._timer is None:
            self._timer = self.loop.call_later(TIMEOUT, self._time_out)

    def on_message_begin(self) -> None:
        """A head begins."""
        super().on_message_begin()
        self._in_head = self._advances = True

    def on_headers_complete(self) -> None:
        """A request is there, its body aside: answer it, or refuse it at once."""
        if self.parser.should_upgrade() or self._is_ending():
            return  # it comes again, see `serving.upgrade`; or never mind
        self._end_part()
        self._advances = True
        path, query = _split(self.url)
        is_post = self.parser.get_method() == b"POST"
        is_next = self._is_answered()  # of pipelined requests the answers must come in order
        size = len(self.url) + sum([len(name) + len(value) for name, value in self.headers])
        if size > LONGEST_HEAD:
            self._close(TOO_LARGE)
        elif len(self.pipeline) == PIPELINED:
            self.transport.abort()
        elif is_next and is_post and self._in_hand.is_full():
            self._refuse(path)
        else:
            self._in_body = True
            if found := self._inferences.find(path) if is_post else None:
                self._begin(found, query, is_next=is_next)
            else:
                super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Drop what belongs to a refused request."""
        self._advances = True
        if self._is_refused or self._is_ending():
            return
        if isinstance(self.cycle, Exchange):
            self.cycle.receive(body)
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """A request is in hand; a refused one is over."""
        if self.parser.should_upgrade():
            return
        self._in_body = False
        self.count()
        self._end_part()
        if self._is_refused:
            self._is_refused = False
            if self.parser.should_keep_alive():
                self.on_response_complete()
            else:
                self.transport.close()
        elif isinstance(self.cycle, Exchange):
            self.cycle.complete()
            if self.cycle.response_complete and not self.cycle.keep_alive:
                self.transport.close()
        elif not self._is_ending():
            super().on_message_complete()

    def on_response_complete(self) -> None:
        """Go on with the next request; read on only once there is none."""
        is_last = not self.pipeline
        self._running = None
        self.count()
        if self.pipeline and self._in_hand.is_full():
            following: Any = self.pipeline[-1][0]
            if isinstance(following, Exchange):
                following.refuse(Overloaded(TOO_MANY))
        super().on_response_complete()
        if self._last_answer and is_last:
            self.transport.write(self._last_answer)
            self.transport.close()
        elif self.pipeline and not self._last_answer:
            self.flow.pause_reading()

    def pause_writing(self) -> None:
        """The client does not read; it has some time to."""
        super().pause_writing()
        self.count()
        self._unread = self.loop.call_later(UNREAD, self.transport.abort)

    def resume_writing(self) -> None:
        """The client has read all."""
        super().resume_writing()
        self.count()
        self._end_unread()

    def shutdown(self) -> None:
        """Close what is idle, over TLS without waiting for the client's goodbye."""
        super().shutdown()
        has_unsent = self.transport.get_write_buffer_size() > 0
        if self.transport.is_closing() and self.config.ssl and not has_unsent:
            self.loop.call_later(GOODBYE, self.transport.abort)

    def count(self) -> None:
        """Count the request that is being answered, unless it waits for its client."""
        running = self._running
        is_whole = bool(self.pipeline) or not self._in_body
        is_read = not self.flow.write_paused or (isinstance(running, Exchange) and running.works)
        if running and is_whole and is_read:
            self._in_hand.busy.add(self)
        else:
            self._in_hand.busy.discard(self)

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
        """Answer an inference, in its turn."""
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
            # As uvicorn does it. While nothing is read, a client that hangs up is not noticed.
            self.flow.pause_reading()
            self.pipeline.appendleft((exchange, self.app))  # type: ignore[arg-type]

    def _refuse(self, path: str) -> None:
        self._is_refused = True
        self._inferences.refused(path)
        if self.flow.write_paused:  # it has not read its last answer
            self.transport.abort()
        else:
            self.transport.write(self._inferences.overloaded)

    def _is_answered(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _end_unread(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def _end_part(self) -> None:
        """A head or a body is complete."""
        self._in_head = False
        self._overhead = 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _time_out(self) -> None:
        self._timer = None
        if self.flow.read_paused:  # it is for us to read
            self._timer = self.loop.call_later(TIMEOUT, self._time_out)
        else:
            self._close(TOO_SLOW)

    def _is_ending(self) -> bool:
        return self._last_answer is not None or self.transport.is_closing()

    def _close(self, answer: bytes) -> None:
        """Close with an answer to what is on its way, once what came before has its own."""
        is_next = not self.pipeline if self._in_body else self._is_answered()
        if is_next:
            has_answer = self.cycle.response_started if self._in_body else self._is_refused
            if not has_answer:
                self.transport.write(answer)
            self.transport.close()
            return
        self._last_answer = answer
        if self._in_body:
            exchange, _ = self.pipeline.popleft()
            if isinstance(exchange, Exchange):
                exchange.hang_up()
        self._in_body = False
        self._end_part()
        self.flow.resume_reading()  # what is not read when it closes would cost the client answers
