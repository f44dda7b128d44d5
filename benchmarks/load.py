"""The load: requests from a number of clients, each of which waits for its answer.

HTTP is sent by wrk, gRPC by ``grpc_load.py``; both run on a core of their own.
"""

import json
import os
import re
import resource
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

PROGRAM, LOAD = {0}, {1}
"""The cores of the programs that are measured, and of the load."""
STAT = Path("/proc/stat")
MILLISECONDS = {"us": 1e-3, "ms": 1.0, "s": 1e3, "m": 60e3}


class Answers(NamedTuple):
    """Throughput and latency."""

    rate: float
    """Requests per second."""
    p50: float
    p99: float
    """Percentiles of the time to the answer, in milliseconds."""


class Failed(Exception):
    """Not every request succeeded."""


def check_machine() -> None:
    """Exit if wrk or one of the two cores is missing."""
    if not shutil.which("wrk"):
        sys.exit("wrk is missing: apt install wrk")
    check_cores()


def check_cores() -> None:
    """Exit if one of the two cores is missing."""
    if not os.sched_getaffinity(0) >= PROGRAM | LOAD:
        sys.exit("two cores are needed: one for the program, one for the load")


class Clock:
    """Measures what other programs take of the two cores, from now on."""

    def __init__(self, server: Callable[[], float]) -> None:
        """``server`` returns the processor time, in seconds, that the server has taken so far."""
        self._server = server
        self._start = self._read()

    def _read(self) -> tuple[float, float, float, float]:
        load = time.process_time()
        load += sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
        return time.perf_counter(), self._server(), load, busy(STAT.read_text(encoding="ascii"))

    def others(self) -> float:
        """The share taken by neither the server nor the load, from 0 to 1."""
        wall, server, load, everything = (
            now - then for now, then in zip(self._read(), self._start, strict=True)
        )
        return max(0.0, everything - server - load) / (2 * wall)


def busy(stat: str) -> float:
    """Seconds that programs have run on both cores, from ``/proc/stat``, without interrupts."""
    cores = [f"cpu{core}" for core in PROGRAM | LOAD]
    rows = [line.split() for line in stat.splitlines()]
    ticks = sum(int(tick) for row in rows if row[0] in cores for tick in row[1:4])
    return ticks / os.sysconf("SC_CLK_TCK")


def listens(port: int) -> bool:
    """Whether a port of this machine accepts connections."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def on(cores: set[int]) -> Iterator[None]:
    """Processes started in the block run on ``cores``."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def wrk(
    url: str,
    bodies: Sequence[bytes],
    headers: Mapping[str, str],
    folder: Path,
    *,
    clients: int,
    seconds: int,
) -> Answers:
    """POST ``bodies`` in turn from ``clients`` for ``seconds``; scratch files go to ``folder``.

    Raises:
        Failed: an answer was not 2xx or did not come, or nothing listens.
    """
    lines = ["local requests = {}", "function init()"]
    for name, value in headers.items():
        lines.append(f"  wrk.headers[{json.dumps(name)}] = {json.dumps(value)}")
    for number, body in enumerate(bodies, 1):
        path = folder / f"{number}.body"
        path.write_bytes(body)
        # Closed, since wrk has file descriptors for no more than its clients.
        lines.append(f'  local file = io.open("{path}", "rb")')
        lines.append(f'  requests[{number}] = wrk.format("POST", nil, nil, file:read("*a"))')
        lines.append("  file:close()")
    lines += ["end", "local sent = 0", "function request()"]
    lines += [f"  sent = sent % {len(bodies)} + 1", "  return requests[sent]", "end"]
    script = folder / "requests.lua"
    script.write_text("\n".join(lines), encoding="utf-8")
    command = ["wrk", "-t1", f"-c{clients}", f"-d{seconds}s", "--timeout=30s", "--latency"]
    with on(LOAD):
        run = subprocess.run(  # noqa: S603
            [*command, f"-s{script}", url], capture_output=True, text=True
        )
    if run.returncode:
        raise Failed(f"wrk failed: {(run.stderr + run.stdout).strip()}")
    return read_wrk(run.stdout)


def read_wrk(report: str) -> Answers:
    """Parse what wrk printed.

    Raises:
        Failed: it reports failures, or no answers.
    """
    found = re.search(r"Requests/sec:\s+([\d.]+)", report)
    times = dict(re.findall(r"^ +(\d+)%\s+(\S+) *$", report, re.MULTILINE))
    failed = "Non-2xx" in report or "Socket errors" in report or not {"50", "99"} <= times.keys()
    if failed or not found or not float(found[1]):
        said = re.findall(r"Non-2xx.*|Socket errors.*", report) or ["no answers"]
        raise Failed(f"not every request was answered with success: {', '.join(said)}")
    return Answers(float(found[1]), read_time(times["50"]), read_time(times["99"]))


def read_time(text: str) -> float:
    """Parse a time that wrk printed, such as ``1.23ms``, into milliseconds."""
    number, unit = re.fullmatch(r"([\d.]+)([a-z]+)", text).groups()  # type: ignore[union-attr]
    return float(number) * MILLISECONDS[unit]


def grpc(address: str, body: bytes, folder: Path, *, clients: int, seconds: int) -> Answers:
    """Call ``ModelInfer`` from ``clients`` for ``seconds``; ``body`` is a serialized request.

    Raises:
        Failed: a call failed.
    """
    path = folder / "request.bin"
    path.write_bytes(body)
    command = [sys.executable, "-m", "benchmarks.grpc_load", address, str(path)]
    with on(LOAD):
        run = subprocess.run(  # noqa: S603
            [*command, str(clients), str(seconds)], capture_output=True, text=True
        )
    if run.returncode:
        raise Failed(f"a call failed: {run.stderr.strip()}")
    return Answers(*json.loads(run.stdout))
