"""What metrics, access log and traces cost: ``python -m benchmarks.logs``.

Pairs of predictor and transformer on one core take turns to answer 32 clients, with one image of
28×28 per request, the cheapest request there is. The first pair counts, logs errors only and traces
nothing; "nothing counted" leaves out KServe's metrics too. Prints a Markdown table of a pair's
processor time per request and of its throughput: the medians over the rounds, and the ratios to the
first pair within a round, as medians and quartiles.
"""

import os
import statistics
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest.mock import patch

import psutil

from benchmarks import bodies
from benchmarks.flags import flags, in_a_line
from benchmarks.load import LOAD, PROGRAM, check_machine, on, wrk
from tests import programs
from tests.collector import Collector
from tests.programs import Program

CLIENTS, SECONDS, ROUNDS = 32, 1, 30
SAMPLER = {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio"}
UNCOUNTED = {"PYTHONPATH": str(Path(__file__).parent / "uncounted")}
SETTINGS: dict[str, tuple[str, dict[str, str]]] = {
    "counted, errors logged": ("errors", {}),
    "nothing counted": ("errors", UNCOUNTED),
    "all logged": ("all", {}),
    "1 % traced": ("errors", {**SAMPLER, "OTEL_TRACES_SAMPLER_ARG": "0.01"}),
    "all traced": ("errors", {**SAMPLER, "OTEL_TRACES_SAMPLER_ARG": "1"}),
}
"""The value of ``--access_log``, and the environment."""


@contextmanager
def pair(folder: Path, setting: str, collector: str) -> Iterator[tuple[Program, Program]]:
    """Run predictor and transformer on the core for measured programs."""
    logged, environment = SETTINGS[setting]
    flags = ["--log_format=json", f"--access_log={logged}"]
    if environment.keys() >= SAMPLER.keys():
        environment = {**environment, "OTEL_EXPORTER_OTLP_ENDPOINT": collector}
    with ExitStack() as stack, patch.dict(os.environ, environment):
        stack.enter_context(on(PROGRAM))
        predictor = stack.enter_context(programs.predictor(folder, "--compute_threads=1", *flags))
        address = f"127.0.0.1:{predictor.http_port}"
        yield predictor, stack.enter_context(programs.transformer(folder, address, *flags))


def measure(
    programs: tuple[Program, Program], request: bodies.Request, folder: Path
) -> tuple[float, float]:
    """Microseconds of processor time per request, and requests per second."""
    processes = [psutil.Process(program.process.pid) for program in programs]
    before = used(processes)
    url = f"{programs[1].url}{request.path}"
    headers = {"Content-Type": request.content_type}
    rate = wrk(url, request.bodies, headers, folder, clients=CLIENTS, seconds=SECONDS).rate
    return (used(processes) - before) / (rate * SECONDS) * 1e6, rate


def used(processes: list[psutil.Process]) -> float:
    """The processor time of ``processes`` so far, in seconds."""
    return sum(sum(process.cpu_times()[:2]) for process in processes)


def main() -> None:
    """Measure all settings in turn, and print the table."""
    flags(__doc__).parse_args()
    check_machine()
    request = bodies.body("/v1/models/mnist:predict", bodies.SMALL)
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as stack:
        folder = Path(temporary)
        with on(LOAD):
            url = stack.enter_context(Collector().running()).url
        pairs = {name: stack.enter_context(pair(folder, name, url)) for name in SETTINGS}
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in SETTINGS}
        for _ in range(1 + ROUNDS):  # the first one warms up
            for name, running in pairs.items():
                found[name].append(measure(running, request, folder))
    print("| | processor time per request, µs | ratio | throughput, requests/s | ratio |")
    print("| --- | ---: | ---: | ---: | ---: |")
    base = next(iter(found.values()))[1:]
    for name, rounds in found.items():
        cells = []
        for each in (0, 1):
            values = [row[each] for row in rounds[1:]]
            ratios = [value / row[each] for value, row in zip(values, base, strict=True)]
            low, middle, high = statistics.quantiles(ratios, n=4)
            cells += [
                f"{statistics.median(values):,.0f}",
                f"{middle:.3f} ({low:.3f}–{high:.3f})",
            ]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    with in_a_line(programs.NotStarted):
        main()
