"""A service with a controller behind it, and the command that releases its versions."""

import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp.typedefs import Middleware

import rollout.api
from rollout import __main__ as command
from rollout import release
from rollout.api import API, SERVICE_LABEL
from rollout.errors import NoEvidence
from rollout.evidence import Counts, Pod
from rollout.record import Record
from rollout.source import REVISION_LABEL, Reading
from standalone import canary
from tests import cluster, programs

PATH = cluster.SERVICE.format("default")


class World:
    """A service that serves version 1, and the command."""

    def __init__(self, api: cluster.Controller, server: str) -> None:
        self.api = api
        self.server = server

    def run(self, *arguments: str) -> int:
        return command.main([f"--server={self.server}", "--namespace=default", *arguments])

    def start(self, *arguments: str) -> int:
        return self.run("start", *(arguments or ("2", "--percent=10")), "--timeout=20")

    def record(self) -> Record:
        """The record that the command keeps."""
        return API("mnist", "default", server=self.server).record()

    @property
    def service(self) -> dict[str, Any]:
        return self.api.get(PATH)

    def patch(self, **predictor: Any) -> None:
        """Change the predictor as somebody else would, with kubectl."""
        self.api.patch(PATH, {"spec": {"predictor": predictor}}, "somebody")

    def served(self, since: int = 0) -> set[str]:
        """The versions that had traffic at look ``since`` of the controller or later."""
        return {
            name
            for shares in self.api.traffic[since:]
            for name, percent in shares.items()
            if percent
        }

    def taken_away(self, since: int) -> int:
        """The number of the first look, from ``since`` on, at which the canary had no traffic."""
        looks = enumerate(self.api.traffic[since:], since)
        return next(look for look, shares in looks if not shares.get("2"))

    def make_again(self, service: dict[str, Any]) -> None:
        """Delete and create the service as with kubectl; the revisions get the same names."""
        self.api.delete(PATH)
        for name in self.api.components:
            self.api.components[name] = canary.Component(f"mnist-{name}")
        self.api.create(PATH, service, "kubectl")
        self.look()

    def look(self) -> None:
        """Let the controller do all that it has to do."""
        for _ in range(5):
            self.api.look()


class Traffic:
    """A source of evidence: each look makes calls, which the live split routes."""

    def __init__(self, world: World) -> None:
        self.calls = 200
        """Calls at each look."""
        self.canary: Callable[[], Counts] = dict
        """The counts that a call adds if the canary answers it."""
        self.both: Callable[[], Counts] = dict
        """The counts that a call adds wherever it goes."""
        self.away = False
        """Whether there is no evidence."""
        self.lost = 0.0
        """The share of the canary's calls that nobody answers."""
        self.looks = 0
        self.sent = 0
        """Calls that went to the canary."""
        self._world = world
        self._random = random.Random(0)
        self._counted: dict[str, Counter[str]] = {"t": Counter()}
        self._started = time.time()

    def read(self, slow: float) -> Reading:
        self.looks += 1
        if self.away:
            raise NoEvidence("nothing answers")
        traffic = self._world.api.components["predictor"].traffic()
        for _ in range(self.calls):
            (target,) = self._random.choices(traffic, [each.percent for each in traffic])
            self._call(target.revision)
        pods = {
            name: Pod(self._component(name), name, self._started, dict(each))
            for name, each in self._counted.items()
        }
        return Reading(time.time() + 1, pods)

    def _component(self, name: str) -> str:
        return "transformer" if name == "t" else "predictor"

    def _call(self, revision: str) -> None:
        counted = self._counted.setdefault(revision, Counter())
        counted.update(self.both())
        if revision.endswith("1"):
            counted.update({"calls": 1, "digit_7": 1})
            return
        self.sent += 1
        if self._random.random() < self.lost:
            self._counted["t"]["lost"] += 1
        else:
            counted.update({"calls": 1, "digit_7": 1})
            counted.update(self.canary())


def silence(world: World, traffic: Traffic, revision: str, *looks: int) -> None:
    """Make the revision's pods not answer at these looks."""
    read = traffic.read
    labels = {SERVICE_LABEL: "mnist", REVISION_LABEL: revision}
    metadata = {"name": "silent", "namespace": "default", "labels": labels}
    ready = {"conditions": [{"type": "Ready", "status": "True"}]}
    spec: dict[str, Any] = {"containers": []}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec, "status": ready}
    world.api.create("/api/v1/namespaces/default/pods/silent", pod, "knative")

    def silent(slow: float) -> Reading:
        found = read(slow)
        if traffic.looks not in looks:
            return found
        others = {name: each for name, each in found.pods.items() if each.revision != revision}
        return Reading(found.time, others)

    traffic.read = silent  # type: ignore[method-assign]


def follow(world: World, patch: pytest.MonkeyPatch) -> Traffic:
    """Make traffic for ``world``, and let the command take its evidence from it."""
    made = Traffic(world)
    patch.setattr(command, "source_of", lambda *_: made)
    return made


@contextmanager
def world(folder: Path, patch: pytest.MonkeyPatch, *middlewares: Middleware) -> Iterator[World]:
    """A cluster in which version 1 is rolled out; ``middlewares`` are in front of its API."""
    patch.setattr(release, "INTERVAL", 0.005)
    patch.chdir(programs.ROOT)
    api = cluster.Controller(PATH)
    path = programs.ROOT / "manifests/base/inferenceservice.yaml"
    service = yaml.safe_load(path.read_text(encoding="utf-8"))
    service["metadata"]["namespace"] = "default"
    api.create(PATH, service, "kubectl")
    with cluster.serve(api, folder, *middlewares) as kubeconfig:
        config = yaml.safe_load(kubeconfig.read_text(encoding="utf-8"))
        made = World(api, config["clusters"][0]["cluster"]["server"])
        made.look()
        yield made


@contextmanager
def interrupted(patch: pytest.MonkeyPatch, moment: int, *names: str) -> Iterator[None]:
    """Interrupt call number ``moment``, from 0, of the API's methods ``names``, as Ctrl-C does."""
    calls = iter(range(10_000))

    def interrupt(method: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            if next(calls) == moment:
                raise KeyboardInterrupt
            return method(*args, **kwargs)

        return call

    with patch.context() as patched:
        for name in names:
            patched.setattr(API, name, interrupt(getattr(API, name)))
        yield


@contextmanager
def serving(page: Callable[[], str], status: int = 200) -> Iterator[int]:
    """A server that answers everything with ``page``; yields its port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(page().encode())

        do_POST = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def silent(patch: pytest.MonkeyPatch) -> Iterator[int]:
    """An API server that accepts connections and reads nothing; it is asked once, and shortly.

    Yields its port.
    """
    patch.setattr(rollout.api, "TIMEOUT", rollout.api.TIMEOUT / 100)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]
        listening.setblocking(False)
        listening.accept()[0].close()
        with pytest.raises(BlockingIOError):
            listening.accept()
