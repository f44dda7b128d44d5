"""How many requests a pod of each component can handle: ``python -m benchmarks.capacity``.

The program under load has one core to itself, as in the manifest; wrk and whatever else is needed
have the other. For 1, 2, 4, … requests in flight it prints a Markdown table of throughput and
latency. The scale targets of ``manifests/base/inferenceservice.yaml`` are numbers of requests in
flight with which a pod reaches most of its throughput: with more, latency grows faster. The last
rows show what replicas add: one pair of programs that shares a core, and two pairs with a core
each, four programs in all.
"""

import json
import os
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks.flags import flags, in_a_line
from benchmarks.load import LOAD, PROGRAM, Answers, check_machine, on, wrk
from tests import programs

SECONDS = 4
CLIENTS = 16
"""Clients of each pair."""


def row(name: str, clients: int, answers: Answers) -> None:
    """Print one row: requests per second, and p50 and p99 of the latency in ms."""
    figures = f"{answers.rate:,.0f} | {answers.p50:.1f} | {answers.p99:.1f}"
    print(f"| {name} | {clients} | {figures} |", flush=True)


def tensor(images: int) -> tuple[bytes, dict[str, str]]:
    """A V2 request with binary tensor data, of random pixels, and its headers."""
    entry = {"name": "images", "datatype": "UINT8", "shape": [images, 28, 28]}
    size = {"binary_data_size": images * 784}
    parameters = {"binary_data_output": True}
    header = json.dumps({"inputs": [{**entry, "parameters": size}], "parameters": parameters})
    body = header.encode() + os.urandom(images * 784)
    return body, {"Inference-Header-Content-Length": str(len(header))}


def measure_predictor(folder: Path, version: str) -> None:
    """Measure calls of 64 images, as the transformer merges them under load."""
    flags = ("--models_dir=models", "--compute_threads=1")
    with (
        on(PROGRAM),
        programs.program("predictor", folder, *flags, env={"MODEL_VERSION": version}) as predictor,
    ):
        predictor.wait_for("/v2/models/mnist/ready")
        url = f"{predictor.url}/v2/models/mnist/infer"
        body, headers = tensor(64)
        for clients in (1, 2, 4, 8):
            answers = wrk(url, [body], headers, folder, clients=clients, seconds=SECONDS)
            row(f"predictor, version {version}", clients, answers)


@contextmanager
def pair(folder: Path, predictor: set[int], transformer: set[int]) -> Iterator[str]:
    """Run both programs, each on its cores; yield the URL that takes images."""
    with ExitStack() as running:
        with on(predictor):
            inner = running.enter_context(programs.predictor(folder, "--compute_threads=1"))
        with on(transformer):
            address = f"127.0.0.1:{inner.http_port}"
            outer = running.enter_context(programs.transformer(folder, address))
        yield f"{outer.url}/v1/models/mnist:predict"


def send(url: str, folder: Path, clients: int) -> Answers:
    """Send requests of one image each."""
    image = (programs.ROOT / "docs/seven.png").read_bytes()
    headers = {"Content-Type": "image/png"}
    return wrk(url, [image], headers, folder, clients=clients, seconds=SECONDS)


def measure_transformer(folder: Path) -> None:
    """Measure the transformer on a core of its own."""
    with pair(folder, LOAD, PROGRAM) as url:
        for clients in (1, 2, 4, 8, 16, 32, 64):
            row("transformer", clients, send(url, folder, clients))


def measure_pairs(folder: Path, cores: list[set[int]]) -> None:
    """Measure a pair on each of the cores, all at once: their total rate, the worst latency."""
    with ExitStack() as running, ThreadPoolExecutor() as threads:
        urls = [running.enter_context(pair(folder, core, core)) for core in cores]
        folders = [Path(running.enter_context(tempfile.TemporaryDirectory())) for _ in cores]
        rates, p50s, p99s = zip(
            *threads.map(send, urls, folders, [CLIENTS] * len(cores)), strict=True
        )
    answers = Answers(sum(rates), max(p50s), max(p99s))
    row(f"pairs, a core each: {len(cores)}", len(cores) * CLIENTS, answers)


def main() -> None:
    """Measure one component after the other."""
    flags(__doc__).parse_args()
    check_machine()
    print("| component | in flight | requests/s | p50, ms | p99, ms |")
    print("| --- | ---: | ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for version in ("1", "2"):
            measure_predictor(folder, version)
        measure_transformer(folder)
        for cores in ([PROGRAM], [PROGRAM, LOAD]):
            measure_pairs(folder, cores)


if __name__ == "__main__":
    with in_a_line(programs.NotStarted):
        main()
