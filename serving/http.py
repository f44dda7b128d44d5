"""uvicorn's HTTP/1.1, with the limits that it lacks, and a short way to the inferences.

What a connection costs before there is a request: a head (request line and headers) is held to a
size and a time, a body to a time, and so is a connection that sends nothing. What a request costs
before it is known to be one too many: it is refused as soon as its head is there, without a task of
its own, so that a service that is asked for ten times what it can do still does what it can.
An inference goes to our app straight from here (``serving.exchange``), all else by ASGI.

Overrides ``uvicorn.protocols.http.httptools_impl.HttpToolsProtocol`` of uvicorn 0.54.
"""

import asyncio
import socket
from functools import lru_cache
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from serving.app import App, Found
from serving.exchange import Bodies, Exchange
from serving.message import refusal

LONGEST_HEAD = 64 * 1024
"""Bytes of request line and headers. What stands before us in a cluster has the same limit (Envoy)
or a higher one (Go)."""
TIMEOUT = 30
"""Seconds that a client has to send a head that it has begun, and again the body."""


INVALID = refusal(HTTPStatus.BAD_REQUEST, "this is not HTTP").encode(keep_alive=False)
TOO_LARGE = refusal(
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    f"request line and headers have more than {LONGEST_HEAD} bytes",
).encode(keep_alive=False)
TOO_SLOW = refusal(
    HTTPStatus.REQUEST_TIMEOUT, f"the request was not complete after {TIMEOUT} s"
).encode(keep_alive=False)

_taking: set[asyncio.Task[Any]] = set()
"""Connections on their way: the loop itself would forget their tasks."""


def _taken(task: asyncio.Task[Any]) -> None:
    _taking.discard(task)
    if not task.cancelled():
        task.exception()  # is the client's matter, such as one that has hung up


@lru_cache(maxsize=32)
def _split(url: bytes) -> tuple[str, str]:
    """Path and query of a request's URL."""
    parts = httptools.parse_url(url)
    return unquote((parts.path or b"").decode("ascii")), (parts.query or b"").decode("latin-1")


