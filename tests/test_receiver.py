"""HTTP/2's rules (RFC 9113): which of them end a connection when they are broken, and how."""

from collections.abc import AsyncIterator

import pytest

from serving import frames
from serving.frames import (
    CONTINUATION,
    DATA,
    ENHANCE_YOUR_CALM,
    FLOW_CONTROL_ERROR,
    FRAME_SIZE_ERROR,
    GOAWAY,
    HEADERS,
    LARGEST,
    LONGEST_HEAD,
    PADDED,
    PING,
    PRIORITY,
    PROTOCOL_ERROR,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    STREAM_CLOSED,
    WINDOW,
    WITH_PRIORITY,
    block,
    frame,
)
from serving.receiver import IDLE_FRAMES, STREAMS
from tests.http2 import Service, call, data, opened, window

pytestmark = pytest.mark.anyio

END_HEADERS, END_STREAM = frames.END_HEADERS, frames.END_STREAM
POST = block([(":method", "POST"), (":path", "/")])
FOUR = (1).to_bytes(4)
HELD = opened(1, "/held")
SENT = opened(1, "/held", end=True)
OPEN_HEAD = frame(HEADERS, 0, 1, POST)


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": True}


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    async with Service().running() as running:
        yield running


def setting(number: int, value: int) -> bytes:
    return frames.settings([(number, value)])


@pytest.mark.parametrize(
    ("code", "broken"),
    [
        pytest.param(FRAME_SIZE_ERROR, HELD + data(1, bytes(LARGEST + 1)), id="large DATA"),
        pytest.param(FRAME_SIZE_ERROR, frame(99, 0, 0, bytes(LARGEST + 1)), id="large unknown"),
        pytest.param(PROTOCOL_ERROR, data(0), id="DATA on no stream"),
        pytest.param(PROTOCOL_ERROR, data(1), id="DATA on an idle stream"),
        pytest.param(PROTOCOL_ERROR, HELD + data(3), id="DATA on a later stream"),
        pytest.param(STREAM_CLOSED, SENT + data(1), id="DATA after END_STREAM"),
        pytest.param(PROTOCOL_ERROR, HELD + frame(DATA, PADDED, 1, b"\x01"), id="padded DATA"),
        pytest.param(FRAME_SIZE_ERROR, HELD + frame(DATA, PADDED, 1), id="DATA without padding"),
        pytest.param(PROTOCOL_ERROR, opened(0), id="HEADERS on no stream"),
        pytest.param(PROTOCOL_ERROR, opened(2), id="HEADERS on a server's stream"),
        pytest.param(PROTOCOL_ERROR, HELD + opened(1), id="HEADERS twice"),
        pytest.param(PROTOCOL_ERROR, SENT + opened(1, end=True), id="HEADERS after END_STREAM"),
        pytest.param(
            PROTOCOL_ERROR,
            frame(HEADERS, END_HEADERS | PADDED, 1, b"\xff" + POST),
            id="padding",
        ),
        pytest.param(
            frames.COMPRESSION_ERROR, frame(HEADERS, END_HEADERS, 1, b"\xbe"), id="HPACK garbage"
        ),
        pytest.param(PROTOCOL_ERROR, frame(RST_STREAM, 0, 0, FOUR), id="RST_STREAM on no stream"),
        pytest.param(PROTOCOL_ERROR, frame(RST_STREAM, 0, 1, FOUR), id="RST_STREAM, idle stream"),
        pytest.param(FRAME_SIZE_ERROR, HELD + frame(RST_STREAM, 0, 1, b"x"), id="short RST_STREAM"),
        pytest.param(PROTOCOL_ERROR, frame(SETTINGS, 0, 1), id="SETTINGS on a stream"),
        pytest.param(FRAME_SIZE_ERROR, frame(SETTINGS, 0, 0, bytes(5)), id="short SETTINGS"),
        pytest.param(FLOW_CONTROL_ERROR, setting(4, 2**31), id="INITIAL_WINDOW_SIZE"),
        pytest.param(PROTOCOL_ERROR, setting(5, LARGEST - 1), id="small MAX_FRAME_SIZE"),
        pytest.param(PROTOCOL_ERROR, setting(5, 2**24), id="large MAX_FRAME_SIZE"),
        pytest.param(PROTOCOL_ERROR, frame(PUSH_PROMISE, 4, 1, FOUR + POST), id="PUSH_PROMISE"),
        pytest.param(PROTOCOL_ERROR, frame(PING, 0, 1, bytes(8)), id="PING on a stream"),
        pytest.param(FRAME_SIZE_ERROR, frame(PING, 0, 0, bytes(7)), id="short PING"),
        pytest.param(PROTOCOL_ERROR, window(0, 0), id="no more window"),
        pytest.param(PROTOCOL_ERROR, HELD + window(1, 0), id="no more window of a stream"),
        pytest.param(PROTOCOL_ERROR, window(1, 1), id="window of an idle stream"),
        pytest.param(FRAME_SIZE_ERROR, frame(WINDOW, 0, 0, bytes(3)), id="short WINDOW_UPDATE"),
        pytest.param(FLOW_CONTROL_ERROR, window(0, 2**31 - 1), id="window"),
        pytest.param(FLOW_CONTROL_ERROR, HELD + window(1, 2**31 - 1), id="window of a stream"),
        pytest.param(PROTOCOL_ERROR, frame(CONTINUATION, 4, 1), id="CONTINUATION of nothing"),
        pytest.param(PROTOCOL_ERROR, HELD + frame(CONTINUATION, 4, 1), id="CONTINUATION of a call"),
        pytest.param(PROTOCOL_ERROR, OPEN_HEAD + frame(CONTINUATION, 4, 3), id="other's head"),
        pytest.param(PROTOCOL_ERROR, OPEN_HEAD + data(1), id="DATA inside a head"),
        pytest.param(PROTOCOL_ERROR, OPEN_HEAD + opened(3), id="HEADERS inside a head"),
        pytest.param(PROTOCOL_ERROR, OPEN_HEAD + frame(99, 0, 0), id="unknown inside a head"),
        pytest.param(
            ENHANCE_YOUR_CALM,
            OPEN_HEAD + frame(CONTINUATION, 0, 1, bytes(LARGEST)) * 4,
            id="head without end",
        ),
        pytest.param(
            ENHANCE_YOUR_CALM,
            OPEN_HEAD + frame(CONTINUATION, 0, 1) * (IDLE_FRAMES + 1),
            id="empty CONTINUATIONs",
        ),
    ],
)
async def test_a_broken_rule_ends_the_connection(
    service: Service, code: int, broken: bytes
) -> None:
    """The client is told which calls were begun, and the code; others go on."""
    client, other = await service.connect(), await service.connect()
    client.send(broken)
    assert await client.ended() == (len(service.calls), code)
    assert all(call.is_gone for call in service.calls)
    other.send(call(1))
    assert await other.echoed(1) == b"body"


