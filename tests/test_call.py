"""Calls of ``serving.call`` in this process: what they may hold, and what they may be."""

import asyncio
import gc
import gzip
import socket
import struct
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Callable
from typing import Any, NamedTuple

import grpc
import pytest

from serving import call as calling
from serving import frames, http2
from serving.call import PREFIX, Call, Headers, Method, Service
from serving.errors import TooLarge
from serving.frames import block, frame
from serving.gate import BODIES
from serving.inflate import inflate
from serving.receiver import IDLE_FRAMES

pytestmark = pytest.mark.anyio

SMALL = PREFIX.pack(0, 5) + b"small"
"""A message with what goes before it."""

LIMIT = 2**18
ECHO = "/echo"
SHOWN = 100
"""Bytes of a message that are echoed, for which a client has room without a word."""
ROOM = 100
"""Bytes in which no head has room."""


class Served(NamedTuple):
    """A service that echoes the beginning of messages once ``let`` is set, and where it is."""

    service: Service
    let: asyncio.Event
    host: str
    port: int


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    let = asyncio.Event()
    let.set()

    async def echo(data: bytes, _: Headers) -> tuple[bytes, str]:
        await let.wait()
        return data[:SHOWN], "v1"

    service = Service({ECHO: Method(echo)}, version="v1", max_calls=9, max_receive=LIMIT)
    listening = socket.create_server(("127.0.0.1", 0))
    server = http2.Server(service.call, largest=service.bodies.largest)
    await server.start(listening)
    yield Served(service, let, *listening.getsockname())
    await server.stop(0)


@pytest.fixture
def refused(served: Served, monkeypatch: pytest.MonkeyPatch) -> list[Exception]:
    """What calls are refused with; too many are refused only if somebody counts them."""
    errors: list[Exception] = []
    method = served.service.methods[ECHO]._replace(refused=errors.append)
    monkeypatch.setattr(served.service, "methods", {ECHO: method})
    return errors


async def ask(served: Served, message: bytes) -> bytes:
    async with grpc.aio.insecure_channel(f"{served.host}:{served.port}") as channel:
        return bytes(await channel.unary_unary(ECHO)(message))


def call(
    stream: int, body: bytes, *, is_whole: bool = False, encoding: str = "identity", **more: str
) -> bytes:
    """A call with this body, all of it or its beginning, and ``more`` headers."""
    headers = {
        ":method": "POST",
        ":path": ECHO,
        "content-type": "application/grpc",
        "grpc-encoding": encoding,
        **more,
    }
    head = block(headers.items())
    data = [
        frame(frames.DATA, 0, stream, body[at : at + frames.LARGEST])
        for at in range(0, len(body), frames.LARGEST)
    ]
    if is_whole:
        data.append(frame(frames.DATA, frames.END_STREAM, stream))
    return frame(frames.HEADERS, frames.END_HEADERS, stream, head) + b"".join(data)


def calls() -> list[Call]:
    """Those that are not freed, of all connections."""
    return [each for each in gc.get_objects() if type(each) is Call]


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
    async with asyncio.timeout(5):
        while bodies.held:
            await asyncio.sleep(0.01)
    assert not bodies.arriving


async def reply(served: Served, *sent: bytes) -> bytes:
    """All that the server sends until it has answered these calls."""
    reader, writer = await asyncio.open_connection(served.host, served.port)
    writer.write(CONNECTED + b"".join(sent))
    answer = b""
    while answer.count(b"grpc-status") < len(sent) and (more := await reader.read(2**16)):
        answer += more
    writer.close()
    return answer


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({":method": "GET"}, b"405"),
        ({"content-type": "application/json"}, b"415"),
        ({"content-type": "application/grpc-web"}, b"415"),
        ({"content-type": ""}, b"415"),
    ],
)
async def test_what_is_no_call_gets_a_status_of_http(
    served: Served, headers: dict[str, Any], status: bytes
) -> None:
    reader, writer = await asyncio.open_connection(served.host, served.port)
    writer.write(CONNECTED + call(1, b"", **headers))
    await reader.readuntil(b":status\x03" + status)
    writer.close()


