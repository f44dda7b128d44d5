"""When the batcher starts a run: at once for who is alone, later where company is to be had."""

import asyncio
from typing import Any

import pytest

from serving.batcher import Batcher
from serving.scores import Scores
from tests.runner import Runner, images, started, values

pytestmark = pytest.mark.anyio


async def test_an_idle_batcher_runs_a_request_at_once() -> None:
    runner = Runner()
    # A wait of an hour would show.
    batcher = Batcher(runner, stage="compute", max_batch=8, max_pending=100, max_wait=3600)
    request = asyncio.create_task(batcher.submit(images(1)))
    await started(request)
    assert runner.sizes == [1]
    runner.release.set()
    assert values(await request) == [1]


async def test_while_a_run_is_under_way_requests_gather_until_the_oldest_has_waited() -> None:
    runner = Runner()
    batcher = Batcher(
        runner, stage="compute", max_batch=100, max_pending=100, max_wait=0.05, concurrency=3
    )
    requests = [asyncio.create_task(batcher.submit(images(0)))]
    await started(*requests)
    for sizes in ([1, 3], [1, 3, 3]):
        requests += [asyncio.create_task(batcher.submit(images(i))) for i in range(3)]
        await started(*requests)
        assert runner.sizes == sizes[:-1]
        while len(runner.sizes) < len(sizes):
            await asyncio.sleep(0.01)
        assert runner.sizes == sizes
    runner.release.set()
    await asyncio.gather(*requests)


async def test_while_a_run_is_under_way_the_event_loop_rests(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    turns = 0

    def soon(*arguments: Any, **settings: Any) -> asyncio.Handle:
        nonlocal turns
        turns += 1
        return call_soon(*arguments, **settings)

    runner = Runner()
    batcher = Batcher(
        runner,
        stage="compute",
        max_batch=8,
        max_pending=100,
        max_wait=3600,
        until_idle=True,
        concurrency=2,
    )
    requests = [asyncio.create_task(batcher.submit(images(i))) for i in (1, 2)]
    await started(*requests)
    loop = asyncio.get_running_loop()
    call_soon = loop.call_soon
    monkeypatch.setattr(loop, "call_soon", soon)
    await asyncio.sleep(0.05)
    assert turns < 10
    runner.release.set()
    await asyncio.gather(*requests)


async def test_a_full_batch_waits_no_longer() -> None:
    runner = Runner()
    batcher = Batcher(
        runner, stage="compute", max_batch=2, max_pending=100, max_wait=3600, concurrency=2
    )
    requests = [asyncio.create_task(batcher.submit(images(i))) for i in range(3)]
    await started(*requests)
    assert runner.sizes == [1, 2]
    runner.release.set()
    await asyncio.gather(*requests)


async def test_who_is_alone_never_waits() -> None:
    batcher = batcher_that_lingers(3600, runner := Runner())
    runner.release.set()
    for i in range(3):
        assert values(await batcher.submit(images(i))) == [i]


async def test_after_a_run_the_next_waits_for_as_many_as_there_were() -> None:
    batcher = batcher_that_lingers(3600, runner := Runner())
    first, second = [asyncio.create_task(batcher.submit(images(i))) for i in (1, 2)]
    await started(first, second)
    runner.release.set()
    await first
    await started(second)
    assert runner.sizes == [1]
    assert values(await batcher.submit(images(3))) == [3]
    assert values(await second) == [2]
    assert runner.sizes == [1, 2]


async def test_it_waits_no_longer_than_it_may() -> None:
    batcher = batcher_that_lingers(0.05, runner := Runner())
    requests = [asyncio.create_task(batcher.submit(images(i))) for i in (1, 2)]
    await started(*requests)
    runner.release.set()
    await asyncio.gather(*requests)
    assert runner.sizes == [1, 1]


async def test_who_comes_later_than_that_waits_for_nobody() -> None:
    batcher = batcher_that_lingers(0.2, runner := Runner())
    requests = [asyncio.create_task(batcher.submit(images(i))) for i in (1, 2)]
    await started(*requests)
    requests += [asyncio.create_task(batcher.submit(images(i))) for i in (3, 4)]
    await started(*requests)
    runner.release.set()
    await asyncio.gather(*requests)
    await asyncio.sleep(0.2)
    late = asyncio.create_task(batcher.submit(images(5)))
    await started(late)
    assert runner.sizes == [1, 3, 1]
    await late


@pytest.mark.parametrize("turns", [0, 2])
async def test_until_idle_it_waits_for_who_is_on_the_way(turns: int) -> None:
    async def again() -> Scores:
        await first
        for _ in range(turns):
            await asyncio.sleep(0)
        return await batcher.submit(images(4))

    batcher = batcher_that_lingers(3600, runner := Runner(), until_idle=True)
    first, *others = [asyncio.create_task(batcher.submit(images(i))) for i in (1, 2, 3)]
    others.append(asyncio.create_task(again()))
    await started(first, *others)
    runner.release.set()
    assert [values(scores) for scores in await asyncio.gather(*others)] == [[2], [3], [4]]
    assert runner.sizes == [1, 3]


async def test_until_idle_it_waits_for_nobody_else() -> None:
    batcher = batcher_that_lingers(3600, runner := Runner(), until_idle=True)
    requests = [asyncio.create_task(batcher.submit(images(i))) for i in (1, 2, 3)]
    await started(*requests)
    runner.release.set()
    await asyncio.gather(*requests)
    assert runner.sizes == [1, 2]
    # That it was idle once does not count the next time.
    others = [asyncio.create_task(batcher.submit(images(4)))]
    for _ in range(2):
        await asyncio.sleep(0)
    others.append(asyncio.create_task(batcher.submit(images(5))))
    await asyncio.gather(*others)
    assert runner.sizes == [1, 2, 2]


async def test_until_idle_it_waits_no_longer_than_it_may_either() -> None:
    batcher = batcher_that_lingers(0.05, runner := Runner(), until_idle=True)
    requests = [asyncio.create_task(batcher.submit(images(i))) for i in (1, 2, 3, 4)]
    await started(*requests)
    runner.release.set()
    await asyncio.gather(*requests)
    last = asyncio.create_task(batcher.submit(images(5)))
    while len(runner.sizes) < 3:  # others come, and go again
        other = asyncio.create_task(batcher.submit(images(6)))
        await asyncio.sleep(0)
        other.cancel()
    assert values(await last) == [5]
    assert runner.sizes[:2] == [1, 3]


def batcher_that_lingers(
    seconds: float, runner: Runner, *, until_idle: bool = False
) -> Batcher[Scores]:
    return Batcher(
        runner,
        stage="compute",
        max_batch=8,
        max_pending=100,
        max_linger=seconds,
        until_idle=until_idle,
    )