@pytest.mark.parametrize(
    "ignored",
    [
        pytest.param(frame(99, 255, 7, b"x"), id="unknown frame"),
        pytest.param(frame(PRIORITY, 0, 5, bytes(5)), id="PRIORITY"),
        pytest.param(frame(SETTINGS, 1, 0) * 2, id="SETTINGS ACK twice"),
        pytest.param(setting(99, 2**32 - 1), id="unknown setting"),
        pytest.param(frame(PING, 1, 0, bytes(8)), id="PING ACK"),
        pytest.param(frame(GOAWAY, 0, 0, bytes(8)), id="GOAWAY"),
        pytest.param(data(1) + data(1, b"x", end=False), id="DATA of an answered call"),
        pytest.param(opened(1, end=True), id="HEADERS of an answered call"),
        pytest.param(frame(RST_STREAM, 0, 1, FOUR), id="RST_STREAM of an answered call"),
        pytest.param(window(1, 1), id="WINDOW_UPDATE of an answered call"),
        pytest.param(data(3) + opened(3, end=True), id="DATA and HEADERS of a reset call"),
        pytest.param(frame(RST_STREAM, 0, 3, FOUR) + window(3, 1), id="reset twice"),
    ],
)
async def test_what_may_come_late_or_is_not_known_is_ignored(
    service: Service, ignored: bytes
) -> None:
    client = await service.connect()
    client.send(call(1), opened(3, "/held"), frame(RST_STREAM, 0, 3, FOUR))
    assert await client.echoed(1) == b"body"
    client.send(ignored, call(5, b"next"))
    assert await client.echoed(5) == b"next"
    assert [call.path for call in service.calls] == ["/", "/held", "/"]


