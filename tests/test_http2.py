"""How a server and its connections end: a client is told in time which calls will be answered."""

import asyncio
import gc
from collections.abc import AsyncIterator
from weakref import WeakSet

import pytest

from serving import connection, frames
from serving.frames import GOAWAY, HIGHEST, NO_ERROR, PING, RST_STREAM, WINDOW, frame
from tests.http2 import Client, Service, call, data, opened

pytestmark = pytest.mark.anyio

PONG = frame(PING, frames.ACK, 0, bytes(8))
LATE = b"".join(
    [
        opened(5),
        data(5, b"late"),
        frame(WINDOW, 0, 5, b"\0\0\0\1"),
        frame(RST_STREAM, 0, 5, bytes(4)),
    ]
)
"""A call that the client began before it knew, and all that may follow."""


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": True}


@pytest.fixture(autouse=True)
def _briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "GOODBYE", 0.05)


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    async with Service().running() as running:
        yield running


async def farewell(client: Client) -> tuple[int, int]:
    """The last stream and the code of the next GOAWAY."""
    payload = (await client.next(GOAWAY)).payload
    return int.from_bytes(payload[:4]), int.from_bytes(payload[4:])


async def begun(service: Service, *parts: bytes) -> Client:
    """A client whose ``parts`` have arrived."""
    client = await service.connect()
    client.send(*parts, frame(PING, 0, 0, bytes(8)))
    await client.next(PING)
    return client


@pytest.fixture
def slowly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time for a client to answer the first GOAWAY."""
    monkeypatch.setattr(connection, "GOODBYE", 60)


@pytest.mark.usefixtures("slowly")
async def test_calls_between_both_goaways_are_answered(service: Service) -> None:
    client = await begun(service, opened(1, "/held", end=True))
    stopping = asyncio.create_task(service.server.stop(60))
    assert await farewell(client) == (HIGHEST, NO_ERROR)
    assert (await client.frame()).kind == PING
    client.send(call(3, b"between"), PONG)
    assert await client.echoed(3) == b"between"
    assert await farewell(client) == (3, NO_ERROR)
    client.send(LATE, PONG, frame(PING, 0, 0, bytes(8)))
    assert await client.frame() == (PING, frames.ACK, 0, bytes(8))
    service.calls[0].answer()
    assert await client.echoed(1) == b""
    assert len(service.calls) == 2
    client.writer.close()
    await stopping


async def test_a_client_that_does_not_answer_is_told_all_the_same(service: Service) -> None:
    client = await begun(service)
    stopping = asyncio.create_task(service.server.stop(60))
    assert await farewell(client) == (HIGHEST, NO_ERROR)
    assert await client.ended() == (0, NO_ERROR)
    await stopping


async def test_calls_in_hand_have_time_to_end(service: Service) -> None:
    """Their connection is closed then."""
    client = await begun(service, opened(1, "/held", end=True), opened(3))
    stopping = asyncio.create_task(service.server.stop(60))
    for _ in range(2):
        await client.next(GOAWAY)
    await asyncio.sleep(3 * connection.GOODBYE)
    client.send(data(3, b"rest"))
    assert await client.echoed(3) == b"rest"
    service.calls[0].answer()
    assert await client.echoed(1) == b""
    assert await client.reader.read() == b""
    await stopping


async def test_a_server_that_stops_waits_for_the_last_call(service: Service) -> None:
    """Whoever has gone before, or goes meanwhile."""
    gone = await begun(service)
    gone.writer.close()
    while service.server._connections:
        await asyncio.sleep(0.01)
    held = await begun(service, opened(1, "/held", end=True))
    idle = await begun(service)
    stopping = asyncio.create_task(service.server.stop(60))
    await farewell(idle)
    assert await idle.ended() == (0, NO_ERROR)
    while len(service.server._connections) > 1:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.01)
    assert not stopping.done()
    for _ in range(2):
        await held.next(GOAWAY)
    service.calls[0].answer()
    assert await held.echoed(1) == b""
    await stopping


async def test_calls_in_hand_are_cut_at_the_grace(service: Service) -> None:
    client = await begun(service, opened(1, "/held", end=True))
    await service.server.stop(0.2)
    assert service.calls[0].is_gone
    assert await client.is_closed()


async def test_a_server_without_connections_stops(service: Service) -> None:
    await service.server.stop(60)
    with pytest.raises(ConnectionRefusedError):
        await service.dial()


async def test_bodies_may_be_larger_than_any_window() -> None:
    async with Service(largest=2**40).running() as service:
        client = await service.connect()
        told = (await client.next(frames.SETTINGS)).payload
        assert frames.SETTING.pack(frames.INITIAL_WINDOW_SIZE, HIGHEST) in told
        client.send(call(1))
        assert await client.echoed(1) == b"body"


async def test_all_of_many_connections_end(service: Service) -> None:
    """Idle ones, such as have said nothing or half a frame, and ones in the middle of a call."""
    sent = [b"", opened(1, "/held", end=True), opened(1), opened(1)[:-1], opened(1)[:5]]
    clients = [Client(*await service.dial()), *[await service.connect() for _ in sent]]
    for client, parts in zip(clients[1:], sent, strict=True):
        client.send(parts)
    for client in clients:
        await client.next(frames.SETTINGS)  # it is accepted
    await service.server.stop(0.2)
    for client in clients:
        assert await client.is_closed()


async def test_a_server_that_stops_takes_no_more_connections(service: Service) -> None:
    held = await begun(service, opened(1, "/held", end=True))
    stopping = asyncio.create_task(service.server.stop(60))
    await held.next(GOAWAY)
    with pytest.raises(ConnectionRefusedError):
        await service.dial()
    service.calls[0].answer()
    await stopping


async def test_who_is_accepted_while_the_server_stops_is_told_to_go(service: Service) -> None:
    service.server._listener.is_closed = True
    client = await service.connect()
    assert await farewell(client) == (HIGHEST, NO_ERROR)
    assert await client.ended() == (0, NO_ERROR)


async def test_an_old_connection_retires(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server goes on; who is still in a call is cut after a while."""
    monkeypatch.setattr(connection, "AGE", 0.1)
    monkeypatch.setattr(connection, "AGE_GRACE", 0.2)
    idle, held = await service.connect(), await service.connect()
    held.send(opened(1, "/held", end=True))
    for client in (idle, held):
        assert await farewell(client) == (HIGHEST, NO_ERROR)
    assert await idle.ended() == (0, NO_ERROR)
    assert await farewell(held) == (1, NO_ERROR)
    assert await held.is_closed()
    assert service.calls[0].is_gone
    client = await service.connect()
    client.send(call(1))
    assert await client.echoed(1) == b"body"


