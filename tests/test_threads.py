"""Work that takes long, or has no end."""

import asyncio
import threading

import httpx
import pytest

from serving import threads
from serving.threads import Threads
from tests import apps
from tests.echo import Echo

pytestmark = pytest.mark.anyio


async def test_work_is_done_beside_the_event_loop() -> None:
    pool = Threads(1, "test")
    assert await pool.run(lambda: threading.current_thread().name) == "test_0"
    with pytest.raises(ZeroDivisionError):
        await pool.run(lambda: 1 / 0)
    pool.close()


async def test_what_does_not_end_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "HANGING", 0.05)
    pool, end = Threads(1, "test"), threading.Event()
    model = Echo()
    model.threads = pool
    async with httpx.AsyncClient(
        transport=apps.Transport(apps.app(model)), base_url="http://x"
    ) as client:
        assert (await client.get("/v2/health/live")).json() == {"live": True}
        work = asyncio.create_task(pool.run(lambda: end.wait(30)))
        await asyncio.sleep(0)
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
