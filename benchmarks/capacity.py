"""How much one pod of each component takes at a time: ``python -m benchmarks.capacity``.

The program under load has one core to itself, as in the manifest; wrk and whatever else is needed
have the other. For 1, 2, 4, … requests in flight it prints a Markdown table of throughput and
latency. The scale targets of ``manifests/base/inferenceservice.yaml`` are the fewest requests in
flight with which a pod gives nearly all that it can: more only wait.
"""

import json
import os
import tempfile
from pathlib import Path

from benchmarks.load import LOAD, PROGRAM, check_machine, on, wrk
from tests import programs

SECONDS = 4


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
            url = f"{transformer.url}/v1/models/mnist:predict"
            headers = {"Content-Type": "image/png"}
            for clients in (1, 2, 4, 8, 16, 32, 64):
                row("transformer", url, picture.read_bytes(), headers, folder, clients)


def main() -> None:
    """Measure one component after the other."""
    check_machine()
    print("| component | in flight | requests/s | p50, ms | p99, ms |")
    print("| --- | ---: | ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for version in ("1", "2"):
            measure_predictor(folder, version)
        measure_transformer(folder, programs.ROOT / "docs/seven.png")


if __name__ == "__main__":
    main()
