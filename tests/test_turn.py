"""Refused connections: when they are read again."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from serving import gate
from serving.errors import Overloaded
from serving.gate import AFFORDABLE, InHand
from tests.service import Client, Service, post

pytestmark = pytest.mark.anyio

POST = post(b"body")
BUSY = (429, b'{"error":"busy"}')
ANSWERED = (200, b"/b body")


class Waiting:
    """Is refused; notes whether it is read again."""

    def __init__(self) -> None:
        self.reads_on = False

    def read_on(self) -> None:
        self.reads_on = True


def refuse(in_hand: InHand, count: int) -> int:
    """Refuse ``count`` requests, and say after how many of them nobody must wait."""
    return sum(not in_hand.must_wait(Waiting()) for _ in range(count))


def answer(in_hand: InHand, count: int) -> None:
    for number in range(count):
        in_hand.busy.add(number)
        in_hand.leave(number)


def test_nobody_waits_while_refusals_are_not_many_times_the_answers() -> None:
    in_hand = InHand(1)
    for _ in range(gate.SPARE):
        answer(in_hand, 1)
        assert refuse(in_hand, AFFORDABLE) == AFFORDABLE


def test_so_many_may_be_refused_at_once_and_again_after_as_many_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gate, "SPARE", 2 * AFFORDABLE)
    in_hand = InHand(1)
    assert refuse(in_hand, 100) == 2 * AFFORDABLE
    answer(in_hand, 100)
    assert not in_hand.waiting
    assert refuse(in_hand, 100) == 2 * AFFORDABLE


def test_each_answer_is_the_turn_of_the_one_that_waits_longest() -> None:
    in_hand = InHand(1)
    refuse(in_hand, gate.SPARE)
    first, second = Waiting(), Waiting()
    assert in_hand.must_wait(first)
    assert in_hand.must_wait(second)
    in_hand.leave("never at work")
    assert not first.reads_on
    answer(in_hand, 1)
    assert (first.reads_on, second.reads_on) == (True, False)
    assert in_hand.must_wait(first), "as long as somebody waits, who is refused waits too"
    answer(in_hand, 1)
    assert second.reads_on


@pytest.fixture
async def service(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Service]:
    """Nothing is answered, and each refusal is one too many."""
    monkeypatch.setattr(gate, "SPARE", 0)
    async with Service(most=1, keep_alive=0.05) as running, asyncio.timeout(20):
        running.let.clear()
        yield running


@pytest.fixture
async def first(service: Service) -> "asyncio.Task[tuple[int, bytes]]":
    """The request in hand."""
    client = await service.connect()
    asked = asyncio.create_task(client.ask(POST))
    while not service.in_hand.is_full():
        await asyncio.sleep(0.01)
    return asked


async def refused(service: Service) -> Client:
    """A client that has been refused twice, and now waits for its turn."""
    client = await service.connect()
    assert [await client.ask(POST) for _ in range(2)] == [BUSY] * 2
    return client


async def test_who_is_refused_again_is_answered_in_its_turn(
    service: Service, first: "asyncio.Task[tuple[int, bytes]]"
) -> None:
    clients = [await refused(service) for _ in range(2)]
    asked = [asyncio.create_task(client.ask(POST)) for client in clients]
    assert await (await service.connect()).ask(POST) == BUSY, "others are read"
    assert not any(each.done() for each in asked)
    service.let.set()
    assert [await each for each in (first, *asked)] == [ANSWERED] * 3
    assert service.refusals == ["/b"] * 5
    assert not service.in_hand.waiting


async def test_nobody_waits_for_long_or_is_cut_off_meanwhile(
    monkeypatch: pytest.MonkeyPatch, first: object, service: Service
) -> None:
    monkeypatch.setattr(Overloaded, "retry_after", 0.2)
    client = await refused(service)
    assert await client.ask(POST) == BUSY
    assert service.in_hand.waiting


@pytest.mark.parametrize("sends", [True, False], ids=["a request", "nothing"])
async def test_a_server_that_stops_reads_who_waits(
    service: Service, first: "asyncio.Task[tuple[int, bytes]]", sends: bool
) -> None:
    client = await refused(service)
    if sends:
        client.writer.write(POST)
    service.connections.is_closed = True
    for connection in list(service.state.connections):
        connection.shutdown()
    if sends:
        assert await client.answer() == BUSY
    assert await client.is_closed()
    service.let.set()
    assert await first == ANSWERED


async def test_who_hangs_up_is_forgotten_at_its_turn(
    service: Service, first: "asyncio.Task[tuple[int, bytes]]"
) -> None:
    client = await refused(service)
    client.writer.close()
    service.let.set()
    assert await first == ANSWERED
    while len(service.state.connections) > 1:
        await asyncio.sleep(0.01)
    assert not service.in_hand.waiting


async def test_who_is_lost_waits_no_more(service: Service, first: object) -> None:
    client = await refused(service)
    for connection in list(service.state.connections):
        connection.transport.abort()
    assert await client.is_closed()
    assert not service.in_hand.waiting
