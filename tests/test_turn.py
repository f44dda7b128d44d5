"""When connections are read again after an answer or a refusal."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from serving import gate
from serving.errors import Overloaded
from serving.gate import AFFORDABLE, InHand
from tests.service import GET, Client, Service, post

pytestmark = pytest.mark.anyio

POST = post(b"body")
BUSY = (429, b'{"error":"busy"}')
ANSWERED = (200, b"/b body")


class Waiting:
    """Notes whether it is read again; then it may have a request, or its client has hung up."""

    def __init__(self, in_hand: InHand, *, asks: bool = True, is_there: bool = True) -> None:
        self.reads_on = False
        self._in_hand = in_hand
        self._asks = asks
        self._is_there = is_there
        in_hand.wait(self)

    def read_on(self) -> bool:
        self.reads_on = True
        if not self._is_there:
            self._in_hand.hung_up()
        elif self._asks:
            self._in_hand.busy.add(self)
        return self._is_there


def refuse(in_hand: InHand, count: int) -> int:
    """Refuse ``count`` requests, and say how many of these refusals are affordable."""
    return sum(in_hand.affords() for _ in range(count))


def answer(in_hand: InHand, count: int) -> None:
    for number in range(count):
        in_hand.busy.add(number)
        in_hand.leave(number)


def test_refusals_are_affordable_while_they_are_not_many_times_the_answers() -> None:
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
    in_hand.leave("never at work")
    assert refuse(in_hand, 100) == 0
    answer(in_hand, 100)
    assert refuse(in_hand, 100) == 2 * AFFORDABLE


async def test_no_refusal_is_affordable_while_somebody_waits() -> None:
    in_hand = InHand(0)
    waiting = Waiting(in_hand)
    assert not in_hand.affords()
    del in_hand.line[waiting]
    assert in_hand.affords()


async def test_as_many_are_let_in_as_there_is_room_for_the_longest_waiting_first() -> None:
    in_hand = InHand(3)
    in_hand.busy.update("abcd")  # one is a health check, which is never refused
    line = [Waiting(in_hand) for _ in range(3)]

    async def are_let_in() -> list[bool]:
        await asyncio.sleep(20 * gate.PAUSE)
        return [each.reads_on for each in line]

    assert await are_let_in() == [False, False, False]
    in_hand.leave("a")
    assert await are_let_in() == [False, False, False]
    in_hand.leave("b")
    in_hand.leave("c")
    assert await are_let_in() == [True, True, False]
    in_hand.leave("d")
    assert await are_let_in() == [True, True, True]


async def test_who_has_nothing_to_ask_holds_up_nobody() -> None:
    in_hand = InHand(1)
    for _ in range(5):
        Waiting(in_hand, asks=False)
    last = Waiting(in_hand)
    await asyncio.sleep(50 * gate.PAUSE)
    assert last.reads_on
    assert not in_hand.line


async def test_who_has_hung_up_takes_nobody_s_turn() -> None:
    in_hand = InHand(1)
    for _ in range(5):
        Waiting(in_hand, is_there=False)
    line = [Waiting(in_hand) for _ in range(2)]
    await asyncio.sleep(2.5 * gate.PAUSE)
    assert [each.reads_on for each in line] == [True, False]


async def test_nobody_waits_while_clients_hang_up_instead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "SPARE", 0)
    in_hand = InHand(0)
    line = [Waiting(in_hand) for _ in range(3)]
    await asyncio.sleep(20 * gate.PAUSE)
    assert not in_hand.affords()
    for _ in range(2):
        in_hand.hung_up()
    await asyncio.sleep(20 * gate.PAUSE)
    assert all(each.reads_on for each in line)
    answer(in_hand, 2 * gate.HANG_UP - 1)
    assert refuse(in_hand, 100) == 100
    answer(in_hand, 1)
    assert refuse(in_hand, 100) == 0


def test_others_may_wait_again_however_many_have_hung_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "SPARE", 0)
    in_hand = InHand(1)
    for _ in range(gate.DEBT):
        in_hand.hung_up()
    answer(in_hand, gate.DEBT - 1)
    assert in_hand.affords()
    answer(in_hand, 1)
    assert not in_hand.affords()


@pytest.fixture
async def service(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Service]:
    """Nothing is answered, and each refusal is one too many."""
    monkeypatch.setattr(gate, "SPARE", 0)
    async with Service(most=1, keep_alive=0.05) as running, asyncio.timeout(20):
        running.let.clear()
        yield running


@pytest.fixture
async def first_client(service: Service) -> Client:
    """A client that has not been refused."""
    return await service.connect()


@pytest.fixture
async def first(service: Service, first_client: Client) -> "asyncio.Task[tuple[int, bytes]]":
    """The request in hand."""
    asked = asyncio.create_task(first_client.ask(POST))
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
    while service.in_hand.line:
        await asyncio.sleep(0.01)


async def test_who_is_answered_waits_behind_who_waits_already(
    service: Service, first: "asyncio.Task[tuple[int, bytes]]", first_client: Client
) -> None:
    clients = [await refused(service) for _ in range(2)]
    order: list[int] = []

    async def ask(number: int, client: Client) -> None:
        assert await client.ask(POST) == ANSWERED
        order.append(number)

    asked = [asyncio.create_task(ask(*each)) for each in enumerate(clients)]
    service.let.set()
    assert await first == ANSWERED
    await asyncio.gather(ask(2, first_client), *asked)
    assert order == [0, 1, 2]
    assert len(service.refusals) == 4, "nobody was refused meanwhile"


async def test_who_is_answered_is_read_at_once_while_nobody_waits(service: Service) -> None:
    service.let.set()
    client = await service.connect()
    for _ in range(2):
        assert await client.ask(POST) == ANSWERED
        assert not service.in_hand.line


async def test_who_asks_for_its_health_does_not_wait(service: Service, first: object) -> None:
    await refused(service)
    client = await service.connect()
    assert [await client.ask(GET) for _ in range(2)] == [(200, b"/a ")] * 2
    assert service.in_hand.line


async def test_nobody_waits_for_long_or_is_cut_off_meanwhile(
    monkeypatch: pytest.MonkeyPatch, first: object, service: Service
) -> None:
    monkeypatch.setattr(Overloaded, "retry_after", 0.2)
    client = await refused(service)
    assert await client.ask(POST) == BUSY
    assert service.in_hand.line


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


@pytest.mark.parametrize("sends", [True, False], ids=["a request", "nothing"])
async def test_who_hangs_up_is_forgotten_at_its_turn(
    service: Service, first: "asyncio.Task[tuple[int, bytes]]", sends: bool
) -> None:
    client = await refused(service)
    if sends:
        client.writer.write(POST)
    client.writer.close()
    service.let.set()
    assert await first == ANSWERED
    while len(service.state.connections) > 1:
        await asyncio.sleep(0.01)
    assert not service.in_hand.line
    assert len(service.asked) == 1, "nothing is computed for nobody"


@pytest.mark.parametrize("sends", [True, False], ids=["a request", "nothing"])
async def test_nobody_waits_after_others_have_hung_up_in_spite_of_a_request(
    monkeypatch: pytest.MonkeyPatch, service: Service, first: object, sends: bool
) -> None:
    monkeypatch.setattr(Overloaded, "retry_after", 0.2)
    gone = await refused(service)
    if sends:
        gone.writer.write(POST)
    gone.writer.close()
    while service.in_hand.line:
        await asyncio.sleep(0.01)
    client = await service.connect()
    for _ in range(2):
        assert await client.ask(POST) == BUSY
    assert bool(service.in_hand.line) is not sends


async def test_who_is_lost_waits_no_more(service: Service, first: object) -> None:
    client = await refused(service)
    for connection in list(service.state.connections):
        connection.transport.abort()
    assert await client.is_closed()
    assert not service.in_hand.line
