"""Clients of ``serving.http`` that would take more than their share."""

import asyncio
import gc
import socket
import struct
import weakref

import pytest
import uvloop

from serving import arrival, http
from serving.arrival import LONGEST_HEAD
from serving.errors import Overloaded
from serving.http import PIPELINED
from tests.service import GET, Service, post

pytestmark = pytest.mark.anyio

POST = post(b"body")
POST_ELSEWHERE = post(b"body", url="/c")
"""No inference: by ASGI."""
LONG = 2**24
"""Bytes of an answer that no buffer of the system's takes."""


def long_get() -> bytes:
    body = b"x" * LONG
    return b"GET /a HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body


@pytest.mark.parametrize("inference", [True, False], ids=["inference", "other"])
async def test_who_does_not_read_is_not_in_hand_and_then_given_up(
    monkeypatch: pytest.MonkeyPatch, inference: bool
) -> None:
    monkeypatch.setattr(http, "UNREAD", 2)  # a busy machine may need one until all are there
    async with Service(most=1, max_body=2 * LONG) as service, asyncio.timeout(20):
        client = await service.connect()
        service.headers["x-long"] = "x" * LONG
        for _ in range(3):
            other = await service.connect()
            other.writer.write((POST if inference else long_get()) + POST)
        while len(service.state.tasks) < 3:
            await asyncio.sleep(0.01)
        service.headers.clear()
        assert await client.ask(POST) == (200, b"/b body")
        while service.state.tasks or len(service.state.connections) > 1:
            await asyncio.sleep(0.01)
        assert await client.ask(POST) == (200, b"/b body")
    assert service.bodies.held == 0


async def test_who_reads_no_refusals_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Overloaded, "retry_after", 0.01)  # the many refusals wait for their turn
    async with Service(most=0) as service:
        client = await service.connect()
        client.reader._transport.pause_reading()  # type: ignore[attr-defined]
        async with asyncio.timeout(20):
            while service.state.connections:
                client.writer.write(POST * 1000)
                await asyncio.sleep(0.001)


async def test_a_body_that_nobody_waits_for_makes_no_room() -> None:
    """The limit does not count who waits for a body; these are answered, and wait for nothing."""
    async with Service(most=1, max_body=10) as service:
        for _ in range(3):
            early = await service.connect()
            assert (await early.ask(POST.replace(b": 4", b": 11")))[0] == 413
        service.let.clear()
        first, second = [await service.connect() for _ in range(2)]
        first.writer.write(POST)
        while len(service.asked) < 4:
            await asyncio.sleep(0.01)
        assert (await second.ask(POST))[0] == 429


async def test_half_a_request_behind_another_makes_no_room() -> None:
    async with Service(most=1) as service:
        service.let.clear()
        first, second = [await service.connect() for _ in range(2)]
        first.writer.write(POST + POST[:-1])
        while not service.asked:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        assert (await second.ask(POST))[0] == 429


async def test_as_many_requests_may_be_sent_ahead_and_no_more() -> None:
    async with Service() as service:
        service.let.clear()
        client, greedy = [await service.connect() for _ in range(2)]
        client.writer.write(POST * (1 + PIPELINED))
        greedy.writer.write(POST * (2 + PIPELINED))
        assert await greedy.is_closed()
        service.let.set()
        answers = [await client.answer() for _ in range(1 + PIPELINED)]
        assert set(answers) == {(200, b"/b body")}


async def test_large_requests_may_be_sent_ahead() -> None:
    """Where a head begins in the piece in which the last body ends, that is no long head."""
    async with Service() as service:
        client = await service.connect()
        body = b"x" * (LONGEST_HEAD + 1000)
        client.writer.write(post(body) * 3)
        assert {await client.answer() for _ in range(3)} == {(200, b"/b " + body)}