@pytest.mark.parametrize(
    "content_type", ["application/grpc", "application/grpc+proto", "application/grpc;charset=utf-8"]
)
async def test_a_call_may_name_its_messages(served: Served, content_type: str) -> None:
    answer = await reply(served, call(1, SMALL, is_whole=True, **{"content-type": content_type}))
    assert b"small" in answer


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (SMALL[:4], b"the message is not complete"),
        (SMALL[:-1], b"expected a message of 5 bytes, got 4"),
        (SMALL + b"x", b"expected a message of 5 bytes, got 6"),
        (PREFIX.pack(0, 0) + bytes(LIMIT + 1), b"the message is over the limit"),
    ],
    ids=["no length", "cut", "more", "endless"],
)
async def test_a_message_is_as_long_as_it_says(served: Served, body: bytes, told: bytes) -> None:
    assert told in await reply(served, call(1, body, is_whole=True))


@pytest.mark.parametrize("more", [0, 1])
@pytest.mark.parametrize(
    ("encoding", "compress"), [("gzip", gzip.compress), ("deflate", zlib.compress)]
)
async def test_a_message_is_inflated_up_to_the_limit(
    served: Served, encoding: str, compress: Callable[[bytes], bytes], more: int
) -> None:
    message = compress(bytes(LIMIT + more))
    body = PREFIX.pack(1, len(message)) + message
    answer = await reply(served, call(1, body, is_whole=True, encoding=encoding))
    assert (b"the message is over the limit" if more else b"grpc-status\x010") in answer


def test_no_more_is_inflated_than_the_limit() -> None:
    bomb = gzip.compress(bytes(2**24))
    tracemalloc.start()
    try:
        with pytest.raises(TooLarge):
            inflate(bomb, "gzip", most=1000)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


