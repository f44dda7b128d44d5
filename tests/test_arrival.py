"""What a client is sending, and the limits to it."""

import asyncio
import json
from collections.abc import AsyncIterator

import pytest

from serving import arrival
from serving.arrival import LONGEST_HEAD, MOST_HEADERS
from tests.service import GET, Service, chunked, post

pytestmark = pytest.mark.anyio

POST = post(b"body", url="/b?c")
"""An inference; those that are none go by ASGI."""
OTHER = POST.replace(b"/b", b"/c")


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    async with Service() as running:
        yield running


def long_heads() -> list[list[bytes]]:
    field = b"X: " + b"x" * 1000 + b"\r\n"
    return [
        [GET[:-2], b"Y: " + b"x" * (LONGEST_HEAD + 1) + b"\r\n\r\n"],
        [GET[:-2], *[field] * 100],
        [GET[:-2], *[b"x" * 1000] * 400],
        [b"GET /" + b"a" * (LONGEST_HEAD + 1) + b" HTTP/1.1\r\n\r\n"],
        [*[b"a" * 1000] * 400],
    ]


@pytest.mark.parametrize("pieces", long_heads(), ids=["field", "fields", "endless", "path", "none"])
async def test_a_head_over_the_limit_is_refused(service: Service, pieces: list[bytes]) -> None:
    client = await service.connect()
    try:
        status, body = await client.ask(*pieces)
    except (ConnectionError, asyncio.IncompleteReadError):
        pass  # the answer was lost with the rest of what was sent
    else:
        assert status in (400, 431)
        assert json.loads(body)["error"]
    assert await (await service.connect()).ask(GET) == (200, b"/a ")


@pytest.mark.parametrize("over", [0, 1])
async def test_a_head_is_read_up_to_the_limit(service: Service, over: int) -> None:
    """In pieces it counts as it comes, in one piece without line ends and such."""
    line = b"GET /a HTTP/1.1\r\n"
    begun = line + b"y: " + b"y" * (LONGEST_HEAD - len(line) - 3 + over)
    whole = line + b"y: " + b"y" * (LONGEST_HEAD - len(b"/ay") + over) + b"\r\n\r\n"
    thousands = [begun[i : i + 1000] for i in range(0, len(begun), 1000)]
    end = [] if over else [b"\r\n\r\n"]
    for pieces in ([whole], [begun, *end], [*thousands, *end]):
        client = await service.connect()
        status, _ = await client.ask(*pieces)
        assert status == (431 if over else 200)


