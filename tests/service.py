"""A server of ``serving.http`` on loopback, in this process, and clients that send it bytes."""

import asyncio
import functools
import socket
from collections.abc import Mapping
from contextlib import suppress
from http import HTTPStatus
from typing import Any, NamedTuple

import uvicorn
from uvicorn.server import ServerState

from serving.app import Found
from serving.gate import Bodies, InHand
from serving.http import Protocol
from serving.listener import BACKLOG, Listener
from serving.message import Request, Response, refusal
from serving.rest import EXPECTED, told

GET = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n"


def post(body: bytes, *headers: str, url: str = "/b", version: str = "1.1") -> bytes:
    """A POST request; it is an inference only at ``/b``."""
    lines = (f"POST {url} HTTP/{version}", "Host: x", f"Content-Length: {len(body)}", *headers)
    return "\r\n".join((*lines, "", "")).encode() + body


def chunked(*chunks: bytes) -> bytes:
    """An inference with a body in chunks."""
    head = b"POST /b HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in (*chunks, b""))


class Asked(NamedTuple):
    """The query and headers of an inference."""

    query: str
    headers: Mapping[str, str]


class Service:
    """A server on loopback that answers with path and body; a POST waits until ``let`` is set.

    A POST to ``/b`` is an inference; all else goes to an ASGI app.
    """

    def __init__(self, *, most: int = 256, keep_alive: float = 60, max_body: int = 2**20) -> None:
        self.refusals: list[str] = []
        self.asked: list[Asked] = []
        self.given_up = 0
        """Inferences that were cancelled."""
        self.headers: dict[str, str] = {}
        """The headers of all answers to inferences."""
        self.state = ServerState()
        self.let = asyncio.Event()
        self.let.set()
        self.bodies = Bodies(max_body)
        self.in_hand = InHand(most)
        retry = {"retry-after": "1"}
        self.overloaded = refusal(HTTPStatus.TOO_MANY_REQUESTS, "busy", retry).encode()
        self._clients: list[Client] = []
        config = uvicorn.Config(self.app, interface="asgi3", ws="none", log_config=None)
        config.timeout_keep_alive = keep_alive  # type: ignore[assignment]
        config.load()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.connections = Listener(self.listener)
        app: Any = self
        make: Any = functools.partial(
            Protocol,
            listener=self.connections,
            app=app,
            in_hand=self.in_hand,
            bodies=self.bodies,
        )
        config.http_protocol_class = make
        self._connection = functools.partial(
            make, config=config, server_state=self.state, app_state={}
        )

    def find(self, path: str) -> Found | None:
        return Found(self._infer, "v1", {"path": path}) if path == "/b" else None

    def refused(self, path: str) -> None:
        self.refusals.append(path)

    async def answer(self, found: Found, request: Request) -> Response:
        try:
            return await found.endpoint(request)
        except EXPECTED as error:
            return refusal(*told(error))

    async def _infer(self, request: Request) -> Response:
        self.asked.append(Asked(request.query, request.headers))
        try:
            body = await request.read()
            await self.let.wait()
        except asyncio.CancelledError:
            self.given_up += 1
            raise
        return Response(200, self.headers, f"{request.parameters['path']} ".encode() + body)

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["method"] == "POST":
            await self.let.wait()
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        answer = scope["path"].encode() + b" " + body
        headers = [(b"content-length", str(len(answer)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})

    async def __aenter__(self) -> "Service":
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            self._connection, sock=self.listener, backlog=BACKLOG
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        self.let.set()
        for client in self._clients:
            client.writer.close()
        self._server.close()
        await asyncio.sleep(0.01)

    async def connect(self) -> "Client":
        client = Client(*await asyncio.open_connection(*self.listener.getsockname()))
        self._clients.append(client)
        return client


class Client:
    """A connection of a client."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def answer(self) -> tuple[int, bytes]:
        """Status and body of the next answer."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        self.head = head.decode()
        return int(head[9:12]), await self.reader.readexactly(length)

    async def ask(self, *pieces: bytes) -> tuple[int, bytes]:
        """Send a request in pieces, and return its answer."""
        for piece in pieces:
            with suppress(ConnectionError):  # it may be answered, and closed, before it is sent
                self.writer.write(piece)
                await self.writer.drain()
            for _ in range(3):  # the turns in which the server reads this piece, and no other
                await asyncio.sleep(0)
        return await self.answer()

    async def is_closed(self) -> bool:
        """Whether the server closes the connection."""
        return await asyncio.wait_for(self.reader.read(), 5) == b""
