"""The InferenceService as processes: what the controller and Knative do with it, on one machine."""

import asyncio
import json
import os
import socket
import sys
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit
from urllib.request import url2pathname

import httpx

from standalone.envoy import Door, Revision, bootstrap, find_envoy
from standalone.manifest import Component, InferenceService, ManifestError
from standalone.processes import Processes

LOOPBACK = "127.0.0.1"
CHOOSING = ("MODEL_VERSION", "MODEL_DIGEST", "STORAGE_URI")
"""The variables that choose the version: those of the user's shell are not meant."""
START_TIMEOUT = 60
"""Seconds until every part must be ready."""


class Address(NamedTuple):
    """Where the service is reached from outside: the transformer's HTTP and gRPC ports."""

    host: str
    http_port: int
    grpc_port: int

    @property
    def from_here(self) -> str:
        """The host under which this machine reaches it."""
        return LOOPBACK if self.host == "0.0.0.0" else self.host  # noqa: S104


async def serve(
    service: InferenceService,
    address: Address,
    *,
    models_dir: Path,
    on_ready: Callable[[bool], None],
) -> None:
    """Run predictor, transformer and Envoy until cancelled; ``on_ready`` learns if there is Envoy.

    Raises:
        ManifestError: the manifest cannot be run on one machine.
        ProcessDied: a part has ended; the others are stopped.
        TimeoutError: a part is not ready in time.
        OSError: a port of ``address`` is taken.
    """
    check_free(address)
    envoy = find_envoy()
    predictor = _local_address()
    transformer = _local_address() if envoy else address
    inside = _local_address() if envoy else predictor
    over_grpc = service.transformer.flag("predictor_protocol", "v2") == "grpc-v2"
    inside_port = inside.grpc_port if over_grpc else inside.http_port
    async with Processes() as processes:
        # They stop in the reverse order: requests in flight still have what they need.
        if envoy:
            doors = _doors(service.name, address, transformer, predictor, inside)
            config = json.dumps(bootstrap(doors))
            flags = ("--disable-hot-restart", "--concurrency", "1", "--log-level", "error")
            await processes.start("envoy", envoy, "--config-yaml", config, *flags, env=os.environ)
        await processes.start(
            "predictor",
            *_command("predictor", service.predictor, predictor),
            *_model_flags(service.predictor, models_dir),
            env=_environment(service.predictor),
        )
        await processes.start(
            "transformer",
            *_command("transformer", service.transformer, transformer),
            f"--predictor_host={LOOPBACK}:{inside_port}",
            env=_environment(service.transformer),
        )
        ended = asyncio.create_task(processes.wait())
        ready = asyncio.create_task(
            _wait_until_ready(
                {
                    "predictor": f"http://{LOOPBACK}:{predictor.http_port}"
                    f"/v2/models/{service.name}/ready",
                    "transformer": f"http://{address.from_here}:{address.http_port}/",
                }
            )
        )
        try:
            await asyncio.wait({ended, ready}, return_when=asyncio.FIRST_COMPLETED)
            if not ended.done():
                await ready
                on_ready(envoy is not None)
            await ended
        finally:
            ended.cancel()
            ready.cancel()


def check_free(address: Address) -> None:
    """See that nothing listens on the two ports yet.

    Raises:
        OSError: something does.
    """
    with ExitStack() as probes:
        for flag, port in (("--port", address.http_port), ("--grpc_port", address.grpc_port)):
            probe = probes.enter_context(socket.socket())
            # As the servers do: connections of an earlier run that linger are no obstacle.
            if sys.platform != "win32":
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address.host, port))
            except OSError as error:
                raise OSError(
                    f"cannot listen on {address.host}:{port} ({error.strerror}); "
                    f"choose another port with {flag}"
                ) from None


def _local_address() -> Address:
    with socket.socket() as http, socket.socket() as grpc:
        for probe in (http, grpc):
            probe.bind((LOOPBACK, 0))
        return Address(LOOPBACK, http.getsockname()[1], grpc.getsockname()[1])


def _command(program: str, component: Component, address: Address) -> list[str]:
    """What the container would run, and after it what is different here: of two flags, the later
    one counts."""
    return [
        *(sys.executable, "-m", program, *component.args),
        f"--host={address.host}",
        f"--http_port={address.http_port}",
        f"--grpc_port={address.grpc_port}",
    ]


def _environment(component: Component) -> dict[str, str]:
    """Ours with the container's, which alone chooses the version."""
    ours = {name: value for name, value in os.environ.items() if name not in CHOOSING}
    return {**ours, "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8", **component.env}


def _model_flags(predictor: Component, models_dir: Path) -> list[str]:
    """Where the image has its versions, and where the storage initializer would put one."""
    flags = [f"--models_dir={models_dir}"]
    if uri := predictor.env.get("STORAGE_URI"):
        parts = urlsplit(uri)
        if parts.scheme != "file":
            raise ManifestError(f"STORAGE_URI {uri}: only file:// can be served on one machine")
        flags.append(f"--mount_dir={url2pathname(parts.path)}")
    return flags


def _doors(
    name: str, address: Address, transformer: Address, predictor: Address, inside: Address
) -> list[Door]:
    """The public doors, HTTP and gRPC, and the cluster-local ones."""

    def revisions(component: str, port: int) -> list[Revision]:
        return [Revision(f"{name}-{component}-00001", port, weight=100)]

    t, p = "transformer", "predictor"
    return [
        Door(t, address.host, address.http_port, revisions(t, transformer.http_port)),
        Door(
            f"{t}-grpc", address.host, address.grpc_port, revisions(t, transformer.grpc_port), True
        ),
        Door(p, LOOPBACK, inside.http_port, revisions(p, predictor.http_port)),
        Door(f"{p}-grpc", LOOPBACK, inside.grpc_port, revisions(p, predictor.grpc_port), True),
    ]


async def _wait_until_ready(urls: dict[str, str]) -> None:
    waiting = dict(urls)
    try:
        async with asyncio.timeout(START_TIMEOUT), httpx.AsyncClient(trust_env=False) as client:
            while waiting:
                for name, url in list(waiting.items()):
                    with suppress(httpx.TransportError):
                        if (await client.get(url)).is_success:
                            del waiting[name]
                await asyncio.sleep(0.1)
    except TimeoutError:
        raise TimeoutError(f"not ready after {START_TIMEOUT} s: {', '.join(waiting)}") from None
