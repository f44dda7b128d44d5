"""Compares the service with its peers: ``make bench``, or ``python -m benchmarks.bench``.

In each round every server is started, checked, measured and stopped, so that a change in the
machine's speed affects all of them; comparisons are ratios within a round. A server has one core
and the load the other; only while it starts does it have both, as two pods would. The figures go to
``build/bench/results.json``, from which ``benchmarks/report.py`` makes ``docs/benchmark.md``.
"""

import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import grpc
import httpx
import psutil
from kserve import InferResponse
from kserve.protocol.grpc.grpc_predict_v2_pb2 import ModelInferResponse

from benchmarks import coldstart, load, report
from benchmarks.bodies import CALL, LARGE, MANY, SMALL, TENSOR, Request, digits_sent
from benchmarks.flags import flags, in_a_line
from benchmarks.grpc_load import METHOD
from benchmarks.load import Failed
from benchmarks.servers import ENVIRONMENT, VENVS, Running, Server, running, servers
from serving.numbers import positive
from tests.programs import ROOT

COMPARED = {SMALL: (1, 32), LARGE: (32,), MANY: (8,), TENSOR: (32,), CALL: (32,)}
"""Numbers of clients for all servers, by case. Requests of 64 images have only 8: with 32 there
would be 2,048 images in flight, and ours, which holds 1,024, would refuse some."""
GRID = {SMALL: (8, 64), LARGE: (1, 8, 64), MANY: (1,), TENSOR: (1, 8, 64), CALL: (1, 8, 64)}
"""Further numbers of clients, for a few servers."""
GRID_ROUNDS = 2
INTERVAL = 0.01
"""Seconds between two checks whether a server answers."""
TIMEOUT = 60
CLIENT = httpx.Client(timeout=TIMEOUT)

Points = dict[str, tuple[int, ...]]


def ask(server: Running, request: Request, body: bytes) -> tuple[bytes, str | None]:
    """Send one request; return the answer, and the length of its JSON if a header tells it.

    Raises:
        httpx.HTTPError, grpc.RpcError: the request failed.
    """
    address = f"127.0.0.1:{server.ports[request.port]}"
    if request.port == "inner_grpc":
        with grpc.insecure_channel(address) as channel:
            return channel.unary_unary(METHOD)(body), None
    headers = {"content-type": request.content_type, **dict(request.headers)}
    answer = CLIENT.post(f"http://{address}{request.path}", content=body, headers=headers)
    answer.raise_for_status()
    return answer.content, answer.headers.get("inference-header-content-length")


def read_digits(case: str, content: bytes, json_length: str | None) -> list[int]:
    """The digits in an answer of any of the servers."""
    if case in (TENSOR, CALL):
        if case == CALL:
            answer = InferResponse.from_grpc(ModelInferResponse.FromString(content))
        else:
            answer = InferResponse.from_bytes(content, int(json_length or len(content)))
        return list(answer.outputs[0].as_numpy().argmax(1).tolist())
    said: Any = json.loads(content)
    if isinstance(said, dict) and "outputs" in said:
        return list(said["outputs"][0]["data"])
    if isinstance(said, dict):
        said = said.get("predictions", [said])
    return [prediction["digit"] for prediction in said]


def wait(server: Running, request: Request) -> float:
    """Send requests until one is answered; return when that was, by ``time.perf_counter``.

    Raises:
        Failed: the server has exited, or does not answer within ``TIMEOUT`` seconds.
    """
    deadline = time.perf_counter() + TIMEOUT
    while time.perf_counter() < deadline and server.alive():
        # This must cost next to nothing: until the server answers, both cores are its own.
        if load.listens(server.ports[request.port]):
            with suppress(httpx.HTTPError):
                ask(server, request, request.bodies[0])
                return time.perf_counter()
        time.sleep(INTERVAL)
    raise Failed("it answers nothing")


def check(server: Running, case: str, request: Request) -> None:
    """Check that the server answers each of the requests correctly.

    Raises:
        Failed: it does not.
    """
    for expected, body in zip(digits_sent(case), request.bodies, strict=True):
        found = read_digits(case, *ask(server, request, body))
        if found != expected:
            raise Failed(f"{case}: {found} instead of {expected}")


def measure(
    server: Running, case: str, request: Request, clients: int, seconds: int, folder: Path
) -> list[float]:
    """Requests per second, p50 and p99 in ms, and the share of the cores that others took."""
    address = f"127.0.0.1:{server.ports[request.port]}"
    clock = load.Clock(server.processor_time)
    if case == CALL:
        answers = load.grpc(address, request.bodies[0], folder, clients=clients, seconds=seconds)
    else:
        answers = load.wrk(
            f"http://{address}{request.path}",
            request.bodies,
            {"content-type": request.content_type, **dict(request.headers)},
            folder,
            clients=clients,
            seconds=seconds,
        )
    return [*answers, clock.others()]


def forward(seconds: int) -> float:
    """Images per second of torch's forward pass alone, measured for ``seconds``."""
    with load.on(load.PROGRAM):
        run = subprocess.run(  # noqa: S603
            [sys.executable, "-m", "benchmarks.forward", str(seconds)],
            env={**os.environ, **ENVIRONMENT},
            check=True,
            capture_output=True,
            text=True,
        )
    return float(run.stdout)


