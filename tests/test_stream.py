"""Answers that are larger than the client's windows arrive whole, as it makes room for them."""

import asyncio
import gc
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from functools import partial
from random import Random
from typing import TypeAlias
from weakref import WeakSet

import pytest
import uvloop
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, Event, SettingsAcknowledged, StreamEnded
from h2.exceptions import StreamClosedError
from h2.settings import SettingCodes
from hypothesis import given
from hypothesis import strategies as st

from serving import connection, frames, receiver, stream
from serving.frames import DATA, FIRST_WINDOW, HIGHEST, LARGEST, RST_STREAM, WINDOW, frame
from tests.http2 import LARGEST as BODY
from tests.http2 import Client, Echo, Service, call, data, opened, window

pytestmark = pytest.mark.anyio

SIZE = 3 * FIRST_WINDOW
LONG = bytes(index % 251 for index in range(SIZE))
FRAMES = [data(1, LONG[at : at + LARGEST], end=False) for at in range(0, SIZE, LARGEST)]
ASKED = opened(1) + b"".join(FRAMES) + data(1)


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": True}


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    async with Service().running() as running:
        yield running


def first_window(size: int) -> tuple[int, int]:
    return frames.INITIAL_WINDOW_SIZE, size


async def received(client: Client, size: int) -> bytes:
    """So many bytes of data, and no more."""
    body = b""
    while len(body) < size:
        body += (await client.next(DATA)).payload
    client.send(frame(frames.PING, 0, 0, bytes(8)))
    while (each := await client.frame()).kind != frames.PING:
        assert each.kind != DATA
    return body


async def test_a_stream_s_window_bounds_what_is_sent(service: Service) -> None:
    client = await service.connect(first_window(10))
    client.send(window(0, SIZE), ASKED)
    assert await received(client, 10) == LONG[:10]
    client.send(window(1, 5))
    assert await received(client, 5) == LONG[10:15]
    client.send(frames.settings([first_window(12)]))
    assert await received(client, 2) == LONG[15:17]
    client.send(frames.settings([first_window(1)]), window(1, 11))  # it is 0 again
    assert await received(client, 0) == b""
    client.send(window(1, SIZE))
    assert await client.echoed(1) == LONG[17:]


async def test_more_room_by_a_setting_is_used_after_its_acknowledgement(service: Service) -> None:
    """Clients count by the former one until then, and strict ones end the connection."""
    client = await service.connect(first_window(1))
    client.send(call(1))
    assert await received(client, 1) == b"b"
    client.send(frames.settings([first_window(9)]))
    assert (await client.frame()).kind == frames.SETTINGS
    assert await client.echoed(1) == b"ody"


async def test_the_connection_s_window_bounds_all_streams(service: Service) -> None:
    client = await service.connect(first_window(SIZE))
    client.send(ASKED, call(3))
    assert await received(client, FIRST_WINDOW) == LONG[:FIRST_WINDOW]
    client.send(window(0, 3))
    assert await received(client, 3) == LONG[FIRST_WINDOW:][:3]
    client.send(window(0, SIZE))
    assert await client.echoed(1) == LONG[FIRST_WINDOW + 3 :]
    assert await client.echoed(3) == b"body"


async def test_small_answers_take_of_the_connection_s_window_too(service: Service) -> None:
    client = await service.connect(first_window(SIZE))
    client.send(*(call(number, bytes(1000)) for number in range(1, 133, 2)))
    assert await received(client, FIRST_WINDOW) == bytes(FIRST_WINDOW)


async def test_a_stream_without_room_holds_no_other_up(service: Service) -> None:
    client = await service.connect(first_window(0))
    client.send(call(1), call(3, b"other"), window(3, 5))
    assert await client.echoed(3) == b"other"
    client.send(call(5, b""))  # needs no room
    assert await client.echoed(5) == b""
    client.send(frames.settings([first_window(4)]))
    assert await client.echoed(1) == b"body"


async def test_the_largest_frame_is_the_client_s(service: Service) -> None:
    client = await service.connect(first_window(SIZE), (frames.MAX_FRAME_SIZE, 2 * LARGEST))
    client.send(window(0, SIZE), ASKED)
    assert (await client.next(DATA)).payload == LONG[: 2 * LARGEST]
    assert await client.echoed(1) == LONG[2 * LARGEST :]