class Protocol(HttpToolsProtocol):
    """One connection."""

    def __init__(
        self,
        *args: Any,
        listener: socket.socket,
        app: App,
        most: int,
        reading: set["Protocol"],
        bodies: Bodies,
        **kwargs: Any,
    ) -> None:
        """Limit the requests in hand, over all connections; the rest is uvicorn's.

        Args:
            args: as uvicorn gives them.
            listener: where further connections wait.
            app: answers the inferences.
            most: requests in hand from which a POST is refused. Health checks never are.
            reading: the connections whose body is on its way, of all that share the limit: they
                are not in hand, else a few slow clients would shut everybody out.
            bodies: those of all connections.
            kwargs: as uvicorn gives them.
        """
        super().__init__(*args, **kwargs)
        self.exchanges: set[Exchange] = set()
        """The inferences that are not answered, several only of a client that pipelines them."""
        self._listener = listener
        self._inferences = app
        self._most = most
        self._reading = reading
        self._bodies = bodies
        self._head = 0  # bytes so far of a head that is not complete
        self._timer: asyncio.TimerHandle | None = None
        self._in_head = False
        self._is_refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for a first request as long as for a further one."""
        super().connection_made(transport)
        self._accept()
        self.timeout_keep_alive_task = self.loop.call_later(
            self.timeout_keep_alive, self.timeout_keep_alive_handler
        )

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the timer, and what was on its way; give up what is being answered."""
        for exchange in self.exchanges:
            exchange.hang_up()
        self.exchanges.clear()
        if isinstance(self.cycle, Exchange):
            self.cycle = None
        super().connection_lost(exc)
        self._reading.discard(self)
        self._end_part()

    def data_received(self, data: bytes) -> None:
        """Feed the parser, which calls the methods below; see what is left without an end."""
        was_in_head = self._in_head
        try:
            self._feed(data)
        except httptools.HttpParserError:
            self.logger.warning("what came was not HTTP")
            self._close(INVALID)
        in_part = self._in_head or self in self._reading or self._is_refused
        # An empty line is neither: the client has its time for a request all the same.
        if in_part or not self._is_answered():
            self._unset_keepalive_if_required()
        if not in_part or self.transport.is_closing():
            return
        # A piece in which a head begins may hold the end of something else, too.
        self._head += len(data) if self._in_head and was_in_head else 0
        if self._head > LONGEST_HEAD:
            self._close(TOO_LARGE)
        elif self._timer is None:
            self._timer = self.loop.call_later(TIMEOUT, self._close, TOO_SLOW)

    def on_message_begin(self) -> None:
        """A head begins."""
        super().on_message_begin()
        self._in_head = True

    def on_headers_complete(self) -> None:
        """A request is there, its body aside: answer it, or refuse it at once."""
        if self.parser.should_upgrade():
            return  # it comes again, see `_feed`
        self._end_part()
        is_next = self._is_answered()  # of pipelined requests the answers must come in order
        size = len(self.url) + sum([len(name) + len(value) for name, value in self.headers])
        if size > LONGEST_HEAD:
            self._close(TOO_LARGE)
        elif is_next and self._is_too_many():
            self._is_refused = True
            self.transport.write(self._inferences.overloaded)
            self._inferences.refused(self.url.partition(b"?")[0].decode("latin-1"))
        else:
            self._reading.add(self)
            path, query = _split(self.url)
            is_post = self.parser.get_method() == b"POST"
            if found := self._inferences.find(path) if is_post else None:
                self._begin(found, query, is_next=is_next)
            else:
                super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Drop what belongs to a refused request."""
        if self._is_refused or self.transport.is_closing():
            return
        if isinstance(self.cycle, Exchange):
            self.cycle.receive(body)
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """A request is in hand; a refused one is over."""
        if self.parser.should_upgrade():
            return
        self._reading.discard(self)
        self._end_part()
        if self._is_refused:
            self._is_refused = False
            if self.parser.should_keep_alive():
                self.on_response_complete()
            else:
                self.transport.close()
        elif isinstance(self.cycle, Exchange):
            self.cycle.complete()
        elif not self.transport.is_closing():
            super().on_message_complete()

    def _feed(self, data: bytes) -> None:
        """Parse what has come, each request as if it did not ask to upgrade the connection.

        A server may ignore that (RFC 9110, 7.8), and Java's client asks for HTTP/2 each time. But
        the parser ends such a request with its head, and would lose its body.
        """
        rest = memoryview(data)
        while rest:
            try:
                self.parser.feed_data(rest)
                return
            except httptools.HttpParserUpgrade as upgrade:
                if self.parser.get_method() == b"CONNECT":  # an upgrade, to the parser
                    self._close(INVALID)
                    return
                rest = rest[upgrade.args[0] :]
                self.parser.feed_data(self._head_without_upgrade())

    def _head_without_upgrade(self) -> bytes:
        version = self.parser.get_http_version().encode()
        lines = [b"%b %b HTTP/%b" % (self.parser.get_method(), self.url, version)]
        lines += [b"%b: %b" % header for header in self.headers if header[0] != b"upgrade"]
        return b"\r\n".join([*lines, b"", b""])

    def _accept(self) -> None:
        """Take the next two connections, if so many wait.

        uvloop takes one in a turn of the loop, and under load a turn is long: without this, who
        connects then waits for seconds, a health probe for instance. As each brings two, thousands
        are taken in a dozen turns.
        """
        for _ in range(2):
            try:
                connection, _ = self._listener.accept()
            except OSError:  # none waits, or no file may be opened for it
                return
            task = self.loop.create_task(
                self.loop.connect_accepted_socket(self._another, connection, ssl=self.config.ssl)
            )
            _taking.add(task)
            task.add_done_callback(_taken)

    def _another(self) -> asyncio.Protocol:
        config, state = self.config, self.server_state
        make: Any = config.http_protocol_class
        protocol: asyncio.Protocol = make(
            config=config, server_state=state, app_state=self.app_state, _loop=self.loop
        )
        return protocol

    def _begin(self, found: Found, query: str, *, is_next: bool) -> None:
        """Answer an inference, in its turn."""
        exchange = Exchange(
            self,
            self._inferences,
            self._bodies,
            found,
            query,
            keep_alive=self.parser.get_http_version() != "1.0" and self.parser.should_keep_alive(),
            expects_continue=self.expect_100_continue,
        )
        self.exchanges.add(exchange)
        self.cycle = exchange  # type: ignore[assignment]
        if is_next:
            self._start_asgi_task(exchange, self.app)  # type: ignore[arg-type]
        else:
            # As uvicorn does it. While nothing is read, a client that hangs up is not noticed.
            self.flow.pause_reading()
            self.pipeline.appendleft((exchange, self.app))  # type: ignore[arg-type]

    def _is_answered(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _is_too_many(self) -> bool:
        allowed = self._most + len(self._reading)
        if len(self.tasks) < allowed or self.parser.get_method() != b"POST":
            return False
        # A task that is done stays in the set until the loop gets to it, and its client may have
        # sent the next request by then.
        done = sum(map(asyncio.Task.done, self.tasks))
        return len(self.tasks) - done >= allowed

    def _end_part(self) -> None:
        """A head or a body is complete."""
        self._in_head = False
        self._head = 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _close(self, answer: bytes) -> None:
        cycle = self.cycle
        is_answered = cycle and cycle.response_started and not cycle.response_complete
        if not (is_answered or self._is_refused):
            self.transport.write(answer)
        self.transport.close()
