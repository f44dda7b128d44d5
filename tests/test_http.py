"""Connections: silence, order, upgrades, and one request too many."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import ExitStack

import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from serving import http
from tests import anything
from tests.service import GET, Service, post

pytestmark = pytest.mark.anyio

POST = post(b"body", url="/b?c")
"""An inference; those that are none go by ASGI."""
OTHER = POST.replace(b"/b", b"/c")
GZIPPED = post(b"body", "Content-Encoding: gzip")
"""Refused as soon as its head has come."""


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    async with Service() as running:
        yield running


async def test_requests_are_answered(service: Service) -> None:
    client = await service.connect()
    assert await client.ask(GET) == (200, b"/a ")
    assert await client.ask(POST) == (200, b"/b body")
    assert await client.ask(POST[:9], POST[9:-2], POST[-2:]) == (200, b"/b body")
    assert await client.ask(OTHER[:9], OTHER[9:-2], OTHER[-2:]) == (200, b"/c body")


@pytest.mark.parametrize("said", [b"", b"\r\n"], ids=["nothing", "empty line"])
async def test_silence_is_given_up(said: bytes) -> None:
    async with Service(keep_alive=0.05) as service:
        client = await service.connect()
        client.writer.write(said)
        assert await client.is_closed()
        client = await service.connect()
        await client.ask(GET)
        client.writer.write(said)
        assert await client.is_closed()


async def test_silence_after_a_body_that_came_after_its_answer_is_given_up() -> None:
    async with Service(keep_alive=0.05) as service:
        client = await service.connect()
        assert (await client.ask(GZIPPED[:-4]))[0] == 415
        for rest in (GZIPPED[-4:-2], GZIPPED[-2:]):
            client.writer.write(rest)
            await asyncio.sleep(0.02)
        assert await client.is_closed()


@pytest.mark.parametrize(
    ("before", "after"),
    [(POST + GET[:9], GET[9:]), (GZIPPED[:-2], GZIPPED[-2:] + GET)],
    ids=["head", "body"],
)
async def test_who_is_answered_while_it_sends_is_not_silent(before: bytes, after: bytes) -> None:
    async with Service(keep_alive=0.05) as service:
        client = await service.connect()
        await client.ask(before)
        await asyncio.sleep(0.1)
        assert await client.ask(after) == (200, b"/a ")


@pytest.mark.parametrize(
    "content",
    [
        b"\x16\x03\x01\x02\x00",
        b"GET\r\n\r\n",
        b"GET / HTTP/9\r\n\r\n",
        POST.replace(b": 4", b": x"),
        b"GET http://x HTTP/1.1\r\n\r\n",
    ],
)
async def test_what_is_not_http_is_400(service: Service, content: bytes) -> None:
    client = await service.connect()
    status, body = await client.ask(content)
    assert (status, json.loads(body)) == (400, {"error": "this is not HTTP"})
    assert await client.is_closed()


def test_a_defect_is_not_taken_for_bad_input(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> None:
        async with Service() as service:
            client = await service.connect()
            with monkeypatch.context() as patched:
                patched.setattr(http.Protocol, "_begin", lambda *_, **__: 1 / 0)
                client.writer.write(POST)
                assert await client.is_closed()
            assert await (await service.connect()).ask(POST) == (200, b"/b body")

    uvloop.run(run())
    assert "ZeroDivisionError" in caplog.text


async def test_who_connects_while_the_program_stops_is_not_kept(service: Service) -> None:
    service.connections.is_closed = True
    assert await (await service.connect()).is_closed()


def upgrading(request: bytes, *, to: bytes = b"h2c") -> bytes:
    """As Java's client sends it, which would rather speak HTTP/2."""
    head, _, body = request.partition(b"\r\n\r\n")
    asking = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: %b\r\nHTTP2-Settings: AAEA" % to
    return b"%b\r\n%b\r\n\r\n%b" % (head, asking, body)


@pytest.mark.parametrize("post", [POST, OTHER], ids=["inference", "other"])
@pytest.mark.parametrize("cut", [None, 20, -4, -2], ids=["whole", "head", "between", "body"])
async def test_who_asks_to_upgrade_is_answered_as_if_it_had_not(
    service: Service, post: bytes, cut: int | None
) -> None:
    client = await service.connect()
    request = upgrading(post)
    for _ in range(2):
        pieces = (request,) if cut is None else (request[:cut], request[cut:])
        assert await client.ask(*pieces) == (200, post[5:7] + b" body")
    assert await client.ask(upgrading(GET, to=b"websocket")) == (200, b"/a ")
    client.writer.write(request + GET + request)
    answers = [await client.answer() for _ in range(3)]
    assert answers == [(200, post[5:7] + b" body"), (200, b"/a "), (200, post[5:7] + b" body")]


