"""Requests share a run, keep their rows, and do not suffer for each other."""

import asyncio
import sys
from time import perf_counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import REGISTRY

from serving.batcher import Batcher
from serving.errors import Overloaded, TimedOut, Unavailable
from serving.scores import Images, Scores
from tests.runner import Runner, images, score, started, values

pytestmark = pytest.mark.anyio


async def test_requests_that_arrive_during_a_run_share_the_next_one() -> None:
    runner = Runner()
    batcher = Batcher(runner, stage="compute", max_batch=8, max_pending=100)
    requests = [asyncio.create_task(batcher.submit(images(i, 100 + i))) for i in range(4)]
    await started(*requests)
    runner.release.set()
    answers = await asyncio.gather(*requests)
    assert runner.sizes == [2, 6]
    assert [values(answer) for answer in answers] == [[i, 100 + i] for i in range(4)]


async def test_a_run_holds_no_more_than_the_maximal_batch() -> None:
    runner = Runner()
    batcher = Batcher(runner, stage="compute", max_batch=4, max_pending=100)
    requests = [asyncio.create_task(batcher.submit(images(i, i))) for i in range(6)]
    await started(*requests)
    runner.release.set()
    await asyncio.gather(*requests)
    assert runner.sizes == [2, 4, 4, 2]


async def test_a_request_larger_than_a_batch_is_not_spread_over_runs() -> None:
    runner = Runner()
    runner.release.set()
    batcher = Batcher(runner, stage="compute", max_batch=4, max_pending=100)
    answers = await asyncio.gather(
        batcher.submit(images(1)), batcher.submit(images(*range(10))), batcher.submit(images(2))
    )
    assert runner.sizes == [1, 10, 1]
    assert values(answers[1]) == list(range(10))


async def test_several_runs_are_under_way_up_to_the_limit() -> None:
    runner = Runner()
    batcher = Batcher(runner, stage="compute", max_batch=2, max_pending=100, concurrency=3)
    requests = [asyncio.create_task(batcher.submit(images(i, i))) for i in range(5)]
    await started(*requests)
    assert runner.running == 3
    runner.release.set()
    await asyncio.gather(*requests)
    assert runner.most_running == 3


async def test_what_has_no_scores_by_its_deadline_is_given_up() -> None:
    runner = Runner()
    batcher = Batcher(runner, stage="compute", max_batch=8, max_pending=100)
    deadline = asyncio.get_running_loop().time() + 0.05
    requests = [asyncio.create_task(batcher.submit(images(i), deadline)) for i in (1, 2)]
    for request in requests:
        with pytest.raises(TimedOut):
            await request
    runner.release.set()
    assert values(await batcher.submit(images(3))) == [3]
    assert runner.sizes == [1, 1]


async def test_what_is_answered_is_not_kept_until_its_deadline() -> None:
    runner = Runner()
    runner.release.set()
    batcher = Batcher(runner, stage="compute", max_batch=8, max_pending=100)
    batch = images(1)
    references = sys.getrefcount(batch)
    await batcher.submit(batch, asyncio.get_running_loop().time() + 3600)
    await started()  # the loop lets go of what has ended
    assert sys.getrefcount(batch) == references


async def test_what_the_caller_has_given_up_is_not_run() -> None:
    runner = Runner()
    batcher = Batcher(runner, stage="compute", max_batch=8, max_pending=100)
    requests = [asyncio.create_task(batcher.submit(images(i))) for i in range(3)]
    await started(*requests)
    requests[1].cancel()
    runner.release.set()
    answers = await asyncio.gather(*requests, return_exceptions=True)
    assert runner.sizes == [1, 1]
    assert isinstance(answers[1], asyncio.CancelledError)
    assert values(await requests[2]) == [2]


async def test_what_is_given_up_leaves_the_queue_at_once() -> None:
    runner = Runner()
    batcher = Batcher(
        runner, stage="compute", max_batch=3, max_pending=10, max_wait=3600, concurrency=2
    )
    first = asyncio.create_task(batcher.submit(images(0)))
    for i in range(100):
        request = asyncio.create_task(batcher.submit(images(i, i)))
        await started(request)
        request.cancel()
        await started()
    last = asyncio.create_task(batcher.submit(images(7)))
    await started(last)
    # Had the others stayed, they would fill a batch.
    assert runner.sizes == [1]
    runner.release.set()
    assert [values(answer) for answer in await asyncio.gather(first, last)] == [[0], [7]]


async def test_after_a_failure_nothing_is_repeated_for_those_who_have_left() -> None:
    runs: list[int] = []
    failing = asyncio.Event()

    async def run(batch: Images) -> Scores:
        runs.append(len(batch))
        if len(runs) == 1:
            await asyncio.sleep(0)
            return score(batch)
        await failing.wait()
        raise ZeroDivisionError

    batcher = Batcher(run, stage="compute", max_batch=8, max_pending=100)
    requests = [asyncio.create_task(batcher.submit(images(i))) for i in range(4)]
    await requests[0]
    await started()
    for request in requests[2:]:
        request.cancel()
    await started()
    failing.set()
    answers = await asyncio.gather(*requests, return_exceptions=True)
    assert runs == [1, 3, 1]
    assert isinstance(answers[1], ZeroDivisionError)


