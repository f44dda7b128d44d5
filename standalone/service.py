"""Runs the InferenceService as processes on one machine, as its controller and Knative would."""

import asyncio
import json
import logging
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import httpx

from standalone import canary, pod
from standalone.address import LOOPBACK, Address, free_ports
from standalone.envoy import Door, bootstrap, write_clusters, write_routes
from standalone.manifest import Container, ManifestError, read_container
from standalone.objects import APIError, Object, Objects
from standalone.processes import ProcessDied, Processes

log = logging.getLogger(__name__)

COMPONENTS = ("predictor", "transformer")
CHOOSING = ("MODEL_VERSION", "MODEL_DIGEST", "STORAGE_URI")
"""The variables that choose the model version; those of the user's shell are ignored."""
START_TIMEOUT = 60
"""Seconds within which a revision must be ready; otherwise it has failed."""
DRAIN = 1
"""Seconds between the end of a revision's traffic and asking it to stop."""
INTERVAL = 0.1
"""Seconds between checks of the processes."""


class Service:
    """Keeps processes and Envoy as the InferenceService at ``path`` in ``objects`` specifies."""

    def __init__(
        self,
        objects: Objects,
        path: str,
        address: Address,
        *,
        envoy: str | None,
        models_dir: Path,
        folder: Path,
        bridge: Sequence[str] = (),
    ) -> None:
        """Serve at ``address``; ``envoy`` is the program, and its files go to ``folder``.

        ``bridge`` is the command of the Kafka bridge, if there is to be one.
        """
        self._objects = objects
        self._path = path
        self._name = path.rpartition("/")[2]
        self._address = address
        self._models_dir = models_dir
        self._folder = folder
        self._bridge = bridge
        self._components = {name: canary.Component(f"{self._name}-{name}") for name in COMPONENTS}
        self._ports: dict[str, Address] = {}
        """By the names of the revisions that run."""
        self._started: dict[str, float] = {}
        self._failures: dict[str, str] = {}
        """Why a revision has failed, by its name."""
        self._vital: list[str] = []
        """The other processes that the service cannot do without."""
        self._stopping: dict[str, asyncio.Task[None]] = {}
        self._envoy = envoy
        self._inside = Address(LOOPBACK, *free_ports(2))
        if not envoy:
            # Without Envoy each component has one revision, and it listens on the doors' own ports.
            self._ports = {
                f"{self._name}-predictor-00001": self._inside,
                f"{self._name}-transformer-00001": address,
            }

    async def run(self, on_ready: Callable[[], None]) -> None:
        """Serve until cancelled; ``on_ready`` is called once all is ready.

        Raises:
            ProcessDied: a process that the service cannot do without has ended, or all revisions
                of a component have failed.
        """
        async with Processes() as processes, httpx.AsyncClient(trust_env=False) as client:
            # Processes stop in reverse order, so requests in flight still have what they need.
            if self._envoy:
                self._write_clusters()
                write_routes(self._traffic(), self._folder)
                config = json.dumps(bootstrap(list(self._traffic()), self._folder))
                flags = ["--disable-hot-restart", "--concurrency", "1", "--log-level", "error"]
                flags += ["--config-yaml", config]
                await processes.start("envoy", self._envoy, *flags, env=os.environ)
                self._vital.append("envoy")
            announced = False
            while True:
                await self._reconcile(processes, client)
                if not announced and all(each.rolled_out for each in self._components.values()):
                    announced = True
                    if self._bridge:
                        await processes.start("kafka", *self._bridge, env=os.environ)
                        self._vital.append("kafka")
                    on_ready()
                await asyncio.sleep(INTERVAL)

    async def _reconcile(self, processes: Processes, client: httpx.AsyncClient) -> None:
        """Start the revisions that are missing, note which are ready, stop those not needed, split
        the traffic, and set the status."""
        service = self._objects.get(self._path)
        before = self._traffic()
        for name, found in self._components.items():
            found.update(service, name)
            for revision in found.needed():
                if revision.ready is not None or revision.name in self._stopping:
                    continue
                if revision.name not in self._started:
                    await self._start(processes, name, revision)
                else:
                    await self._look(processes, client, name, revision)
            found.settle()
        self._check(processes)
        if self._envoy and self._traffic() != before:
            write_routes(self._traffic(), self._folder)
        for name in self._vital:
            if ended := processes.ended(name):
                raise ProcessDied(f"{name} {ended}")
        self._objects.set_status(self._path, self._status())

    async def _start(self, processes: Processes, name: str, revision: canary.Revision) -> None:
        self._started[revision.name] = asyncio.get_running_loop().time()
        http_port, grpc_port, metrics_port = free_ports(3)
        inside = Address(LOOPBACK, http_port, grpc_port)
        address = self._ports.setdefault(revision.name, inside)
        self._write_clusters()
        try:
            container = read_container(revision.template["spec"], revision.name)
            flags = self._flags(name, container)
        except (ManifestError, KeyError, IndexError, TypeError, ValueError) as error:
            self._fail(revision, f"cannot run: {error}")
            return
        ports = (
            f"--host={address.host}",
            f"--http_port={address.http_port}",
            f"--grpc_port={address.grpc_port}",
            f"--metrics_port={metrics_port}",
        )
        # This machine's flags come last: the later of two flags counts.
        args = [*container.args, *ports, *flags]
        made = pod.describe(self._name, name, revision, args)
        self._objects.create(pod.path(revision.name), made, "standalone")
        command = (sys.executable, "-m", name)
        try:
            await processes.start(revision.name, *command, *args, env=_environment(container))
        except (OSError, ValueError) as error:  # too long, or with invalid characters
            self._fail(revision, f"cannot run: {error}")

    def _flags(self, name: str, container: Container) -> list[str]:
        if name == "predictor":
            return _model_flags(container, self._models_dir)
        over_grpc = container.flag("predictor_protocol", "v2") == "grpc-v2"
        port = self._inside.grpc_port if over_grpc else self._inside.http_port
        return [f"--predictor_host={LOOPBACK}:{port}"]

    def _fail(self, revision: canary.Revision, reason: str) -> None:
        """Note, and log, that a revision will never be ready."""
        revision.ready = False
        self._failures[revision.name] = reason
        log.warning("%s %s", revision.name, reason)

    async def _look(
        self, processes: Processes, client: httpx.AsyncClient, name: str, revision: canary.Revision
    ) -> None:
        """Check whether a revision is ready, or has failed."""
        if ended := processes.ended(revision.name):
            self._fail(revision, ended)
            return
        path = f"/v2/models/{self._name}/ready" if name == "predictor" else "/"
        address = self._ports[revision.name]
        try:
            url = f"http://{address.from_here}:{address.http_port}{path}"
            if (await client.get(url)).is_success:
                revision.ready = True
                return
        except httpx.TransportError:
            pass  # not yet
        if asyncio.get_running_loop().time() - self._started[revision.name] > START_TIMEOUT:
            self._fail(revision, f"is not ready after {START_TIMEOUT} s")

    def _check(self, processes: Processes) -> None:
        """Stop the revisions that are not needed; check that those that serve still run."""
        for found in self._components.values():
            needed = found.needed()
            for revision in found.revisions:
                if revision.name in self._started and revision not in needed:
                    del self._started[revision.name]
                    revision.ready = None  # it is started again if needed
                    task = asyncio.create_task(self._stop(processes, revision.name))
                    self._stopping[revision.name] = task
            serving = [each for each in needed if each.ready]
            for revision in serving:
                ended = processes.ended(revision.name)
                if ended and revision.name == found.rolled_out:
                    raise ProcessDied(f"{revision.name} {ended}")
                if ended:
                    self._fail(revision, ended)
            if not serving and found.latest_created.ready is False:
                name = found.latest_created.name
                raise ProcessDied(f"{name} {self._failures[name]}")

    async def _stop(self, processes: Processes, name: str) -> None:
        await asyncio.sleep(DRAIN)
        del self._ports[name]
        self._write_clusters()
        await processes.stop(name)
        with suppress(APIError):  # it never had a pod
            self._objects.delete(pod.path(name))
        del self._stopping[name]

    def _doors(self, name: str) -> tuple[Door, Door]:
        """The doors of a component, for HTTP and for gRPC."""
        outside = self._inside if name == "predictor" else self._address
        component = f"{self._name}-{name}"
        return (
            Door(component, outside.host, outside.http_port),
            Door(component, outside.host, outside.grpc_port, http2=True),
        )

    def _traffic(self) -> dict[Door, list[canary.Target]]:
        """The targets behind each door."""
        return {
            door: found.traffic()
            for name, found in self._components.items()
            for door in self._doors(name)
        }

    def _write_clusters(self) -> None:
        """Tell Envoy about all revisions that run, also without traffic: starting or draining."""
        ports = {}
        for name in COMPONENTS:
            mine = {
                revision: address
                for revision, address in self._ports.items()
                if revision.startswith(f"{self._name}-{name}-")
            }
            http, grpc = self._doors(name)
            ports[http] = {revision: each.http_port for revision, each in mine.items()}
            ports[grpc] = {revision: each.grpc_port for revision, each in mine.items()}
        write_clusters(ports, self._folder)

    def _status(self) -> Object:
        latest = [each.latest_created.ready for each in self._components.values()]
        ready = "False" if False in latest else "Unknown" if None in latest else "True"
        reason = {"reason": "RevisionFailed"} if ready == "False" else {}
        return {
            "url": f"http://{self._address.from_here}:{self._address.http_port}",
            "conditions": [{"type": "Ready", "status": ready, **reason}],
            "components": {name: each.status() for name, each in self._components.items()},
        }


def _environment(container: Container) -> dict[str, str]:
    """This process's environment and the container's; only the latter chooses the version."""
    ours = {name: value for name, value in os.environ.items() if name not in CHOOSING}
    return {**ours, "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8", **container.env}


def _model_flags(predictor: Container, models_dir: Path) -> list[str]:
    """Flags for the image's folder of versions, and for the storage initializer's folder."""
    flags = [f"--models_dir={models_dir}"]
    if uri := predictor.env.get("STORAGE_URI"):
        parts = urlsplit(uri)
        if parts.scheme != "file":
            raise ManifestError(f"STORAGE_URI {uri}: only file:// can be served on one machine")
        flags.append(f"--mount_dir={url2pathname(parts.path)}")
    return flags
