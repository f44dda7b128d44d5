"""An inference on its connection: its body, its place in line, its end."""

import asyncio
import gc
import json
import weakref
from collections.abc import AsyncIterator
from typing import Any

import pytest

from serving import exchange, http
from serving.gate import BODIES
from tests.service import GET, Client, Service, chunked, post

pytestmark = pytest.mark.anyio

LARGEST = 1000


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    async with Service(max_body=LARGEST) as running:
        yield running


@pytest.fixture
async def client(service: Service) -> Client:
    return await service.connect()


async def settled() -> None:
    """Once the server has seen what clients have sent."""
    await asyncio.sleep(0.05)


@pytest.mark.parametrize("url", ["/b", "/b?x=1&y", "/%62", "http://elsewhere/b", "/b#part"])
async def test_the_path_is_found_however_it_is_written(
    service: Service, client: Client, url: str
) -> None:
    assert await client.ask(post(b"body", url=url)) == (200, b"/b body")
    assert service.asked[0].query == ("x=1&y" if "?" in url else "")


async def test_the_endpoint_is_told_the_headers(service: Service, client: Client) -> None:
    await client.ask(post(b"", "X-One: \xe4", "x-two: 1", "X-TWO: 2"))
    headers = service.asked[0].headers
    assert (headers["x-one"], headers["x-two"]) == ("Ã¤", "2")


async def test_a_body_in_chunks(client: Client) -> None:
    assert await client.ask(chunked(b"bo", b"dy")) == (200, b"/b body")
    letters = [b"%c" % letter for letter in range(256)]
    assert await client.ask(chunked(*letters)) == (200, b"/b " + b"".join(letters))


async def test_a_body_at_the_limit_is_read(service: Service, client: Client) -> None:
    body = bytes(LARGEST)
    for request in (post(body), chunked(body[:1], body[1:])):
        assert await client.ask(request) == (200, b"/b " + body)
    assert service.bodies.held == 0


@pytest.mark.parametrize("announced", [True, False])
async def test_a_body_over_the_limit_is_413(
    service: Service, client: Client, announced: bool
) -> None:
    body = bytes(LARGEST + 1)
    request = post(body) if announced else chunked(body)
    for pieces in ([request], [request[:-900], request[-900:]]):
        status, answer = await client.ask(*pieces)
        assert (status, "1000 bytes" in json.loads(answer)["error"]) == (413, True)
        assert service.bodies.held == 0
    assert await client.ask(post(b"body")) == (200, b"/b body")


@pytest.mark.parametrize("sent", ["body", ""])
async def test_zeros_before_a_length_change_nothing(
    service: Service, client: Client, sent: str
) -> None:
    """Python reads no number of 4,301 digits, and while it waits others ask for its size."""
    request = post(sent.encode()).replace(b"ength: ", b"ength: " + b"0" * 5000)
    assert await client.ask(request) == (200, b"/b " + sent.encode())
    assert service.bodies.held == 0


async def test_an_encoded_body_is_not_read(client: Client) -> None:
    refused = b'{"error":"Content-Encoding: expected none, got \'gzip\'"}'
    assert await client.ask(post(b"\x1f\x8b\x08", "Content-Encoding: gzip")) == (415, refused)
    assert "\r\naccept-encoding: identity\r\n" in client.head
    assert await client.ask(post(b"body", "Content-Encoding: Identity")) == (200, b"/b body")


async def test_a_body_that_comes_after_its_answer_takes_no_room(
    service: Service, client: Client
) -> None:
    request = post(b"\x1f\x8b\x08", "Content-Encoding: gzip")
    assert (await client.ask(request[:-3]))[0] == 415
    assert await client.ask(request[-3:] + post(b"body")) == (200, b"/b body")
    assert service.bodies.held == 0