async def test_no_call_begins_while_too_many_are_in_hand(
    served: Served, refused: list[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told so before it sends its message."""
    monkeypatch.setattr(served.service.in_hand, "_limit", 0)
    answer = await reply(served, call(1, SMALL[:5]))
    assert b"overloaded; try again later" in answer
    assert len(refused) == 1


DEADLINE = b"grpc-status\x014"


@pytest.mark.parametrize("limit", ["0S", "1n", "50000u", "50m"])
@pytest.mark.parametrize("is_whole", [False, True], ids=["on its way", "in hand"])
async def test_a_call_ends_at_its_deadline(served: Served, limit: str, is_whole: bool) -> None:
    served.let.clear()
    answer = await reply(served, call(1, SMALL, is_whole=is_whole, **{"grpc-timeout": limit}))
    assert DEADLINE in answer
    assert not served.service.in_hand.busy


@pytest.mark.parametrize("limit", ["1H", "99999999M", "10S", "", "1", "S", "-1S", "1.5S", "x" * 99])
async def test_a_call_whose_deadline_is_far_or_none_is_answered(served: Served, limit: str) -> None:
    answer = await reply(served, call(1, SMALL, is_whole=True, **{"grpc-timeout": limit}))
    assert b"small" in answer


@pytest.mark.parametrize("limit", ["", "1H"])
async def test_a_call_that_is_complete_has_more_time_than_its_message(
    served: Served, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    monkeypatch.setattr(calling, "TIMEOUT", 0.1)
    served.let.clear()
    asyncio.get_running_loop().call_later(0.3, served.let.set)
    answer = await reply(served, call(1, SMALL, is_whole=True, **{"grpc-timeout": limit}))
    assert b"small" in answer


async def test_calls_count_when_they_are_complete(served: Served, refused: list[Exception]) -> None:
    """However many have begun before."""
    served.let.clear()
    _, writer = await asyncio.open_connection(served.host, served.port)
    streams = range(1, 25, 2)
    rest = (frame(frames.DATA, frames.END_STREAM, stream, SMALL) for stream in streams)
    writer.write(CONNECTED + b"".join([*(call(stream, b"") for stream in streams), *rest]))
    async with asyncio.timeout(5):
        while len(refused) + len(served.service.in_hand.busy) < len(streams):
            await asyncio.sleep(0.01)
    assert len(refused) == 3
    writer.close()


async def test_the_work_for_a_call_ends_at_its_deadline(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = asyncio.Event()

    async def work(*_: object) -> tuple[bytes, str]:
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()
        return b"", ""

    monkeypatch.setattr(served.service, "methods", {ECHO: Method(work)})
    answer = await reply(served, call(1, SMALL, is_whole=True, **{"grpc-timeout": "50m"}))
    assert DEADLINE in answer
    async with asyncio.timeout(5):
        await ended.wait()


async def test_the_oldest_of_too_many_calls_on_their_way_gives_way(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calling, "ARRIVING", 3)
    reader, writer = await asyncio.open_connection(served.host, served.port)
    writer.write(CONNECTED + b"".join(call(1 + 2 * n, b"") for n in range(4)))
    await reader.readuntil(b"overloaded; try again later")
    arriving: list[Any] = [*served.service.bodies.arriving]
    assert [each.number for each in arriving] == [3, 5, 7]
    assert served.service.bodies.held == sum(each._head.size for each in arriving) > 0
    writer.close()


async def test_a_client_that_vanishes_leaves_no_error(served: Served) -> None:
    """Its calls are refused, but nothing can be written any more."""
    errors: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
    unknown = [call(1 + 2 * n, b"", is_whole=True, **{":path": "/x"}) for n in range(3000)]
    for _ in range(5):
        with socket.create_connection((served.host, served.port)) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            await asyncio.to_thread(client.sendall, CONNECTED + b"".join(unknown))
    assert await ask(served, b"small") == b"small"
    assert not errors


WHOLE = gzip.compress(b"message", mtime=0)


@pytest.mark.parametrize(
    "message",
    [WHOLE[:-8], WHOLE[:-1], WHOLE + b"x", WHOLE + WHOLE, WHOLE[:-8] + bytes(8), b"message", b""],
    ids=["no checksum", "cut", "more", "two", "wrong checksum", "plain", "empty"],
)
async def test_a_message_that_is_not_compressed_as_it_says_is_told_so(
    served: Served, message: bytes
) -> None:
    body = PREFIX.pack(1, len(message)) + message
    answer = await reply(served, call(1, body, is_whole=True, encoding="gzip"))
    assert b"the message is not compressed by gzip" in answer


async def test_messages_hold_what_they_are_inflated_to(served: Served) -> None:
    message = gzip.compress(bytes(LIMIT - 2000))
    bomb = PREFIX.pack(1, len(message)) + message
    bombs = [call(1 + 2 * n, bomb, is_whole=True, encoding="gzip") for n in range(BODIES + 2)]
    served.let.clear()
    answers = asyncio.create_task(reply(served, *bombs))
    async with asyncio.timeout(5):
        while len(served.service.in_hand.busy) != BODIES:
            await asyncio.sleep(0.01)
    served.let.set()
    assert (await answers).count(b"too many bodies are being read") == 2
    assert served.service.bodies.held == 0


async def test_what_is_still_sent_of_refused_messages_is_no_flood(served: Served) -> None:
    """A gateway's connection has the calls of many: these would end with it."""
    long = PREFIX.pack(0, LIMIT + 1)
    pieces = frame(frames.DATA, 0, 1, b"x") * (2 * IDLE_FRAMES)
    small = call(3, SMALL, is_whole=True)
    answer = await reply(served, call(1, long) + pieces, small)
    assert b"the message is over the limit" in answer
    assert b"small" in answer


async def test_an_answer_that_is_not_read_keeps_no_headers(served: Served) -> None:
    _, writer = await asyncio.open_connection(served.host, served.port)
    no_room = frames.settings([(frames.INITIAL_WINDOW_SIZE, 0)])
    small = call(1, SMALL, is_whole=True, encoding="gzip")
    writer.write(frames.PREFACE + no_room + small)
    gc.collect()
    while not (held := calls()):
        await asyncio.sleep(0.01)
    while served.service.in_hand.busy:
        await asyncio.sleep(0.01)
    assert not held[0]._head.fields
    writer.close()


async def test_a_call_that_is_given_up_is_freed_at_once(served: Served) -> None:
    served.let.clear()
    gc.collect()
    whole = call(1, SMALL, is_whole=True)
    gc.disable()  # it is rare in the programs
    try:
        for goodbye in (b"", frames.reset(1, frames.CANCEL)):
            _, writer = await asyncio.open_connection(served.host, served.port)
            writer.write(CONNECTED + whole)
            while not served.service.in_hand.busy:
                await asyncio.sleep(0.01)
            writer.write(goodbye)
            writer.close()
            async with asyncio.timeout(5):
                while calls():
                    await asyncio.sleep(0.01)
    finally:
        gc.enable()


async def test_an_answer_that_comes_from_no_version_names_none(served: Served) -> None:
    async def health(_: bytes, __: Headers) -> tuple[bytes, str]:
        return b"", ""

    served.service.methods = {"/health": Method(health)}
    async with grpc.aio.insecure_channel(f"{served.host}:{served.port}") as channel:
        answering = channel.unary_unary("/health")(b"")
        assert await answering == b""
        assert not await answering.trailing_metadata()
