"""The API of ``standalone``, with a webhook that fills in defaults, and simulated controllers."""

import asyncio
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from aiohttp import web
from aiohttp.typedefs import Middleware

from standalone import canary
from standalone.admission import admit
from standalone.api import application
from standalone.objects import Object, Objects

SLOWNESS = 2
"""Looks until a revision is ready."""
SERVICE = "/apis/serving.kserve.io/v1beta1/namespaces/{}/inferenceservices/mnist"


def default(made: Object) -> Object:
    """Fill in what a webhook would add."""
    made = admit(made)
    if made["kind"] == "InferenceService":
        for name in ("predictor", "transformer"):
            container = made["spec"][name]["containers"][0]
            container.setdefault("terminationMessagePath", "/dev/termination-log")
    return made


class Controller(Objects):
    """Objects with KServe's and Knative's controllers behind them.

    They look at the InferenceService after every second time that somebody has read it, so its
    status lags behind, as in a cluster.
    """

    def __init__(self, path: str) -> None:
        super().__init__(default)
        self._path = path
        self._age: Counter[str] = Counter()
        self._reads = 0
        self.never_ready: set[str] = set()
        """Values of MODEL_VERSION whose revisions never get ready."""
        self.refused: set[str] = set()
        """Values of MODEL_VERSION with which Knative's webhook refuses changes of its service."""
        self.traffic: list[dict[str, int]] = []
        """The percentage of traffic for each version, after each look."""
        self.components = {
            name: canary.Component(f"mnist-{name}") for name in ("predictor", "transformer")
        }

    def get(self, path: str) -> Object:
        found = super().get(path)
        if path == self._path:
            self._reads += 1
            if self._reads % 2 == 0:
                self.look()
        return found

    def patch(self, path: str, patch: Any, manager: str, *, dry: bool = False) -> Object:
        self._reads = -2  # the two reads inside are not a client's
        try:
            return super().patch(path, patch, manager, dry=dry)
        finally:
            self._reads = 0

    def look(self) -> None:
        """Do what the controllers do when they are woken."""
        service = super().get(self._path)
        for name, component in self.components.items():
            if version(service["spec"][name]) not in self.refused:
                component.update(service, name)
            latest = component.latest_created
            self._age[latest.name] += 1
            slow = self._age[latest.name] <= SLOWNESS
            if not slow and version(latest.template["spec"]) not in self.never_ready:
                latest.ready = True
            component.settle()
        shares: dict[str, int] = {}
        predictor = self.components["predictor"]
        templates = {each.name: each.template["spec"] for each in predictor.revisions}
        for target in predictor.traffic():
            served = version(templates[target.revision])
            shares[served] = shares.get(served, 0) + target.percent
        self.traffic.append(shares)
        status = {name: each.status() for name, each in self.components.items()}
        self._store(self._path, {**service, "status": {"components": status}})


def version(component: Object) -> str:
    """The version of a predictor's template; empty for a transformer."""
    env = {each["name"]: each["value"] for each in component["containers"][0].get("env", ())}
    return str(env.get("MODEL_VERSION", ""))


def kubeconfig(port: int) -> str:
    """A kubeconfig for the server at ``port`` of loopback."""
    server = {"server": f"http://127.0.0.1:{port}"}
    content = {
        "clusters": [{"name": "c", "cluster": server}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": ""}}],
        "current-context": "c",
    }
    return yaml.safe_dump(content)


@contextmanager
def serve(objects: Objects, folder: Path, *middlewares: Middleware) -> Iterator[Path]:
    """Serve ``objects`` on loopback until the end of the block; yields a kubeconfig's path."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def start() -> tuple[web.AppRunner, int]:
        app = application(objects)
        app.middlewares.extend(middlewares)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return runner, runner.addresses[0][1]

    runner, port = asyncio.run_coroutine_threadsafe(start(), loop).result()
    try:
        path = folder / "kubeconfig"
        path.write_text(kubeconfig(port), encoding="utf-8")
        yield path
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