@pytest.mark.parametrize("last", [LARGEST, 1])
async def test_the_bodies_of_all_requests_together_are_limited(service: Service, last: int) -> None:
    service.let.clear()
    clients = [await service.connect() for _ in range(BODIES + 1)]
    for each in clients[:-1]:
        each.writer.write(post(bytes(LARGEST)))
    await settled()
    clients[-1].writer.write(post(bytes(last)))
    await settled()
    assert service.bodies.held == BODIES * LARGEST
    service.let.set()
    assert [(await each.answer())[0] for each in clients] == [200] * BODIES + [429]
    assert service.bodies.held == 0


async def test_as_many_bodies_give_way_as_room_is_needed(service: Service) -> None:
    service.let.clear()
    whole = [await service.connect() for _ in range(BODIES)]
    for each in whole[:-1]:
        each.writer.write(post(bytes(LARGEST)))
    parts = [await service.connect() for _ in range(2)]
    for each in parts:
        each.writer.write(post(bytes(LARGEST))[: 100 - LARGEST])
    await settled()
    whole[-1].writer.write(post(bytes(LARGEST - 50)))
    async with asyncio.timeout(5):
        assert [(await each.answer())[0] for each in parts] == [429, 429]
    service.let.set()
    assert [(await each.answer())[0] for each in whole] == [200] * BODIES


async def test_bodies_that_do_not_come_give_way_to_smaller_ones(
    service: Service, client: Client
) -> None:
    halves = [await service.connect() for _ in range(BODIES)]
    for number, half in enumerate(halves):
        large = post(bytes(LARGEST)) if number else chunked(bytes(LARGEST))
        half.writer.write(large[:-5] if number else large[:-7])
    await settled()
    assert service.bodies.held == BODIES * LARGEST - 5 * (BODIES - 1)
    assert (await client.ask(post(bytes(LARGEST))))[0] == 429
    assert await client.ask(post(bytes(500))) == (200, b"/b " + bytes(500))
    answers = [asyncio.create_task(half.answer()) for half in halves]
    await settled()
    assert [each.result()[0] for each in answers if each.done()] == [429]
    for number, half in enumerate(halves):
        half.writer.write(bytes(5) if number else b"\r\n0\r\n\r\n")
    assert sorted([(await each)[0] for each in answers]) == [200] * (BODIES - 1) + [429]
    assert [await half.ask(post(b"body")) for half in halves] == [(200, b"/b body")] * BODIES
    assert (service.bodies.held, service.bodies.arriving) == (0, {})


@pytest.mark.parametrize("sent", [-1, None], ids=["half", "whole"])
async def test_a_client_that_hangs_up_is_given_up(service: Service, sent: int | None) -> None:
    service.let.clear()
    client = await service.connect()
    client.writer.write(post(b"body")[:sent])
    await settled()
    assert service.bodies.held > 0
    client.writer.transport.abort()
    await settled()
    assert (service.given_up, service.bodies.held) == (1, 0)
    assert not service.bodies.arriving
    assert not service.state.tasks


async def test_who_hangs_up_at_once_is_not_waited_for(service: Service, client: Client) -> None:
    client.writer.write(post(b"body")[:-1])
    client.writer.transport.abort()
    await settled()
    assert service.bodies.held == 0
    assert not service.state.tasks


async def test_pipelined_requests_are_answered_in_order(service: Service, client: Client) -> None:
    service.let.clear()
    client.writer.write(post(b"1") + GET + post(b"2") + post(b"3"))
    await settled()
    service.let.set()
    answers = [await client.answer() for _ in range(4)]
    assert answers == [(200, b"/b 1"), (200, b"/a "), (200, b"/b 2"), (200, b"/b 3")]


async def test_pipelined_requests_of_who_hangs_up_leave_nothing_behind(
    service: Service, client: Client
) -> None:
    service.let.clear()
    client.writer.write(post(b"1") + post(b"2") + post(b"3"))
    await settled()
    assert (len(service.asked), service.bodies.held) == (1, 3)
    client.writer.transport.abort()
    service.let.set()
    await settled()
    assert service.bodies.held == 0
    assert not service.state.tasks


