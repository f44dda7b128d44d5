"""One inference on a connection of uvicorn's, from its head to its answer.

It stands where uvicorn has a cycle for an ASGI app, which is told a request in dictionaries, piece
by piece, and answers in others. Those, and what wraps and unwraps them, cost a small inference a
seventh of its time (docs/decisions/speed.md).
"""

import asyncio
import logging
import time
from http import HTTPStatus
from typing import TYPE_CHECKING

from starlette.exceptions import HTTPException

from serving import context
from serving.app import App, Found
from serving.errors import Overloaded, ServingError, TooLarge
from serving.message import Request, Response, refusal

if TYPE_CHECKING:
    from serving.http import Protocol

log = logging.getLogger(__name__)

BODIES = 4
"""Bodies of the largest size that may be held at a time; smaller ones as many as fit. Each is in
memory up to three times: as it came, its tensors, and their items."""
STOPPING = refusal(HTTPStatus.SERVICE_UNAVAILABLE, "the service stops", {"retry-after": "1"})


def _encoded(encoding: str) -> HTTPException:
    # A few bytes may hold gigabytes, and images are compressed as they are.
    return HTTPException(
        HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
        f"Content-Encoding: expected none, got '{encoding:.20}'",
        headers={"accept-encoding": "identity"},
    )


class Bodies:
    """What is held of the bodies of all requests."""

    def __init__(self, largest: int) -> None:
        """Of one request at most ``largest`` bytes are taken."""
        self.largest = largest
        self.held = 0
        """Bytes, until their requests are answered."""
        self.arriving: set[Exchange] = set()
        """Those whose bodies have begun and are not whole."""

    def hold(self, exchange: "Exchange", size: int) -> None:
        """Hold ``size`` more bytes of ``exchange``.

        Where there is no room, those give way who announce the most: else a few large bodies that
        do not come would shut out the small ones. Among equals it is the one that needs the room,
        so that some of them get to their end.
        """
        self.held += size
        self.arriving.add(exchange)
        while self.held > BODIES * self.largest:
            largest = max([exchange, *self.arriving], key=Exchange.announced)
            largest.refuse(Overloaded("too many bodies are being read; try again later"))


class Exchange:
    """A request, whose body may still be on its way, and its answer.

    Where uvicorn's connection asks something of a cycle, the names are uvicorn's.
    """

    def __init__(
        self,
        connection: "Protocol",
        app: App,
        bodies: Bodies,
        found: Found,
        query: str,
        *,
        keep_alive: bool,
        expects_continue: bool,
    ) -> None:
        """Take the head that ``connection`` has read.

        Args:
            connection: where the answer goes.
            app: answers.
            bodies: counts this one too.
            found: what the path means.
            query: what follows it.
            keep_alive: whether the client may ask again.
            expects_continue: it waits to be told that its body is wanted.
        """
        self._headers = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in connection.headers
        }
        self._connection = connection
        self._app = app
        self._bodies = bodies
        self._found = found
        self._query = query
        self._expects_continue = expects_continue
        self._body = bytearray()
        self._size = 0
        self._is_whole = False
        self._error: ServingError | None = None
        self._arrival: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self.keep_alive = keep_alive
        self.works = True
        """Whether it does not wait for the client to read an answer before."""
        self.disconnected = False
        self.response_started = False
        self.response_complete = False

    def receive(self, chunk: bytes) -> None:
        """Take a piece of the body; what is too much, or comes after the answer, is not kept."""
        if self._error or self.response_complete:
            return
        self._body += chunk
        self._size += len(chunk)
        self._bodies.hold(self, len(chunk))
        if self._size > self._bodies.largest:
            self.refuse(self._too_large())

    def complete(self) -> None:
        """The body is there."""
        self._is_whole = True
        self._bodies.arriving.discard(self)
        self._arrive()

    def announced(self) -> int:
        """The bytes that its body will have, as far as is known."""
        length = self._headers.get("content-length")
        if length is None:
            return self._bodies.largest
        return int(length.strip()[-20:])  # below 2**64, behind any number of zeros

    def refuse(self, error: ServingError) -> None:
        """Keep nothing of the body, and answer with ``error``."""
        self._error = error
        self._release()
        self._arrive()

    def hang_up(self) -> None:
        """The client has gone: give up what is being done for it."""
        self.disconnected = True
        if self._task:
            self._task.cancel()
        self._release()

    async def run_asgi(self, _: object) -> None:
        """Answer; uvicorn would have it done by an ASGI app."""
        if self.disconnected:
            return
        self._task = asyncio.current_task()
        request = Request(
            self._found.parameters, self._query, self._headers, self._read, self._is_gone
        )
        try:
            response = await self._app.answer(self._found, request)
            self._release()
            if self._connection.flow.write_paused:
                self.works = False
                self._connection.count()
                await self._connection.flow.drain()  # until its last answer has been read
            self._write(response)
        except asyncio.CancelledError:
            if not self.disconnected:
                self.keep_alive = False
                self._write(STOPPING)
                raise
        except Exception:
            log.exception("a defect")
        finally:
            self._release()
            if not self.response_complete:
                self._connection.transport.close()

    def _write(self, response: Response) -> None:
        connection = self._connection
        if connection.transport.is_closing():
            return
        fixed = connection.server_state.default_headers
        connection.transport.write(response.encode(fixed, keep_alive=self.keep_alive))
        self.response_started = self.response_complete = True
        if not self.keep_alive and self._is_whole:  # else the rest of the body would reset it
            connection.transport.close()
        connection.on_response_complete()

    def _is_gone(self) -> bool:
        return self.disconnected

    async def _read(self) -> bytes:
        encoding = self._headers.get("content-encoding")
        if encoding and encoding.lower() != "identity":
            raise _encoded(encoding)
        if self.announced() > self._bodies.largest:
            raise self._too_large()
        if not (self._is_whole or self._error):
            if self._expects_continue:
                self._connection.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self._arrival = asyncio.get_running_loop().create_future()
            await self._arrival
            context.current().arrived = time.perf_counter()
        if self._error:
            raise self._error
        body, self._body = bytes(self._body), bytearray()
        return body

    def _arrive(self) -> None:
        if self._arrival and not self._arrival.done():
            self._arrival.set_result(None)

    def _release(self) -> None:
        self._bodies.held -= self._size
        self._bodies.arriving.discard(self)
        self._size = 0
        self._body = bytearray()

    def _too_large(self) -> TooLarge:
        return TooLarge(f"the body is over the limit of {self._bodies.largest} bytes")
