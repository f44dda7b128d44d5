"""How much one pod of each component takes at a time: ``python -m benchmarks.capacity``.

The program under load has one core to itself, as in the manifest; wrk and whatever else is needed
have the other. For 1, 2, 4, … requests in flight it prints a Markdown table of throughput and
latency. The scale targets of ``manifests/base/inferenceservice.yaml`` are the fewest requests in
flight with which a pod gives nearly all that it can: more only wait. The last rows say what
replicas give: one pair that shares a core, and two pairs with a core each, four programs in all.
"""

import json
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from benchmarks.load import LOAD, PROGRAM, check_machine, on, wrk
from tests import programs

SECONDS = 4
V1 = "/v1/models/mnist:predict"
CLIENTS = 16
"""Of each pair."""


def row(
    name: str, url: str, body: bytes, headers: dict[str, str], folder: Path, clients: int
) -> None:
    """Print one row: requests per second, and the 50th and 99th percentile of latency."""
    answers = wrk(url, [body], headers, folder, clients=clients, seconds=SECONDS)
    figures = f"{answers.rate:,.0f} | {answers.p50:.1f} | {answers.p99:.1f}"
    print(f"| {name} | {clients} | {figures} |", flush=True)


def tensor(images: int) -> tuple[bytes, dict[str, str]]:
    """A V2 request in binary form, and its headers."""
    entry = {"name": "images", "datatype": "UINT8", "shape": [images, 28, 28]}
    size = {"binary_data_size": images * 784}
    parameters = {"binary_data_output": True}
    header = json.dumps({"inputs": [{**entry, "parameters": size}], "parameters": parameters})
    body = header.encode() + os.urandom(images * 784)
    return body, {"Inference-Header-Content-Length": str(len(header))}


def measure_predictor(folder: Path, version: str) -> None:
    """Calls of 64 images, as the transformer merges them under load."""
    flags = ("--models_dir=models", "--torch_threads=1")
    with (
        on(PROGRAM),
        programs.program("predictor", folder, *flags, env={"MODEL_VERSION": version}) as predictor,
    ):
        predictor.wait_for("/v2/models/mnist/ready")
        url = f"{predictor.url}/v2/models/mnist/infer"
        body, headers = tensor(64)
        for clients in (1, 2, 4, 8):
            row(f"predictor, version {version}", url, body, headers, folder, clients)


def measure_transformer(folder: Path, picture: Path) -> None:
    """Requests of one image each."""
    with on(LOAD), programs.predictor(folder, "--torch_threads=1") as predictor, on(PROGRAM):
        address = f"127.0.0.1:{predictor.http_port}"
        with programs.transformer(folder, address) as transformer:
            url = transformer.url + V1
            headers = {"Content-Type": "image/png"}
            for clients in (1, 2, 4, 8, 16, 32, 64):
                row("transformer", url, picture.read_bytes(), headers, folder, clients)


def measure_pairs(folder: Path, picture: Path, cores: list[set[int]]) -> None:
    """A pair on each of the cores, and a load for each, all at a time."""
    body, headers = picture.read_bytes(), {"Content-Type": "image/png"}
    with ExitStack() as running, ThreadPoolExecutor() as threads:
        transformers = []
        for core in cores:
            with on(core):
                flags = ("--torch_threads=1",)
                predictor = running.enter_context(programs.predictor(folder, *flags))
                address = f"127.0.0.1:{predictor.http_port}"
                transformers.append(running.enter_context(programs.transformer(folder, address)))
        loads = []
        for i, transformer in enumerate(transformers):
            (scratch := folder / f"load-{i}").mkdir(exist_ok=True)
            url = transformer.url + V1
            limits = {"clients": CLIENTS, "seconds": SECONDS}
            loads.append(threads.submit(wrk, url, [body], headers, scratch, **limits))
        answers = [load.result() for load in loads]
    rate = sum(each.rate for each in answers)
    p50, p99 = (max(times) for times in zip(*(each[1:] for each in answers), strict=True))
    count = len(cores) * CLIENTS
    print(f"| pairs, a core each: {len(cores)} | {count} | {rate:,.0f} | {p50:.1f} | {p99:.1f} |")


def main() -> None:
    """Measure one component after the other."""
    check_machine()
    print("| component | in flight | requests/s | p50, ms | p99, ms |")
    print("| --- | ---: | ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for version in ("1", "2"):
            measure_predictor(folder, version)
        picture = programs.ROOT / "docs/seven.png"
        measure_transformer(folder, picture)
        for cores in ([PROGRAM], [PROGRAM, LOAD]):
            measure_pairs(folder, picture, cores)


if __name__ == "__main__":
    main()
