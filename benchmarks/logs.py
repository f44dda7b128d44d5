"""What the access log costs: ``python -m benchmarks.logs``.

Two pairs of predictor and transformer on one core answer 32 clients in turn, an image of 28×28 to a
request, which is the cheapest one. One logs a line for each inference, as JSON, the other only
errors. Prints a Markdown table of the processor time that a pair spends on a request, and of its
throughput: medians of the rounds, and of the ratios in a round, with their quartiles.
"""

import statistics
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil

from benchmarks import bodies
from benchmarks.load import PROGRAM, check_machine, on, wrk
from tests import programs
from tests.programs import Program

CLIENTS, SECONDS, ROUNDS = 32, 2, 25
FLAGS = {
    "errors": ["--log_format=json"],
    "all": ["--log_format=json", "--access_log=all"],
}


@contextmanager
def pair(folder: Path, flags: list[str]) -> Iterator[tuple[Program, Program]]:
    """Predictor and transformer on the core of what is measured."""
    with on(PROGRAM), programs.predictor(folder, "--torch_threads=1", *flags) as predictor:
        address = f"127.0.0.1:{predictor.http_port}"
        with programs.transformer(folder, address, *flags) as transformer:
            yield predictor, transformer


def measure(
    programs: tuple[Program, Program], request: bodies.Request, folder: Path
) -> tuple[float, float]:
    """Microseconds of processor time to a request, and requests per second."""
    processes = [psutil.Process(program.process.pid) for program in programs]
    before = used(processes)
    url = f"{programs[1].url}{request.path}"
    headers = {"Content-Type": request.content_type}
    rate = wrk(url, request.bodies, headers, folder, clients=CLIENTS, seconds=SECONDS).rate
    return (used(processes) - before) / (rate * SECONDS) * 1e6, rate


def used(processes: list[psutil.Process]) -> float:
    """Processor time so far, in seconds."""
    return sum(sum(process.cpu_times()[:2]) for process in processes)


def main() -> None:
    """Measure in turn."""
    check_machine()
    request = bodies.body("/v1/models/mnist:predict", bodies.SMALL)
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        pairs = {logged: stack.enter_context(pair(folder, FLAGS[logged])) for logged in FLAGS}
        found: dict[str, list[tuple[float, float]]] = {logged: [] for logged in FLAGS}
        for _ in range(1 + ROUNDS):  # the first one warms up
            for logged, running in pairs.items():
                found[logged].append(measure(running, request, folder))
    print("| logged | µs of processor time a request | ratio | requests/s | ratio |")
    print("| --- | ---: | ---: | ---: | ---: |")
    base = found["errors"][1:]
    for logged, rounds in found.items():
        cells = []
        for each in (0, 1):
            values = [row[each] for row in rounds[1:]]
            ratios = [value / row[each] for value, row in zip(values, base, strict=True)]
            low, middle, high = statistics.quantiles(ratios, n=4)
            cells += [
                f"{statistics.median(values):,.0f}",
                f"{middle:.3f} ({low:.3f}–{high:.3f})",
            ]
        print(f"| {logged} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
