"""Calls of ``serving.call`` in this process: what they may hold, and what they may be."""

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import NamedTuple

import grpc
import pytest

from serving import frames, http2
from serving.call import PREFIX, Headers, Method, Service
from serving.frames import block, frame
from serving.gate import BODIES

pytestmark = pytest.mark.anyio

LIMIT = 2**18
ECHO = "/echo"
ROOM = 100
"""Bytes in which no head has room."""


async def echo(data: bytes, _: Headers) -> tuple[bytes, str]:
    return data, "v1"


class Served(NamedTuple):
    """A service, and where it is."""

    service: Service
    host: str
    port: int


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    service = Service(
        {ECHO: Method(echo)}, version="v1", max_calls=9, max_receive=LIMIT, max_send=LIMIT
    )
    listening = socket.create_server(("127.0.0.1", 0))
    server = http2.Server(service.call, largest=service.bodies.largest)
    await server.start(listening)
    yield Served(service, *listening.getsockname())
    await server.stop(0)


async def ask(served: Served, message: bytes) -> bytes:
    async with grpc.aio.insecure_channel(f"{served.host}:{served.port}") as channel:
        return bytes(await channel.unary_unary(ECHO)(message))


def call(stream: int, body: bytes, *, is_whole: bool = False, encoding: str = "identity") -> bytes:
    """A call with this body, all of it or its beginning."""
    head = block(
        [
            (":method", "POST"),
            (":path", ECHO),
            ("content-type", "application/grpc"),
            ("grpc-encoding", encoding),
        ]
    )
    data = [
        frame(frames.DATA, 0, stream, body[at : at + frames.LARGEST])
        for at in range(0, len(body), frames.LARGEST)
    ]
    if is_whole:
        data.append(frame(frames.DATA, frames.END_STREAM, stream))
    return frame(frames.HEADERS, frames.END_HEADERS, stream, head) + b"".join(data)


CONNECTED = frames.PREFACE + frames.settings(())


async def test_large_messages_that_never_arrive_give_way_to_small_ones(served: Served) -> None:
    bodies = served.service.bodies
    half = PREFIX.pack(0, LIMIT) + bytes(LIMIT // 2)
    _, writer = await asyncio.open_connection(served.host, served.port)
    writer.write(CONNECTED + b"".join(call(1 + 2 * n, half) for n in range(2 * BODIES - 1)))
    while len(bodies.arriving) < 2 * BODIES - 1:
        await asyncio.sleep(0.01)
    room = BODIES * bodies.largest - bodies.held
    writer.write(call(99, half[: room - 2 * ROOM]))
    while BODIES * bodies.largest - bodies.held > 2 * ROOM:
        await asyncio.sleep(0.01)
    assert await ask(served, b"small") == b"small"
    writer.close()
    while bodies.held:
        await asyncio.sleep(0.01)
    assert not bodies.arriving
