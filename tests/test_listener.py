"""Which connections may wait in the kernel, and what is done for clients that have left there."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator

import pytest

from serving import gate, listener
from serving.listener import BACKLOG, SHORT_BACKLOG, Listener
from tests.service import GET, Service, post

pytestmark = pytest.mark.anyio

POST = post(b"body")
ANSWERED = (200, b"/b body")


@pytest.fixture
async def service(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Service]:
    """Each client that hangs up is one too many, and each refusal."""
    monkeypatch.setattr(gate, "SPARE", 0)
    monkeypatch.setattr(listener, "SHORT", 1)
    async with Service(most=1, keep_alive=0.05) as running, asyncio.timeout(20):
        yield running


def leave(service: Service, sent: bytes) -> None:
    """Connect, send, and hang up, before the service can accept the connection."""
    with socket.create_connection(service.listener.getsockname()) as client:
        client.sendall(sent)


def backlog(service: Service) -> int:
    """How many connections may wait in the kernel: Linux tells it where others have ``sacked``."""
    info = service.listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 32)
    (most,) = struct.unpack_from("=I", info, 28)
    return int(most)


@pytest.mark.parametrize("count", [1, 10])
async def test_nothing_is_computed_for_who_has_left_before_the_connection_is_accepted(
    service: Service, count: int
) -> None:
    for _ in range(count):
        leave(service, POST)
    assert await (await service.connect()).ask(POST) == ANSWERED
    while len(service.state.connections) > 1:
        await asyncio.sleep(0.01)
    assert len(service.asked) == 1


async def test_who_only_sends_no_more_is_told_the_service_s_health(service: Service) -> None:
    with socket.create_connection(service.listener.getsockname()) as client:
        client.sendall(GET)
        client.shutdown(socket.SHUT_WR)
        client.setblocking(False)
        answer = await asyncio.get_running_loop().sock_recv(client, 1000)
    assert answer.startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("sent", [POST, b""], ids=["a request", "nothing"])
async def test_few_wait_to_be_accepted_for_a_while_after_others_have_left_a_request(
    service: Service, sent: bytes
) -> None:
    leave(service, sent)
    await (await service.connect()).ask(GET)
    assert (backlog(service) == SHORT_BACKLOG) is bool(sent)
    assert service.in_hand.affords() is bool(sent), "nor does anybody wait in line"
    while backlog(service) != BACKLOG:
        await asyncio.sleep(0.01)


async def test_few_wait_to_be_accepted_while_others_leave(service: Service) -> None:
    for _ in range(15):
        leave(service, POST)
        await (await service.connect()).ask(GET)
        await asyncio.sleep(0.1)
        assert backlog(service) == SHORT_BACKLOG


async def test_a_program_that_stops_listens_no_more_though_clients_leave(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(listener, "SHORT", 0.05)
    failures: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        connections = Listener(listening)
        connections.shorten()
        connections.is_closed = True
    await asyncio.sleep(0.1)
    connections.shorten()
    assert not failures
