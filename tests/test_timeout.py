"""A time limit that starts and ends often."""

import asyncio
from unittest.mock import Mock

import pytest

from serving.timeout import Timeout

pytestmark = pytest.mark.anyio

SECONDS = 0.05


class Expired:
    """Counts the calls and notes the last one's loop time."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.times = 0
        self.at = 0.0

    def __call__(self) -> None:
        self.times += 1
        self.at = self.loop.time()


@pytest.fixture
async def expired() -> Expired:
    return Expired()


@pytest.fixture
async def limit(expired: Expired) -> Timeout:
    return Timeout(expired.loop, SECONDS, expired)


async def test_it_expires_once(limit: Timeout, expired: Expired) -> None:
    limit.begin()
    assert limit.has_begun()
    await asyncio.sleep(4 * SECONDS)
    assert expired.times == 1
    assert not limit.has_begun()


async def test_what_ends_in_time_does_not_expire(limit: Timeout, expired: Expired) -> None:
    limit.begin()
    limit.end()
    assert not limit.has_begun()
    await asyncio.sleep(4 * SECONDS)
    assert expired.times == 0


@pytest.mark.parametrize("ends", [True, False])
async def test_it_counts_from_the_last_beginning(
    limit: Timeout, expired: Expired, *, ends: bool
) -> None:
    limit.begin()
    await asyncio.sleep(SECONDS / 2)
    if ends:
        limit.end()
    limit.begin()
    began = expired.loop.time()
    while not expired.times:
        await asyncio.sleep(SECONDS / 10)
    assert expired.at - began > 0.9 * SECONDS


async def test_a_later_beginning_has_its_own_time_and_no_more(expired: Expired) -> None:
    limit = Timeout(expired.loop, 1, expired)
    limit.begin()
    await asyncio.sleep(0.05)
    limit.begin()
    began = expired.loop.time()
    while not expired.times:
        await asyncio.sleep(SECONDS / 10)
    assert expired.at - began < 1.5, "nearly twice as long if the timer begins anew"


async def test_it_can_expire_again(limit: Timeout, expired: Expired) -> None:
    for times in (1, 2):
        limit.begin()
        await asyncio.sleep(4 * SECONDS)
        assert expired.times == times


async def test_it_may_begin_again_as_it_expires(expired: Expired) -> None:
    limit: Timeout

    def expire() -> None:
        expired()
        if expired.times == 1:
            limit.begin()

    limit = Timeout(expired.loop, SECONDS, expire)
    limit.begin()
    await asyncio.sleep(8 * SECONDS)
    assert expired.times == 2


async def test_one_timer_serves_all_beginnings(
    limit: Timeout, expired: Expired, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else those of a busy connection would fill the memory."""
    timers = Mock(wraps=expired.loop.call_later)
    monkeypatch.setattr(expired.loop, "call_later", timers)
    for _ in range(3):
        limit.begin()
        limit.end()
    assert timers.call_count == 1


async def test_after_it_is_closed_nothing_expires(limit: Timeout, expired: Expired) -> None:
    limit.begin()
    limit.close()
    await asyncio.sleep(4 * SECONDS)
    assert expired.times == 0