def padded(kind: int, flags: int, payload: bytes) -> bytes:
    return frame(kind, flags | PADDED, 1, b"\x03" + payload + bytes(3))


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(call(1), id="plain"),
        pytest.param(
            padded(HEADERS, END_HEADERS, POST) + padded(DATA, END_STREAM, b"body"), id="padded"
        ),
        pytest.param(
            padded(HEADERS, END_HEADERS | WITH_PRIORITY, bytes(5) + POST) + data(1, b"body"),
            id="with priority",
        ),
        pytest.param(
            opened(1) + data(1, b"bo", end=False) + padded(DATA, 0, b"") + data(1, b"dy"),
            id="in pieces",
        ),
        pytest.param(
            opened(1)
            + data(1, b"body", end=False)
            + frame(HEADERS, END_HEADERS | END_STREAM, 1, block([("x", "y")])),
            id="trailers",
        ),
        pytest.param(
            opened(1)
            + data(1, b"body", end=False)
            + frame(HEADERS, END_STREAM, 1)
            + frame(CONTINUATION, END_HEADERS, 1, block([("x", "y")])),
            id="trailers in pieces",
        ),
        pytest.param(call(2**31 - 1), id="last stream"),
        pytest.param(
            call(1).replace(bytes((0, 0, 0, 1)), bytes((128, 0, 0, 1))), id="reserved bit"
        ),
    ],
)
async def test_a_call_may_come_in_many_ways(service: Service, sent: bytes) -> None:
    client = await service.connect()
    client.send(sent)
    number = int.from_bytes(sent[5:9]) & frames.HIGHEST
    assert await client.echoed(number) == b"body"
    assert [call.path for call in service.calls] == ["/"]


@pytest.mark.parametrize("pieces", [2, 5, 99])
async def test_a_head_may_come_in_pieces_up_to_the_limit(service: Service, pieces: int) -> None:
    value = "y" * (LONGEST_HEAD - 32 - len("x"))
    head = block([("x", value)])
    step = min(LARGEST, len(head) // pieces + 1)
    first, *more, last = (head[at : at + step] for at in range(0, len(head), step))
    client = await service.connect()
    client.send(
        frame(HEADERS, END_STREAM, 1, first),
        *(frame(CONTINUATION, 0, 1, piece) for piece in more),
        frame(CONTINUATION, END_HEADERS, 1, last),
    )
    assert await client.echoed(1) == b""
    assert service.heads == [({"x": value}, LONGEST_HEAD)]
    client.send(call(3))
    assert await client.echoed(3) == b"body"


async def test_more_calls_at_a_time_than_the_limit_are_refused(service: Service) -> None:
    client = await service.connect()
    numbers = range(1, 2 * STREAMS, 2)
    client.send(*(opened(number, "/held", end=True) for number in numbers))
    beyond = 2 * STREAMS + 1
    client.send(call(beyond), frame(RST_STREAM, 0, 1, FOUR), call(beyond + 2))
    refused = await client.next(RST_STREAM)
    assert (refused.stream, refused.payload) == (beyond, frames.REFUSED_STREAM.to_bytes(4))
    assert await client.echoed(beyond + 2) == b"body"
    assert len(service.calls) == STREAMS + 1


IDLE = {
    "unknown": frame(99, 0, 0),
    "PING": frame(PING, 0, 0, bytes(8)),
    "SETTINGS": frame(SETTINGS, 0, 0),
    "PRIORITY": frame(PRIORITY, 0, 1, bytes(5)),
    "WINDOW_UPDATE": window(0, 1),
    "empty DATA": data(5, end=False),
    "HEADERS of an ended call": opened(3),
    "RST_STREAM": frame(RST_STREAM, 0, 5, FOUR),
}


@pytest.mark.parametrize("idle", IDLE.values(), ids=[*IDLE])
async def test_frames_that_bring_no_call_on_have_a_limit(service: Service, idle: bytes) -> None:
    client = await service.connect()
    most = idle * (IDLE_FRAMES - 2)
    client.send(HELD, opened(5, "/held"), most, data(1, b"x"), most, opened(7, end=True), most)
    assert await client.echoed(7) == b""
    client.send(idle * 3)
    assert await client.ended() == (7, ENHANCE_YOUR_CALM)


async def test_calls_beyond_the_limit_have_a_limit_themselves(service: Service) -> None:
    client = await service.connect()
    last = 2 * (STREAMS + IDLE_FRAMES) + 1
    client.send(*(opened(number, "/held", end=True) for number in range(1, last + 2, 2)))
    assert await client.ended() == (last, ENHANCE_YOUR_CALM)


async def test_calls_that_are_refused_at_once_are_no_idle_frames(service: Service) -> None:
    """Their bodies may come all the same: the client did not know."""
    client = await service.connect()
    last = 2 * IDLE_FRAMES + 11
    refused = (opened(number, "/refused") + data(number) for number in range(1, last, 2))
    client.send(*refused, call(last))
    assert await client.echoed(last) == b"body"
