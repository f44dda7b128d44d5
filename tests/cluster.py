"""The API of ``standalone``, with a webhook that fills in defaults, and no controller behind it."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml
from aiohttp import web

from standalone.admission import admit
from standalone.api import application
from standalone.objects import Object, Objects

SERVICE = "/apis/serving.kserve.io/v1beta1/namespaces/{}/inferenceservices/mnist"


def default(made: Object) -> Object:
    """What a webhook adds."""
    made = admit(made)
    if made["kind"] == "InferenceService":
        for name in ("predictor", "transformer"):
            container = made["spec"][name]["containers"][0]
            container.setdefault("terminationMessagePath", "/dev/termination-log")
    return made


@contextmanager
def serve(objects: Objects, folder: Path) -> Iterator[Path]:
    """Serve ``objects`` on loopback until the end of the block; gives a kubeconfig."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def start() -> tuple[web.AppRunner, int]:
        runner = web.AppRunner(application(objects), access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return runner, runner.addresses[0][1]

    runner, port = asyncio.run_coroutine_threadsafe(start(), loop).result()
    try:
        kubeconfig = folder / "kubeconfig"
        server = {"server": f"http://127.0.0.1:{port}"}
        content = {
            "clusters": [{"name": "c", "cluster": server}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": ""}}],
            "current-context": "c",
        }
        kubeconfig.write_text(yaml.safe_dump(content), encoding="utf-8")
        yield kubeconfig
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