async def test_connections_of_the_same_age_do_not_retire_at_once(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else their clients would all come back in one moment, and again a minute later."""
    ages = iter([0.1, 60])
    monkeypatch.setattr(connection, "AGE", 1)
    monkeypatch.setattr(connection, "uniform", lambda *_: next(ages))
    early, late = await service.connect(), await service.connect()
    assert await farewell(early) == (HIGHEST, NO_ERROR)
    assert await early.ended() == (0, NO_ERROR)
    late.send(call(1))
    assert await late.echoed(1) == b"body"


@pytest.mark.usefixtures("slowly")
@pytest.mark.parametrize("is_retiring", [False, True], ids=["idle", "retiring"])
async def test_nothing_is_kept_of_a_connection_that_is_lost(
    service: Service, is_retiring: bool
) -> None:
    """Its timers would keep it for a minute, with all the heads that it remembers."""
    client = await begun(service)
    connections = WeakSet(service.server._connections)
    if is_retiring:
        next(iter(connections)).retire(60)
        await farewell(client)
    client.writer.close()
    while service.server._connections:
        await asyncio.sleep(0.01)
    gc.collect()
    assert not [*connections]


async def test_a_server_that_stops_does_not_wait_for_calls_until_they_are_old(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "AGE", 0.1)
    monkeypatch.setattr(connection, "AGE_GRACE", 60)
    client = await begun(service, opened(1, "/held", end=True))
    async with asyncio.timeout(10):
        await service.server.stop(0.3)
    assert await client.is_closed()


async def test_a_connection_that_retires_when_the_server_stops_is_told_once(
    service: Service,
) -> None:
    """Its calls have the server's grace then, and no second farewell names more of them."""
    client = await begun(service, opened(1, "/held", end=True))
    next(iter(service.server._connections)).retire(0.2)
    client.send(PONG)
    assert [await farewell(client) for _ in range(2)] == [(HIGHEST, NO_ERROR), (1, NO_ERROR)]
    stopping = asyncio.create_task(service.server.stop(60))
    await asyncio.sleep(0.3)
    service.calls[0].answer()
    assert await client.echoed(1) == b""
    await stopping
