"""A connection from its first bytes on: who speaks, what it is told, and whose turn it is."""

import asyncio
from collections.abc import AsyncIterator
from itertools import pairwise

import pytest

from serving import connection, frames
from serving.connection import NO_HTTP2
from serving.frames import LONGEST_HEAD, PING, PREFACE, SETTINGS, WINDOW, frame
from serving.receiver import STREAMS
from tests.http2 import LARGEST as BODY
from tests.http2 import Service, call, data, opened

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": True}


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    async with Service().running() as running:
        yield running


async def test_limits_are_told_first(service: Service) -> None:
    client = await service.connect()
    first = await client.frame()
    assert dict(frames.SETTING.iter_unpack(first.payload)) == {
        frames.MAX_CONCURRENT_STREAMS: STREAMS,
        frames.INITIAL_WINDOW_SIZE: BODY,
        frames.MAX_HEADER_LIST_SIZE: LONGEST_HEAD,
    }
    assert (await client.frame()).kind == WINDOW
    assert await client.frame() == (SETTINGS, frames.ACK, 0, b"")
    client.send(frame(SETTINGS, frames.ACK, 0), frame(PING, 0, 0, b"12345678"))
    assert await client.frame() == (PING, frames.ACK, 0, b"12345678")


async def test_frames_may_come_byte_by_byte(service: Service) -> None:
    reader, writer = await service.dial()
    for byte in PREFACE + frame(SETTINGS, 0, 0) + call(1):
        writer.write(bytes((byte,)))
        await writer.drain()
        await asyncio.sleep(0)
    assert b"body" in await reader.readuntil(b"x-end")


@pytest.mark.parametrize(
    "said",
    [b"GET / HTTP/1.1\r\n\r\n", b"POST / HTTP/1.1\r\n", PREFACE[:-1] + b"x", b"\0"],
    ids=["GET", "POST", "other preface", "other"],
)
async def test_who_speaks_another_protocol_is_told_so(service: Service, said: bytes) -> None:
    reader, writer = await service.dial()
    writer.write(said)
    told = await reader.read()
    assert told.endswith(NO_HTTP2)
    assert b"this port speaks gRPC" in told


async def test_others_have_their_turn_between_many_frames(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All are taken in the end, also those that came when reading was paused."""
    monkeypatch.setattr(connection, "TURN", -1)
    turns: list[int] = []

    def count() -> None:
        turns.append(len(service.calls))
        if len(service.calls) < STREAMS:
            asyncio.get_running_loop().call_soon(count)

    client = await service.connect()
    await client.next(SETTINGS)
    asyncio.get_running_loop().call_soon(count)
    client.send(*(opened(number, "/held", end=True) for number in range(1, 2 * STREAMS, 2)))
    client.send(frame(PING, 0, 0, bytes(8)))
    assert (await client.next(PING)).flags == frames.ACK
    assert len(service.calls) == STREAMS
    taken = [later - earlier for earlier, later in pairwise(turns)]
    assert max(taken) == 1


async def test_no_more_is_read_than_what_has_its_turn(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a client could send faster than its frames are taken, and fill the memory."""
    monkeypatch.setattr(connection, "TURN", -1)
    client = await service.connect()
    await client.next(SETTINGS)
    (served,) = service.server._connections
    client.send(opened(1, "/held"), data(1, b"x", end=False) * 2**18)
    most = 0
    for _ in range(200):
        await asyncio.sleep(0)
        most = max(most, len(served._rest))
    assert 0 < most <= 2**18