async def test_a_full_queue_refuses_and_has_room_again_once_it_is_empty() -> None:
    runner = Runner()
    batcher = Batcher(runner, stage="compute", max_batch=1, max_pending=3)
    requests = [asyncio.create_task(batcher.submit(images(i))) for i in range(3)]
    await started(*requests)
    with pytest.raises(Overloaded):
        await batcher.submit(images(9))
    runner.release.set()
    await asyncio.gather(*requests)
    # Even for a request that is larger than all of it.
    assert values(await batcher.submit(images(*range(5)))) == list(range(5))


async def test_cancelled_requests_leave_room() -> None:
    runner = Runner()
    batcher = Batcher(runner, stage="compute", max_batch=1, max_pending=2)
    requests = [asyncio.create_task(batcher.submit(images(i))) for i in range(2)]
    await started(*requests)
    requests[1].cancel()
    await started()
    runner.release.set()
    assert values(await batcher.submit(images(9))) == [9]
    await requests[0]


async def test_one_bad_request_fails_without_its_neighbours() -> None:
    async def run(batch: Images) -> Scores:
        await asyncio.sleep(0)
        if 13 in batch[:, 0, 0]:
            raise ZeroDivisionError
        return score(batch)

    batcher = Batcher(run, stage="compute", max_batch=8, max_pending=100)
    answers = await asyncio.gather(
        *(batcher.submit(images(value)) for value in (1, 2, 13, 3)), return_exceptions=True
    )
    assert isinstance(answers[2], ZeroDivisionError)
    assert [values(a) for a in answers if isinstance(a, Scores)] == [[1], [2], [3]]


async def test_an_error_meant_for_the_callers_reaches_all_of_them_without_another_run() -> None:
    runs = 0

    async def run(batch: Images) -> Scores:
        nonlocal runs
        runs += 1
        await asyncio.sleep(0)
        raise Unavailable("away")

    batcher = Batcher(run, stage="compute", max_batch=8, max_pending=100)
    answers = await asyncio.gather(
        *(batcher.submit(images(i)) for i in range(4)), return_exceptions=True
    )
    assert [type(answer) for answer in answers] == [Unavailable] * 4
    assert runs == 2


async def test_what_waits_and_what_runs_is_measured() -> None:
    def metric(name: str, **labels: str) -> float:
        return REGISTRY.get_sample_value(name, labels) or 0

    def sums() -> tuple[float, float, float]:
        wait, compute = (
            metric("mnist_stage_seconds_sum", stage=stage) for stage in ("wait", "compute")
        )
        return metric("mnist_batch_images_sum"), wait, compute

    runner = Runner()
    batcher = Batcher(runner, stage="compute", max_batch=8, max_pending=100)
    images_before, wait_before, compute_before = sums()
    began = perf_counter()
    requests = [asyncio.create_task(batcher.submit(images(1, 2))) for _ in range(3)]
    await started(*requests)
    assert metric("mnist_pending_images") == 6
    await asyncio.sleep(0.05)
    runner.release.set()
    await asyncio.gather(*requests)
    assert metric("mnist_pending_images") == 0
    images_after, wait_after, compute_after = sums()
    assert images_after - images_before == 6
    elapsed = perf_counter() - began
    assert 0.09 < wait_after - wait_before < 2 * elapsed  # of the second and the third
    assert 0.04 < compute_after - compute_before < elapsed


@given(
    requests=st.lists(st.integers(1, 9), min_size=1, max_size=40),
    max_batch=st.integers(1, 16),
    concurrency=st.integers(1, 4),
    cancelled=st.sets(st.integers(0, 39)),
)
def test_every_request_gets_its_own_rows(
    requests: list[int], max_batch: int, concurrency: int, cancelled: set[int]
) -> None:
    runs: list[int] = []

    async def run(batch: Images) -> Scores:
        runs.append(len(batch))
        await asyncio.sleep(0)
        return score(batch)

    async def scenario() -> None:
        batcher = Batcher(
            run, stage="compute", max_batch=max_batch, max_pending=1000, concurrency=concurrency
        )
        numbers = iter(range(10_000))
        batches = [images(*(next(numbers) % 256 for _ in range(size))) for size in requests]
        tasks = [asyncio.create_task(batcher.submit(batch)) for batch in batches]
        await asyncio.sleep(0)
        for i in cancelled & set(range(len(tasks))):
            tasks[i].cancel()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        for i, (batch, answer) in enumerate(zip(batches, answers, strict=True)):
            if i in cancelled:
                assert isinstance(answer, asyncio.CancelledError)
            else:
                assert isinstance(answer, Scores)
                assert values(answer) == batch[:, 0, 0].tolist()

    asyncio.run(scenario())
    assert max(runs, default=0) <= max(max_batch, *requests)