async def test_a_body_of_any_size_has_room(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client's window of the connection is the largest, and made so again in time."""
    monkeypatch.setattr(receiver, "HIGHEST", 2 * BODY - 1)
    client = await service.connect()
    await client.next(WINDOW)
    await client.next(frames.SETTINGS)
    first, *rest = [data(1, bytes(LARGEST), end=False)] * (BODY // LARGEST)
    ping, pong = (frame(frames.PING, flags, 0, bytes(8)) for flags in (0, frames.ACK))
    told = pong + window(0, BODY) + pong
    client.send(opened(1, "/held"))
    for _ in range(2):
        client.send(first, *rest[1:], ping, *rest[:1], ping)
        assert await client.reader.readexactly(len(told)) == told


@pytest.mark.parametrize("blocked", ["stream", "connection"])
async def test_who_makes_no_room_is_given_up(
    service: Service, monkeypatch: pytest.MonkeyPatch, blocked: str
) -> None:
    monkeypatch.setattr(stream, "UNREAD", 0.1)
    client = await service.connect(first_window(10 if blocked == "stream" else SIZE))
    client.send(ASKED, opened(3, "/held", end=True))
    reset = await client.next(RST_STREAM)
    assert (reset.stream, reset.payload) == (1, frames.CANCEL.to_bytes(4))
    assert [call.is_gone for call in service.calls] == [True, False]
    client.send(window(0, SIZE), window(1, SIZE), call(5))  # as if it had been about to
    assert await client.echoed(5) == b"body"
    service.calls[1].answer()
    assert await client.echoed(3) == b""


async def test_a_client_may_cancel_what_it_has_no_room_for(service: Service) -> None:
    client = await service.connect(first_window(1))
    client.send(call(1))
    assert await received(client, 1) == b"b"
    client.send(frame(RST_STREAM, 0, 1, bytes(4)), window(1, 9), call(3, b"x"))
    assert await client.echoed(3) == b"x"
    assert service.calls[0].is_gone


async def test_the_time_to_make_room_ends_with_the_answer(service: Service) -> None:
    client = await service.connect(first_window(1))
    client.send(call(1), call(3))
    assert await received(client, 2) == b"bb"
    (served,) = service.server._connections
    limits = [each.limit for each in served._streams._unsent.values()]
    client.send(frame(RST_STREAM, 0, 1, bytes(4)), window(3, 9))
    assert await client.echoed(3) == b"ody"
    assert [limit.cancelled() for limit in limits] == [True, True]


async def test_windows_may_be_the_largest(service: Service) -> None:
    client = await service.connect(first_window(HIGHEST))
    most = HIGHEST - FIRST_WINDOW
    client.send(window(0, most), call(1))
    assert await client.echoed(1) == b"body"
    client.send(frames.settings([first_window(FIRST_WINDOW)]))
    client.send(opened(3), window(3, most), data(3, b"body"))
    assert await client.echoed(3) == b"body"


async def test_a_refused_call_need_not_be_sent_whole(service: Service) -> None:
    client = await service.connect()
    client.send(opened(1, "/refused"))
    assert await client.echoed(1) == b""
    reset = await client.frame()
    assert (reset.kind, reset.payload) == (RST_STREAM, frames.NO_ERROR.to_bytes(4))


async def unread(service: Service) -> Client:
    """Who does not read an answer, though it has room for all, as it says."""
    client = await service.connect(first_window(2**30))
    client.send(window(0, 2**30), *(opened(number, "/held", end=True) for number in (1, 3)))
    while len(service.calls) < 2:
        await asyncio.sleep(0)
    service.calls[0].body = bytes(2**24)
    service.calls[0].answer()
    return client


async def test_who_does_not_read_is_cut_off(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "UNREAD", 0.1)
    client = await unread(service)
    while not service.calls[1].is_gone:
        await asyncio.sleep(0.01)
    assert await client.is_closed()


async def test_of_who_does_not_read_nothing_is_taken_meanwhile(service: Service) -> None:
    client = await unread(service)
    client.send(call(5))
    await asyncio.sleep(0.05)
    assert len(service.calls) == 2
    assert await client.echoed(1) == bytes(2**24)
    assert await client.echoed(5) == b"body"


async def test_who_has_read_is_not_cut_off_later(service: Service) -> None:
    client = await unread(service)
    (served,) = service.server._connections
    while not served._unread.has_begun():
        await asyncio.sleep(0.01)
    assert await client.echoed(1) == bytes(2**24)
    assert not served._unread.has_begun()


async def test_of_who_does_not_read_nothing_is_taken_in_its_next_turn(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What has come already, with the frame that it does not read the answer of."""
    monkeypatch.setattr(connection, "TURN", -1)
    client = await service.connect(first_window(2**30))
    client.send(window(0, 2**30), opened(1, "/held", end=True))
    while not service.calls:
        await asyncio.sleep(0)
    service.calls[0].body = bytes(2**24)
    monkeypatch.setattr(Echo, "begin", lambda _: service.calls[0].answer())
    client.send(opened(3, "/held"), call(5))
    await asyncio.sleep(0.05)
    assert len(service.calls) == 2
    assert await client.echoed(1) == bytes(2**24)
    assert await client.echoed(5) == b"body"


async def test_nothing_is_kept_of_who_leaves_without_reading(service: Service) -> None:
    client = await unread(service)
    connections = WeakSet(service.server._connections)
    client.writer.transport.abort()
    while not service.calls[1].is_gone:
        await asyncio.sleep(0.01)
    service.calls.clear()
    gc.collect()
    assert not [*connections]


SIZES = [0, 1, 100, LARGEST - 1, LARGEST, LARGEST + 1, FIRST_WINDOW, FIRST_WINDOW + 1, SIZE]
HEADERS = [(":method", "POST"), (":path", "/"), (":scheme", "http"), (":authority", "x")]


Step: TypeAlias = Callable[[], object]


class Peer:
    """A client by h2, another implementation of HTTP/2, which checks what the server sends."""

    def __init__(self, client: Client, random: Random) -> None:
        self._client = client
        self._random = random
        self._h2 = H2Connection(H2Configuration(header_encoding="ascii"))
        self._h2.initiate_connection()
        self._echoed: dict[int, bytes] = {}
        """What has come of each stream, by its number."""

    async def ask(self, messages: dict[int, bytes], first_windows: list[int]) -> dict[int, bytes]:
        """Send each message on a stream, and make room for the answers, in any order and pieces."""
        # The first acknowledgement would be taken for that of the first change.
        await self._send()
        await self._take(SettingsAcknowledged, 1)
        taking = asyncio.create_task(self._take(StreamEnded, len(messages)))
        steps: list[list[Step]] = [[partial(self._resize, size) for size in first_windows]]
        steps.append(self._room(0, sum(map(len, messages.values()))))
        for number, message in messages.items():
            self._echoed[number] = b""
            self._h2.send_headers(number, HEADERS)
            steps += [self._body(number, message), self._room(number, len(message))]
        while steps := [each for each in steps if each]:
            with suppress(StreamClosedError):  # room for an answer that has come already
                self._random.choice(steps).pop()()
            await self._send()
        async with asyncio.timeout(10):
            await taking
        return self._echoed

    def _resize(self, size: int) -> None:
        self._h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: size})

    def _room(self, number: int, size: int) -> list[Step]:
        more = partial(self._h2.increment_flow_control_window, stream_id=number or None)
        return [partial(more, piece) for piece in self._split(size, size)]

    def _body(self, number: int, message: bytes) -> list[Step]:
        """The steps to send it, the last of them first."""
        steps: list[Step] = []
        for size in self._split(len(message), LARGEST - 256):
            piece, message = message[:size], message[size:]
            padding = self._random.choice([None, 0, 255])
            steps.append(partial(self._h2.send_data, number, piece, pad_length=padding))
        steps.append(partial(self._h2.end_stream, number))
        return steps[::-1]

    def _split(self, size: int, most: int) -> Iterator[int]:
        while size:
            piece = self._random.randint(1, min(size, most))
            yield piece
            size -= piece

    async def _send(self) -> None:
        data = self._h2.data_to_send()
        for size in self._split(len(data), len(data)):
            self._client.send(data[:size])
            data = data[size:]
            await asyncio.sleep(0)

    async def _take(self, last: type[Event], count: int) -> None:
        """Take what comes, up to so many of the ``last`` kind."""
        while count > 0:
            received = await self._client.reader.read(2**16)
            for event in self._h2.receive_data(received):
                if isinstance(event, DataReceived):
                    self._echoed[event.stream_id] += event.data
                count -= isinstance(event, last)


@given(
    st.lists(st.sampled_from(SIZES), min_size=1, max_size=5),
    st.lists(st.sampled_from([0, 1, 100, LARGEST, FIRST_WINDOW, SIZE]), max_size=3),
    st.integers(0, 2**32),
)
def test_any_bodies_are_echoed_whatever_the_windows(
    sizes: list[int], first_windows: list[int], seed: int
) -> None:
    messages = {2 * index + 1: LONG[-size:] if size else b"" for index, size in enumerate(sizes)}

    async def run() -> None:
        async with Service().running() as service:
            peer = Peer(Client(*await service.dial()), Random(seed))
            assert await peer.ask(messages, first_windows) == messages

    uvloop.run(run())
