"""How long a user waits for a service that was scaled to zero: ``python -m benchmarks.coldstart``.

Starts each case in turn, and prints a Markdown table: the time from the start of the processes to
the first correct answer, and the processor time that they took until then, which is how long it
would take a pod with one processor. The ratios are to a bare process that imports torch, reads the
graph and runs it once.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import httpx
import psutil

from benchmarks import load
from benchmarks.flags import flags, in_a_line
from serving.numbers import positive
from tests import programs
from transformer import image
from transformer.answer import show

INTERVAL = 0.01
"""Seconds between two checks whether a program listens."""
PICTURE = image.read((programs.ROOT / "docs/seven.png").read_bytes())
FILE = {"image": show(PICTURE)}  # as the model sees it: KServe's pair does not look for the digit
PIXELS = PICTURE.pixels.tolist()
CLIENT = httpx.Client(timeout=programs.START_TIMEOUT)

BARE = """
import torch
from predictor.graph import read_graph
with open("models/mnist/1/model.pt2", "rb") as file:
    graph = read_graph(file.read())
with torch.inference_mode():
    print(graph(torch.zeros(1, 28, 28, dtype=torch.uint8)), flush=True)
input()
"""


class Start(NamedTuple):
    """What one start took, in seconds."""

    wall: float
    processor: float


def taken(begin: float, *processes: "subprocess.Popen[bytes]") -> Start:
    """The time since ``begin``, and the processor time of ``processes``."""
    wall = time.perf_counter() - begin
    used = [psutil.Process(process.pid).cpu_times() for process in processes]
    return Start(wall, sum(times.user + times.system for times in used))


def wait_for_seven(instance: object, *started: programs.Program) -> None:
    """Ask the first program once all listen, as Knative does; exit if it does not read a 7."""
    for program in started:
        while not load.listens(program.http_port):  # they listen only once they are ready
            if program.process.poll() is not None:
                sys.exit(f"ended with {program.process.returncode}:\n{program.output()}")
            time.sleep(INTERVAL)
    url = f"{started[0].url}/v1/models/mnist:predict"
    answer = CLIENT.post(url, json={"instances": [instance]}).raise_for_status()
    (prediction,) = answer.json()["predictions"]
    scores = prediction.get("probabilities")  # a predictor says no more
    if prediction.get("digit", scores and scores.index(max(scores))) != 7:
        sys.exit(f"a wrong answer: {answer.text}")


def bare() -> Start:
    """Start a process that does the least that a predictor must."""
    begin = time.perf_counter()
    with subprocess.Popen(  # noqa: S603
        [sys.executable, "-c", BARE],
        cwd=programs.ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        if not (process.stdout and process.stdout.readline()):
            sys.exit("the bare process failed")
        start = taken(begin, process)
        process.communicate(b"\n")
    return start


def predictor(folder: Path) -> Start:
    """Start our predictor, and ask for the scores of a picture as the model sees it."""
    begin = time.perf_counter()
    env = {"MODEL_VERSION": "1"}
    with programs.program("predictor", folder, "--models_dir=models", env=env) as one:
        wait_for_seven(PIXELS, one)
        return taken(begin, one.process)


def transformer(folder: Path) -> Start:
    """Start our transformer in front of a predictor that is already running."""
    with programs.predictor(folder) as other:
        begin = time.perf_counter()
        host = f"--predictor_host=127.0.0.1:{other.http_port}"
        with programs.program("transformer", folder, host) as one:
            wait_for_seven(FILE, one)
            return taken(begin, one.process)


def pair(folder: Path) -> Start:
    """Start both of our programs at once."""
    port, env = programs.free_port(), {"MODEL_VERSION": "1"}
    models, host = "--models_dir=models", f"--predictor_host=127.0.0.1:{port}"
    begin = time.perf_counter()
    with (
        programs.program("predictor", folder, models, env=env, http_port=port) as last,
        programs.program("transformer", folder, host) as first,
    ):
        wait_for_seven(FILE, first, last)
        return taken(begin, first.process, last.process)


def documented(folder: Path) -> Start:
    """Start both programs of KServe's documentation at once."""
    module, name, port = "benchmarks.peers.kserve_pair", "--model_name=mnist", programs.free_port()
    host = f"--predictor_host=127.0.0.1:{port}"
    begin = time.perf_counter()
    with (
        programs.program(module, folder, "predictor", name, http_port=port) as last,
        programs.program(module, folder, "transformer", name, host) as first,
    ):
        wait_for_seven(FILE, first, last)
        return taken(begin, first.process, last.process)


CASES = {
    "bare process": lambda _: bare(),
    "our predictor": predictor,
    "our transformer": transformer,
    "our pair": pair,
    "KServe's documented pair": documented,
}


def row(name: str, starts: list[Start], base: list[Start]) -> str:
    """A row of the table: medians, ranges and ratios of one case."""
    cells = [name]
    for times, reference in zip(zip(*starts, strict=True), zip(*base, strict=True), strict=True):
        median = statistics.median(times)
        cells += [
            f"{median:.2f} ({min(times):.2f}–{max(times):.2f})",
            f"{median / statistics.median(reference):.2f}",
        ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Measure, and print the table."""
    parser = flags(__doc__)
    parser.add_argument(
        "--rounds", type=positive, default=9, help="starts of each case (default 9)"
    )
    rounds = parser.parse_args().rounds
    starts: dict[str, list[Start]] = {name: [] for name in CASES}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(rounds + 1):
            for name, case in CASES.items():
                start = case(Path(folder))
                if number:  # the first round loads the files into memory
                    starts[name].append(start)
    print(f"{len(os.sched_getaffinity(0))} processors, {rounds} starts of each")
    print("| started | to the answer, s | ratio | processor time, s | ratio |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for name, found in starts.items():
        print(row(name, found, starts["bare process"]))


if __name__ == "__main__":
    with in_a_line(programs.NotStarted, httpx.HTTPError):
        main()
