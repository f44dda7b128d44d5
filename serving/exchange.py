"""One inference on one of uvicorn's connections, from its head to its answer.

It takes the place of uvicorn's ``RequestResponseCycle``, which passes the request to an ASGI app,
and gets the answer, piece by piece in dictionaries. These, and the code that packs and unpacks
them, would take a seventh of the time of a small inference (docs/decisions/speed.md).
"""

import asyncio
import logging
import time
from http import HTTPStatus
from typing import TYPE_CHECKING

from starlette.exceptions import HTTPException

from serving import context
from serving.app import App, Found
from serving.errors import ServingError, TooLarge, Unavailable
from serving.gate import Bodies
from serving.message import Request, Response, refusal
from serving.rest import told

if TYPE_CHECKING:
    from serving.http import Protocol

log = logging.getLogger(__name__)

STOPPING = refusal(*told(Unavailable("the service stops")))


def _encoded(encoding: str) -> HTTPException:
    # A few compressed bytes can become gigabytes, and images are compressed anyway.
    return HTTPException(
        HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
        f"Content-Encoding: expected none, got '{encoding:.20}'",
        headers={"accept-encoding": "identity"},
    )


class Exchange:
    """A request, whose body may still be on its way, and its answer.

    What uvicorn's connection uses of a cycle has uvicorn's names here.
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
        """Begin with the head that ``connection`` has just read.

        Args:
            connection: gets the answer.
            app: computes the answer.
            bodies: counts the bytes of the body.
            found: the inference that the path asks for.
            query: the query string, without the question mark.
            keep_alive: whether the connection may stay open after the answer.
            expects_continue: whether the client waits for ``100 Continue`` before the body.
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
        """Whether we are at work on it; ``False`` once it waits for its client to read."""
        self.disconnected = False
        self.response_started = False
        self.response_complete = False

    def receive(self, chunk: bytes) -> None:
        """Take a piece of the body; drop it if the request has been refused or answered."""
        if self._error or self.response_complete:
            return
        self._body += chunk
        self._size += len(chunk)
        self._bodies.hold(self, len(chunk))
        if self._size > self._bodies.largest:
            self.refuse(self._too_large())

    def complete(self) -> None:
        """The body is complete."""
        self._is_whole = True
        self._bodies.arriving.pop(self, None)
        self._arrive()

    def announced(self) -> int:
        """The ``Content-Length`` in bytes; without one, the largest that is allowed."""
        length = self._headers.get("content-length")
        if length is None:
            return self._bodies.largest
        return int(length.strip()[-20:])  # below 2**64, after any number of zeros

    def refuse(self, error: ServingError) -> None:
        """Drop the body, and answer with ``error``."""
        self._error = error
        self._release()
        self._arrive()

    def hang_up(self) -> None:
        """The client has gone: cancel the work for it."""
        self.disconnected = True
        if self._task:
            self._task.cancel()
        self._release()

    async def run_asgi(self, _: object) -> None:
        """Answer the request; uvicorn's own cycle would run an ASGI app here."""
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
                await self._connection.flow.drain()  # until the client has read the last answer
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
        if not self.keep_alive and self._is_whole:  # with unread data it would be reset
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
        self._bodies.arriving.pop(self, None)
        self._size = 0
        self._body = bytearray()

    def _too_large(self) -> TooLarge:
        return TooLarge(f"the body is over the limit of {self._bodies.largest} bytes")