@pytest.mark.parametrize("last", [("1.1", "1.0"), ("Upgrade,", "close, Upgrade,")])
async def test_who_asks_to_upgrade_may_ask_for_nothing_else(
    service: Service, last: tuple[str, str]
) -> None:
    client = await service.connect()
    old, new = (text.encode() for text in last)
    assert await client.ask(upgrading(POST).replace(old, new)) == (200, b"/b body")
    assert await client.is_closed()


async def test_what_follows_a_connect_is_not_read(service: Service) -> None:
    client = await service.connect()
    client.writer.write(b"CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n" + POST)
    assert (await client.answer())[0] == 400
    assert await client.is_closed()


@pytest.mark.parametrize("post", [POST, OTHER], ids=["inference", "other"])
async def test_one_post_too_many_is_refused_and_the_connection_is_good(
    post: bytes,
) -> None:
    answer = post[5:7] + b" body"
    async with Service(most=2) as service:
        service.let.clear()
        waiting = [await service.connect() for _ in range(2)]
        asked = [asyncio.create_task(client.ask(post)) for client in waiting]
        late = await service.connect()
        while (refusal := await late.ask(post))[0] != 429:
            pass
        assert refusal == (429, b'{"error":"busy"}')
        assert "\r\nretry-after: 1\r\n" in late.head
        assert await late.ask(post[:-2], post[-2:]) == refusal
        assert await late.ask(GET) == (200, b"/a ")
        service.let.set()
        assert [await each for each in asked] == [(200, answer)] * 2
        assert await late.ask(post) == (200, answer)
    assert set(service.refusals) == {post[5:7].decode()}


@pytest.mark.parametrize("before", [GET, POST], ids=["other", "inference"])
async def test_one_post_too_many_is_refused_behind_another_request_too(before: bytes) -> None:
    async with Service(most=2) as service:
        service.let.clear()
        first, second = [await service.connect() for _ in range(2)]
        for client in (first, second):
            client.writer.write(POST if client is first else before + POST)
        while len(service.asked) < 2:
            await asyncio.sleep(0.01)
        third = await service.connect()
        third.writer.write(GET + POST)
        assert await third.answer() == (200, b"/a ")
        assert (await third.answer())[0] == 429
        service.let.set()
        assert await first.answer() == (200, b"/b body")
    assert service.bodies.held == 0


async def test_what_is_half_sent_is_not_in_hand() -> None:
    """Else a few slow clients would shut everybody out."""
    async with Service(most=1) as service:
        halves = [await service.connect() for _ in range(5)]
        for half in halves[1:]:
            half.writer.write(POST[:-2])
        client = await service.connect()
        assert await client.ask(POST) == (200, b"/b body")
        halves[1].writer.close()
        for half in halves[2:]:
            assert await half.ask(POST[-2:]) == (200, b"/b body")
    assert service.refusals == []


async def test_who_hangs_up_is_no_longer_in_hand() -> None:
    async with Service(most=1) as service:
        service.let.clear()
        gone = await service.connect()
        gone.writer.write(POST)
        while not service.asked:
            await asyncio.sleep(0.01)
        gone.writer.transport.abort()
        while not service.given_up:
            await asyncio.sleep(0.01)
        service.let.set()
        assert await (await service.connect()).ask(POST) == (200, b"/b body")


async def test_a_refusal_keeps_the_order_of_pipelined_requests() -> None:
    async with Service(most=1) as service:
        service.let.clear()
        client = await service.connect()
        client.writer.write(POST + POST)
        await asyncio.sleep(0.05)
        service.let.set()
        assert [await client.answer() for _ in range(2)] == [(200, b"/b body")] * 2


async def test_a_refused_client_that_wants_no_further_answer_gets_none() -> None:
    async with Service(most=0) as service:
        client = await service.connect()
        closing = POST.replace(b"Host: x", b"Connection: close")
        assert (await client.ask(closing))[0] == 429
        assert await client.is_closed()


@given(
    content=st.sampled_from([GET, POST, OTHER, POST + GET, POST + OTHER]).flatmap(anything.damaged)
)
def test_any_bytes_are_answered_or_the_connection_closed(content: bytes) -> None:
    async def run() -> None:
        async with Service() as service:
            client = await service.connect()
            client.writer.write(content)
            client.writer.write_eof()
            await asyncio.wait_for(client.reader.read(), 5)
            assert await (await service.connect()).ask(GET) == (200, b"/a ")

    asyncio.run(run())


def test_connections_that_wait_together_are_taken_together() -> None:
    """In few turns of uvloop's loop, which itself takes one connection in a turn."""
    count = 100

    async def turns() -> int:
        async with Service() as service:
            with ExitStack() as clients:
                for _ in range(count):
                    client = socket.create_connection(service.listener.getsockname())
                    clients.enter_context(client)
                turns = 0
                while len(service.state.connections) < count:
                    turns += 1
                    await asyncio.sleep(0)
                await asyncio.sleep(0.01)
                assert not service.connections._taking
            return turns

    assert uvloop.run(turns()) < count / 4
