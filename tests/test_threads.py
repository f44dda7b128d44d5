"""Work that takes long, or has no end."""

import asyncio
import sys
import threading
from functools import partial

import httpx
import pytest

from serving import threads
from serving.threads import Threads
from tests import apps
from tests.echo import Echo

pytestmark = pytest.mark.anyio


async def test_work_is_done_beside_the_event_loop() -> None:
    pool = Threads(1, "test")
    thread = await pool.run(threading.current_thread)
    assert thread.name == "test_0"
    assert thread.daemon, "else work without an end would keep the program"
    pool.close()


async def test_as_much_is_done_at_a_time_as_there_are_threads() -> None:
    pool, together = Threads(3, "test"), threading.Barrier(3, timeout=30)
    assert sorted(await asyncio.gather(*[pool.run(together.wait) for _ in range(3)])) == [0, 1, 2]
    pool.close()


@pytest.mark.parametrize("error", [ValueError, BaseException])  # Rust's panics are the latter
async def test_an_error_is_its_callers_and_the_thread_goes_on(error: type[BaseException]) -> None:
    def fail() -> None:
        raise error

    pool = Threads(1, "test")
    with pytest.raises(error):
        await pool.run(fail)
    assert await pool.run(lambda: 2) == 2
    pool.close()


async def test_work_whose_caller_is_gone_is_not_begun() -> None:
    pool, end, done = Threads(1, "test"), threading.Event(), list[int]()
    first = asyncio.create_task(pool.run(lambda: end.wait(30)))
    second, third = [asyncio.create_task(pool.run(partial(done.append, i))) for i in (2, 3)]
    await asyncio.sleep(0)
    second.cancel()
    await asyncio.sleep(0)
    end.set()
    await asyncio.gather(first, third)
    assert done == [3]
    pool.close()


async def test_nothing_of_work_that_is_done_stays_in_memory() -> None:
    pool = Threads(1, "test")
    work = partial(bytes, 3)
    assert await pool.run(work) == bytes(3)
    while sys.getrefcount(work) > 2:  # this name, and the argument
        await asyncio.sleep(0.01)
    pool.close()


async def test_closed_threads_end() -> None:
    pool = Threads(2, "ending")
    assert await pool.run(lambda: 1) == 1
    pool.close()
    while any(thread.name.startswith("ending") for thread in threading.enumerate()):
        await asyncio.sleep(0.01)


def test_work_may_outlast_its_loop() -> None:
    pool, end = Threads(1, "test"), threading.Event()

    async def give_up() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(pool.run(lambda: end.wait(30)), 0.01)

    asyncio.run(give_up())
    end.set()
    assert asyncio.run(pool.run(lambda: 2)) == 2, "the thread still lives"
    pool.close()


async def test_what_does_not_end_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def hang() -> None:
        began.set()
        end.wait(30)

    pool, began, end = Threads(1, "test"), threading.Event(), threading.Event()
    model = Echo()
    model.threads = pool
    async with httpx.AsyncClient(
        transport=apps.Transport(apps.app(model)), base_url="http://x"
    ) as client:
        assert (await client.get("/v2/health/live")).json() == {"live": True}
        work = asyncio.create_task(pool.run(hang))
        while not began.is_set():
            await asyncio.sleep(0)
        assert not pool.hang()
        monkeypatch.setattr(threads, "HANGING", 0.05)
        work.cancel()  # its caller does not wait so long
        while not pool.hang():
            await asyncio.sleep(0.01)
        answer = await client.get("/v2/health/live")
        assert (answer.status_code, list(answer.json())) == (503, ["error"])
        end.set()
        while pool.hang():
            await asyncio.sleep(0.01)
        assert (await client.get("/v2/health/live")).status_code == 200
    pool.close()