def now() -> str:
    """The time in UTC, to the minute."""
    return f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"


def about(seconds: int) -> dict[str, object]:
    """What the page says about the machine, the versions and the run."""
    processor = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    versions = [
        line.replace("==", " ")
        for path in sorted((ROOT / "benchmarks/peers/requirements").glob("*.txt"))
        for line in path.read_text(encoding="utf-8").splitlines()
        if line.partition("==")[0].lower() == path.stem
    ]
    return {
        "machine": f"{os.cpu_count()} cores of {processor[1] if processor else platform.machine()}",
        "python": f"{platform.python_version()} (built {platform.python_build()[1]})",
        "torch": version("torch"),
        "versions": ", ".join(versions),
        "begun": now(),
        "seconds": seconds,
    }


class Results:
    """Everything that was measured."""

    def __init__(self, about: dict[str, object]) -> None:
        self.found: report.Results = {
            "about": about, "processes": {}, "answers": [], "start": {}, "memory": {},
            "missing": {}, "forward": [], "bare": [],
        }  # fmt: skip

    def save(self) -> None:
        """Write the results to the file that ``benchmarks/report.py`` reads."""
        self.found["about"]["ended"] = now()
        report.RESULTS.write_text(json.dumps(self.found, indent=1), encoding="utf-8")

    def visit(
        self, number: int, server: Server, points: Points, seconds: int, folder: Path
    ) -> None:
        """Start, check, measure and stop one server.

        Raises:
            Failed: an answer was wrong, or missing.
        """
        if points is COMPARED and number == 1:  # so that its files are in memory at the start below
            with running(server, folder) as processes:
                wait(processes, server.requests[SMALL])
        begin = time.perf_counter()
        rows = []
        with running(server, folder) as processes:
            start = wait(processes, server.requests[SMALL]) - begin
            processes.pin(load.PROGRAM)
            for case, request in server.requests.items():
                if not server.name.startswith("empty"):
                    check(processes, case, request)
            measure(processes, SMALL, server.requests[SMALL], 32, seconds, folder)  # warms up
            for case, request in server.requests.items():
                for clients in points[case]:
                    found = measure(processes, case, request, clients, seconds, folder)
                    rows.append([number, server.name, case, clients, *found])
            memory = processes.memory()
        self.found["answers"] += rows
        if points is COMPARED:
            self.found["start"].setdefault(server.name, []).append(start)
            self.found["memory"].setdefault(server.name, []).append(memory)

    def visit_all(
        self, number: int, chosen: Iterable[Server], points: Points, seconds: int
    ) -> None:
        """Visit all servers in one round; one that fails twice in it is left out from then on."""
        for server in chosen:
            if server.name in self.found["missing"]:
                continue
            print(f"round {number}: {server.name}", file=sys.stderr)
            if self.failure(number, server, points, seconds):
                reason = self.failure(number, server, points, seconds)
                if reason and server.name == report.OURS:
                    sys.exit(reason)
                if reason:
                    self.found["missing"][server.name] = reason

    def failure(self, number: int, server: Server, points: Points, seconds: int) -> str:
        """Visit a server; return why that failed, or an empty string."""
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            try:
                self.visit(number, server, points, seconds, folder)
            except (Failed, OSError, httpx.HTTPError, grpc.RpcError, psutil.Error) as error:
                print(error, file=sys.stderr)
                return f"in round {number}: {error}"
        return ""


def main() -> None:
    """Measure, and write the page."""
    parser = flags(
        __doc__, 'python -m benchmarks.bench --only ours "KServe\'s pair, REST" --rounds=1'
    )
    parser.add_argument(
        "--rounds", type=positive, default=5, help="rounds over all servers (default 5)"
    )
    parser.add_argument(
        "--seconds", type=positive, default=2, help="seconds per figure (default 2)"
    )
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="SERVER",
        choices=[server.name for server in servers()],
        help="measure only these, and print the results as JSON; no page is written; status 1 if"
        " one fails, which the page would only name",
    )
    args = parser.parse_args()
    load.check_machine()
    results = Results(about(args.seconds))
    chosen = [server for server in servers() if not args.only or server.name in args.only]
    for server in chosen:
        results.found["processes"][server.name] = server.processes
        reason = VENVS / f"{server.venv}.missing"
        if reason.exists():
            results.found["missing"][server.name] = reason.read_text(encoding="utf-8")
    for number in range(1, args.rounds + 1):
        results.found["bare"].append(coldstart.bare().wall)
        results.found["forward"].append(forward(args.seconds))
        results.visit_all(number, chosen, COMPARED, args.seconds)
    if args.only:
        json.dump(results.found, sys.stdout, indent=1)
        if missing := results.found["missing"]:
            raise Failed(f"no figures of {', '.join(missing)}")
        return
    results.save()
    few = report.Report(results.found).few()
    for number in range(1, GRID_ROUNDS + 1):
        results.visit_all(
            number, [server for server in chosen if server.name in few], GRID, args.seconds
        )
    results.save()
    report.write(results.found)


if __name__ == "__main__":
    with in_a_line():
        main()
