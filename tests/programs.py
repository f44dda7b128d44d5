"""The real programs as processes on free ports of 127.0.0.1, for the tests that need them."""

import itertools
import os
import random
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
from prometheus_client.parser import text_string_to_metric_families

ROOT = Path(__file__).parent.parent
START_TIMEOUT = 90
"""Seconds; generous, since the machine may be busy."""


class NotStarted(Exception):
    """A program has ended, or was not ready in time; the message is its output."""


@dataclass
class Program:
    """A running program."""

    process: subprocess.Popen[bytes]
    log: Path
    http_port: int
    grpc_port: int
    metrics_port: int = 0
    context: ssl.SSLContext | None = None
    """The TLS context for its clients, if it serves TLS."""

    @property
    def url(self) -> str:
        return f"http{'s' if self.context else ''}://127.0.0.1:{self.http_port}"

    @property
    def grpc_address(self) -> str:
        return f"127.0.0.1:{self.grpc_port}"

    def metric(self, name: str, **labels: str) -> float:
        """The sum of all samples of ``name`` that have ``labels``."""
        text = httpx.get(f"http://127.0.0.1:{self.metrics_port}/metrics").text
        return sum(
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    def output(self) -> str:
        return self.log.read_text(encoding="utf-8")

    def wait_for(self, path: str) -> None:
        """Wait until a GET of ``path`` succeeds."""
        deadline = time.monotonic() + START_TIMEOUT
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise NotStarted(f"ended with {self.process.returncode}:\n{self.output()}")
            with suppress(httpx.TransportError):
                if httpx.get(self.url + path, verify=self.context or True).is_success:
                    return
            time.sleep(0.05)
        raise NotStarted(self.output())


def handles(pid: int, number: int) -> bool:
    """Whether a process handles a signal; process 1 gets only signals that it handles."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    [mask] = [line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:")]
    return bool(int(mask, 16) >> (number - 1) & 1)


_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_PORTS = range(10_000, 20_000)[_WORKER::10]
"""Each of pytest's workers has ports of its own, from a range that neither ``standalone`` nor the
system uses."""
_ports = itertools.cycle(random.sample(_PORTS, k=len(_PORTS)))


def free_port() -> int:
    """A free port, and one that was not returned recently."""
    for port in _ports:
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError


@contextmanager
def program(
    module: str,
    folder: Path,
    *args: str,
    env: Mapping[str, str] | None = None,
    http_port: int | None = None,
) -> Iterator[Program]:
    """Run ``python -m module`` until the end of the block, with its output in ``folder``."""
    http_port, grpc_port, metrics_port = http_port or free_port(), free_port(), free_port()
    port_flag = "--port" if module == "standalone" else "--http_port"
    log = folder / f"{module}-{http_port}.log"
    ports = [f"{port_flag}={http_port}", f"--grpc_port={grpc_port}"]
    if module == "standalone":
        ports.append(f"--api_port={free_port()}")
    elif not module.startswith("benchmarks."):  # those have no such port
        ports.append(f"--metrics_port={metrics_port}")
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", module, *ports, *args],
            cwd=ROOT,
            env={**os.environ, **(env or {})},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield Program(process, log, http_port, grpc_port, metrics_port)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def predictor(folder: Path, *args: str) -> Iterator[Program]:
    """The predictor with the shipped version 1."""
    env = {"MODEL_VERSION": "1"}
    with program("predictor", folder, "--models_dir=models", *args, env=env) as running:
        running.wait_for("/v2/models/mnist/ready")
        yield running


@contextmanager
def transformer(
    folder: Path, predictor_address: str, *args: str, env: Mapping[str, str] | None = None
) -> Iterator[Program]:
    """The transformer in front of ``predictor_address``."""
    host = f"--predictor_host={predictor_address}"
    with program("transformer", folder, host, *args, env=env) as running:
        running.wait_for("/")
        yield running


@contextmanager
def service(folder: Path, *args: str) -> Iterator[Program]:
    """The whole InferenceService, run by ``standalone`` from its manifest."""
    with program("standalone", folder, *args) as running:
        deadline = time.monotonic() + START_TIMEOUT
        while "The service is ready" not in running.output():
            if running.process.poll() is not None or time.monotonic() > deadline:
                raise NotStarted(running.output())
            time.sleep(0.05)
        yield running