@pytest.mark.parametrize("size", [700, LONGEST_HEAD // 2])
async def test_what_follows_the_last_chunk_is_held_to_a_size(size: int) -> None:
    async with Service() as service:
        client = await service.connect()
        head = b"POST /b HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        client.writer.write(head + b"4\r\nbody\r\n0\r\n")
        answer = asyncio.create_task(client.answer())
        while not answer.done():
            await asyncio.sleep(0.005)
            client.writer.write(b"x-y: %b\r\n" % (b"z" * size))
        assert (await answer)[0] == 431


@pytest.mark.parametrize(
    ("behind", "status"),
    [
        (b"no HTTP\r\n\r\n", 400),
        (GET[:-2] + b"x: %b\r\n\r\n" % (b"y" * LONGEST_HEAD) + POST, 431),
        (GET[:-2], 408),
        (POST[:-1], 408),
        (POST_ELSEWHERE[:-1], 408),
        (POST[:-4].replace(b"Content-Length: 4", b"Transfer-Encoding: chunked") + b"x\r\n", 400),
    ],
    ids=["garbage", "long head", "half a head", "half a body", "the same by ASGI", "no chunk"],
)
@pytest.mark.parametrize("before", [POST, POST_ELSEWHERE, POST * 3], ids=["one", "ASGI", "three"])
async def test_an_error_behind_a_request_comes_after_its_answer(
    monkeypatch: pytest.MonkeyPatch, before: bytes, behind: bytes, status: int
) -> None:
    monkeypatch.setattr(arrival, "TIMEOUT", 0.05)
    async with Service() as service:
        service.let.clear()
        client = await service.connect()
        client.writer.write(before + behind)
        await asyncio.sleep(0.1)
        if status != 408:
            client.writer.write(POST)  # is not read any more
            await asyncio.sleep(0.05)
        service.let.set()
        for _ in range(before.count(b"POST")):
            assert await client.answer() == (200, before[5:7] + b" body")
        assert (await client.answer())[0] == status
        assert await client.is_closed()
    assert (service.bodies.held, service.state.tasks) == (0, set())


def test_nothing_is_begun_on_a_connection_that_closes() -> None:
    """By uvloop, which tells of its end before a task has begun."""

    async def run() -> None:
        async with Service(most=1) as service:
            for _ in range(3):
                client = await service.connect()
                long = GET[:-2] + b"x: %b\r\n\r\n" % (b"y" * LONGEST_HEAD)
                client.writer.write(long + POST[:-1])
                assert (await client.answer())[0] == 431
                client.writer.close()
            assert await (await service.connect()).ask(POST) == (200, b"/b body")
            assert not service.state.tasks

    uvloop.run(run())


async def test_a_request_has_one_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrival, "TIMEOUT", 0.05)
    async with Service(max_body=10) as service:
        client = await service.connect()
        assert (await client.ask(POST.replace(b": 4", b": 11")))[0] == 413
        assert await client.is_closed()  # and no 408 before


def test_who_is_reset_leaves_nothing_behind() -> None:
    """By uvloop, whose timers would hold the connection for the time of a silent one."""

    async def run() -> None:
        async with Service() as service:
            for _ in range(3):
                client = await service.connect()
                assert await client.ask(GET) == (200, b"/a ")
                connections = weakref.WeakSet(service.state.connections)
                reset = struct.pack("ii", 1, 0)
                raw = client.writer.get_extra_info("socket")
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
                client.writer.transport.abort()
                while service.state.connections:
                    await asyncio.sleep(0.01)
                assert not connections

    gc.disable()  # it is rare in the programs
    try:
        uvloop.run(run())
    finally:
        gc.enable()


async def test_who_is_reset_while_it_is_answered_leaves_no_trace_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with Service() as service:
        service.let.clear()
        client = await service.connect()
        client.writer.write(POST_ELSEWHERE * 3)
        await asyncio.sleep(0.05)
        client.writer.transport.abort()
        await asyncio.sleep(0.05)
        service.let.set()
        while service.state.tasks:
            await asyncio.sleep(0.01)
    assert caplog.text == ""


async def test_an_early_answer_is_not_lost_to_a_client_that_sends_on() -> None:
    """To close a connection with something unread resets it, and its answer is lost."""
    async with Service(max_body=10) as service:
        large = post(bytes(2**23), "Connection: close")
        for request in (large, large.replace(b"HTTP/1.1", b"HTTP/1.0")):
            client = await service.connect()
            status, _ = await client.ask(request)
            assert status == 413
            assert await client.is_closed()


async def test_who_does_not_read_is_in_hand_while_its_next_answer_is_made() -> None:
    async with Service(most=1, max_body=2 * LONG) as service:
        service.headers["x-long"] = "x" * LONG
        greedy, client = [await service.connect() for _ in range(2)]
        greedy.reader._transport.pause_reading()  # type: ignore[attr-defined]
        greedy.writer.write(POST)
        while not service.asked:
            await asyncio.sleep(0.01)
        service.headers.clear()
        service.let.clear()
        greedy.writer.write(POST)
        while len(service.asked) < 2:
            await asyncio.sleep(0.01)
        assert (await client.ask(POST))[0] == 429
        service.let.set()
        await asyncio.sleep(0.05)
        assert await client.ask(POST) == (200, b"/b body")