async def test_who_asks_whether_the_body_is_wanted_is_told(client: Client) -> None:
    request = post(b"body", "Expect: 100-continue")
    client.writer.write(request[:-4])
    assert await client.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert await client.ask(request[-4:]) == (200, b"/b body")
    status, _ = await client.ask(post(bytes(LARGEST + 1), "Expect: 100-continue")[: -LARGEST - 1])
    assert status == 413


async def test_who_cannot_know_what_100_means_is_not_told_so(client: Client) -> None:
    """RFC 9110, 10.1.1: a client of HTTP/1.0 would take it for the answer."""
    old = post(b"body", "Expect: 100-continue", version="1.0")
    assert await client.ask(old[:-4], old[-4:]) == (200, b"/b body")


@pytest.mark.parametrize(
    ("request_", "closes"),
    [
        (post(b"body"), False),
        (post(b"body", "Connection: close"), True),
        (post(b"body", version="1.0"), True),
    ],
    ids=["keep", "close", "1.0"],
)
async def test_the_connection_stays_open_as_http_has_it(
    service: Service, client: Client, request_: bytes, closes: bool
) -> None:
    assert await client.ask(request_) == (200, b"/b body")
    assert ("connection: close" in client.head) == closes
    if closes:
        assert await client.is_closed()
    else:
        assert await client.ask(GET) == (200, b"/a ")
    assert not service.state.tasks


async def test_a_server_that_stops_says_so(service: Service, client: Client) -> None:
    service.let.clear()
    client.writer.write(post(b"body"))
    await settled()
    for connection in list(service.state.connections):
        connection.shutdown()
    service.let.set()
    assert await client.answer() == (200, b"/b body")
    assert "connection: close" in client.head
    assert await client.is_closed()


async def test_who_does_not_read_gets_the_next_answer_when_it_does(service: Service) -> None:
    """Else the answers to its requests would pile up here."""
    client = await service.connect()
    service.headers["x-long"] = "x" * 2**24
    for number in (b"1", b"2"):
        client.writer.write(post(number))
    await settled()
    assert len(service.asked) == 2
    assert len(service.state.tasks) == 1
    assert service.bodies.held == 0
    client.reader._limit = 2**25  # type: ignore[attr-defined]
    assert [await client.answer() for _ in range(2)] == [(200, b"/b 1"), (200, b"/b 2")]


async def test_who_never_reads_is_given_up(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "UNREAD", 0.05)
    client = await service.connect()
    service.headers["x-long"] = "x" * 2**24
    client.writer.write(post(b"1") + post(b"2"))
    async with asyncio.timeout(10):
        while len(service.asked) < 2 or service.state.tasks or service.state.connections:
            await asyncio.sleep(0.01)


async def test_a_header_cannot_hold_another(
    service: Service, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    service.headers["x-id"] = "1\r\nset-cookie: 2"
    client.writer.write(post(b"body"))
    assert await client.is_closed()
    assert "a line break in a header" in caplog.text


async def test_what_the_server_cannot_finish_is_told_so(service: Service, client: Client) -> None:
    """uvicorn cancels what is not answered in its time to stop."""
    service.let.clear()
    client.writer.write(post(b"body"))
    await settled()
    for task in service.state.tasks:
        task.cancel()
    assert (await client.answer())[0] == 503
    assert await client.is_closed()
    assert (service.given_up, service.bodies.held) == (1, 0)


async def test_an_inference_leaves_nothing_for_the_garbage_collector(
    service: Service, client: Client
) -> None:
    await client.ask(post(b"body"))
    gc.collect()
    gc.disable()
    try:
        exchanges = weakref.WeakSet[exchange.Exchange]()
        for _ in range(3):
            await client.ask(post(b"body"))
            (connection,) = service.state.connections
            assert isinstance(connection, http.Protocol)
            answered: Any = connection.cycle
            exchanges.add(answered)
            del answered
        assert len(exchanges) == 1  # the last one, until the next
    finally:
        gc.enable()