async def test_heads_that_are_complete_do_not_count_together(service: Service) -> None:
    client = await service.connect()
    large = GET[:-2] + b"X: " + b"x" * (LONGEST_HEAD // 2) + b"\r\n\r\n"
    for _ in range(3):
        assert await client.ask(large[:9], large[9:]) == (200, b"/a ")


async def test_more_headers_than_the_limit_are_refused(service: Service) -> None:
    field = b"a: b\r\n"
    client = await service.connect()
    most = GET[:-2] + field * (MOST_HEADERS - 1)
    assert await client.ask(most + b"\r\n") == (200, b"/a ")
    for before, begun in (
        (b"", most + field * 2),  # the head is not complete
        (GET, most + field + b"\r\n"),
        (b"", chunked(b"body")[:-2] + field * MOST_HEADERS),
    ):
        client = await service.connect()
        client.writer.write(before + begun)
        if before:
            assert await client.answer() == (200, b"/a ")
        status, body = await client.answer()
        assert (status, "or 1,000 headers" in json.loads(body)["error"]) == (431, True)
        assert await client.is_closed()


async def test_bodies_do_not_count_as_heads(service: Service) -> None:
    body = b"b" * (3 * LONGEST_HEAD)
    head = f"POST /b HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    client = await service.connect()
    for _ in range(3):
        # The end of a body and the beginning of the next head may come in one piece.
        assert await client.ask(head, body + GET[:9]) == (200, b"/b " + body)
        assert await client.ask(GET[9:]) == (200, b"/a ")


@pytest.mark.parametrize("most", [1, 0], ids=["read", "refused"])
@pytest.mark.parametrize("post", [POST, OTHER], ids=["inference", "other"])
async def test_a_body_of_too_many_chunks_is_refused(
    monkeypatch: pytest.MonkeyPatch, post: bytes, most: int
) -> None:
    monkeypatch.setattr(arrival, "MOST_CHUNKS", 3)
    begun = post.replace(b"Content-Length: 4", b"Transfer-Encoding: chunked")[:-4]
    chunk = b"1\r\nx\r\n"
    async with Service(most=1) as service:
        client = await service.connect()
        for _ in range(2):
            answer = await client.ask(begun + chunk * 3, b"0\r\n\r\n")
            assert answer == (200, post[5:7] + b" xxx")
    async with Service(most=most) as service:
        client = await service.connect()
        status, body = await client.ask(begun + chunk * 4)
        assert status == (413 if most else 429)
        assert not most or "chunks" in json.loads(body)["error"]
        assert not most or "\r\nconnection: close\r\n" in client.head
        assert await client.is_closed()
        assert await (await service.connect()).ask(GET) == (200, b"/a ")


async def test_a_head_that_does_not_end_is_given_up(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrival, "TIMEOUT", 0.05)
    for before in (b"", GET):
        client = await service.connect()
        if before:
            await client.ask(before)
        status, body = await client.ask(GET[:12], GET[12:-2])
        assert (status, "complete" in json.loads(body)["error"]) == (408, True)
        assert await client.is_closed()


@pytest.mark.parametrize("begun", [GET[:-2], post(bytes(1000))[:-1000]], ids=["head", "body"])
async def test_who_goes_on_sending_little_by_little_is_given_up(
    service: Service, monkeypatch: pytest.MonkeyPatch, begun: bytes
) -> None:
    monkeypatch.setattr(arrival, "TIMEOUT", 0.2)
    client = await service.connect()
    client.writer.write(begun)
    answer = asyncio.create_task(client.answer())
    for _ in range(100):
        if answer.done():
            break
        client.writer.write(b"x")
        await asyncio.sleep(0.02)
    assert answer.done()
    assert (await answer)[0] == 408
    assert "\r\nconnection: close\r\n" in client.head


@pytest.mark.parametrize("most", [1, 0], ids=["read", "refused"])
@pytest.mark.parametrize("post", [POST, OTHER], ids=["inference", "other"])
async def test_a_body_that_does_not_come_is_given_up(
    monkeypatch: pytest.MonkeyPatch, post: bytes, most: int
) -> None:
    monkeypatch.setattr(arrival, "TIMEOUT", 0.05)
    async with Service(most=most) as service:
        client = await service.connect()
        client.writer.write(post[:-2])
        if most == 0:
            assert (await client.answer())[0] == 429
        else:
            status, body = await client.answer()
            assert (status, "complete" in json.loads(body)["error"]) == (408, True)
        assert await client.is_closed()


async def test_a_body_that_is_not_read_has_all_its_time(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind a slow request nothing is read."""
    monkeypatch.setattr(arrival, "TIMEOUT", 0.1)
    service.let.clear()
    client = await service.connect()
    client.writer.write(POST + POST[:-2])
    await asyncio.sleep(0.2)
    client.writer.write(POST[-2:])
    await asyncio.sleep(0.1)
    service.let.set()
    assert [await client.answer() for _ in range(2)] == [(200, b"/b body")] * 2


async def test_a_body_has_its_own_time(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrival, "TIMEOUT", 0.2)
    client = await service.connect()
    for piece in (POST[:12], POST[12:-2]):
        client.writer.write(piece)
        await asyncio.sleep(0.15)
    assert await client.ask(POST[-2:]) == (200, b"/b body")
