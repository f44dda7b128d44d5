"""The deadlines of many requests, watched by one timer."""

import asyncio

import pytest

from serving.deadlines import Deadlines

pytestmark = pytest.mark.anyio


class Late(dict[str, float]):
    """The loop time at which each was given up."""

    def give_up(self, name: str) -> None:
        self[name] = asyncio.get_running_loop().time()


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
    assert late.keys() == expected.keys()
    assert all(late[name] >= deadline for name, deadline in expected.items())


async def test_what_was_answered_is_not_given_up(deadlines: Deadlines[str], late: Late) -> None:
    now = asyncio.get_running_loop().time()
    deadlines.add("answered", now + 0.02)
    deadlines.add("slow", now + 0.04)
    deadlines.discard("answered")
    deadlines.discard("answered")
    await asyncio.sleep(0.1)
    assert list(late) == ["slow"]


async def test_a_deadline_that_has_passed_is_one_too(deadlines: Deadlines[str], late: Late) -> None:
    deadlines.add("late", asyncio.get_running_loop().time() - 1)
    await asyncio.sleep(0.05)
    assert list(late) == ["late"]
