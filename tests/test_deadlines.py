"""The deadlines of many requests, watched by one timer."""

import asyncio
from typing import Any

import pytest

from serving.deadlines import Deadlines

pytestmark = pytest.mark.anyio


class Late(list[tuple[str, float]]):
    """Which were given up, each with the loop time."""

    def give_up(self, name: str) -> None:
        self.append((name, asyncio.get_running_loop().time()))

    def names(self) -> list[str]:
        return [name for name, _ in self]


@pytest.fixture
def late() -> Late:
    return Late()


@pytest.fixture
def deadlines(late: Late) -> Deadlines[str]:
    return Deadlines(late.give_up)


async def test_each_is_given_up_at_its_own_deadline_whatever_their_order(
    deadlines: Deadlines[str], late: Late
) -> None:
    now = asyncio.get_running_loop().time()
    expected = {"third": now + 0.15, "first": now + 0.05, "second": now + 0.1}
    for name, deadline in expected.items():
        deadlines.add(name, deadline)
    await asyncio.sleep(0.3)
    assert sorted(late.names()) == sorted(expected)
    assert all(time >= expected[name] for name, time in late)


async def test_what_comes_later_may_be_due_sooner(deadlines: Deadlines[str], late: Late) -> None:
    now = asyncio.get_running_loop().time()
    for name, seconds in (("first", 3600), ("second", 0.02), ("third", 0.04), ("fourth", 3600)):
        deadlines.add(name, now + seconds)
    await asyncio.sleep(0.1)
    assert late.names() == ["second", "third"]


async def test_there_is_one_timer(
    deadlines: Deadlines[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a client with ever sooner deadlines could fill the memory."""

    def call_at(*arguments: Any) -> asyncio.TimerHandle:
        timers.append(set_timer(*arguments))
        return timers[-1]

    timers: list[asyncio.TimerHandle] = []
    loop = asyncio.get_running_loop()
    set_timer = loop.call_at
    monkeypatch.setattr(loop, "call_at", call_at)
    for seconds in (3600, 3500, 3400):
        deadlines.add(str(seconds), loop.time() + seconds)
    assert [timer.cancelled() for timer in timers] == [True, True, False]


async def test_what_was_answered_is_not_given_up(deadlines: Deadlines[str], late: Late) -> None:
    now = asyncio.get_running_loop().time()
    deadlines.add("answered", now + 0.02)
    deadlines.add("slow", now + 0.04)
    deadlines.discard("answered")
    deadlines.discard("answered")
    await asyncio.sleep(0.1)
    assert late.names() == ["slow"]


async def test_a_deadline_that_has_passed_is_one_too(deadlines: Deadlines[str], late: Late) -> None:
    for name in ("late", "late again"):
        deadlines.add(name, asyncio.get_running_loop().time() - 1)
        await asyncio.sleep(0.05)
    assert late.names() == ["late", "late again"]
