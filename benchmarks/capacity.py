"""How much one pod of each component takes at a time: ``python -m benchmarks.capacity``.

The program under load has one core to itself, as in the manifest; wrk and whatever else is needed
have the other. For 1, 2, 4, … requests in flight it prints a Markdown table of throughput and
latency. The scale targets of ``manifests/base/inferenceservice.yaml`` are the fewest requests in
flight with which a pod gives nearly all that it can: more only wait.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests import programs

SECONDS = 4
PROGRAM, REST = {0}, {1}
"""Cores."""


def wrk(url: str, connections: int, body: Path, headers: dict[str, str], folder: Path) -> str:
    """One row: requests per second, and the 50th and 99th percentile of latency."""
    lines = [f'wrk.headers["{name}"] = "{value}"' for name, value in headers.items()]
    lua = f'wrk.method = "POST"\nwrk.body = io.open("{body}", "rb"):read("*a")\n'
    script = folder / "request.lua"
    script.write_text(lua + "\n".join(lines), encoding="utf-8")
    command = ["wrk", "-t1", f"-c{connections}", f"-d{SECONDS}s", "--latency", f"-s{script}", url]
    report = subprocess.run(command, check=True, capture_output=True, text=True).stdout  # noqa: S603
    if "Non-2xx" in report:
        sys.exit(f"some requests failed:\n{report}")
    rate = float(re.findall(r"Requests/sec:\s+([\d.]+)", report)[0])
    p50, p99 = (re.findall(rf"^ +{share}%\s+(\S+)$", report, re.MULTILINE)[0] for share in (50, 99))
    return f"{rate:,.0f} | {p50} | {p99}"


@contextmanager
def on(cores: set[int]) -> Iterator[None]:
    """Let the processes that start in the block run on ``cores``."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def tensor(folder: Path, images: int) -> tuple[Path, dict[str, str]]:
    """A V2 request in binary form, and its headers."""
    entry = {"name": "images", "datatype": "UINT8", "shape": [images, 28, 28]}
    size = {"binary_data_size": images * 784}
    parameters = {"binary_data_output": True}
    header = json.dumps({"inputs": [{**entry, "parameters": size}], "parameters": parameters})
    body = folder / f"{images}.bin"
    body.write_bytes(header.encode() + os.urandom(images * 784))
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
        body, headers = tensor(folder, 64)
        with on(REST):
            for connections in (1, 2, 4, 8):
                row = wrk(url, connections, body, headers, folder)
                print(f"| predictor, version {version} | {connections} | {row} |", flush=True)


def measure_transformer(folder: Path, picture: Path) -> None:
    """Requests of one image each."""
    with on(REST), programs.predictor(folder, "--torch_threads=1") as predictor, on(PROGRAM):
        address = f"127.0.0.1:{predictor.http_port}"
        with programs.transformer(folder, address) as transformer, on(REST):
            url = f"{transformer.url}/v1/models/mnist:predict"
            for connections in (1, 2, 4, 8, 16, 32, 64):
                headers = {"Content-Type": "image/png"}
                row = wrk(url, connections, picture, headers, folder)
                print(f"| transformer | {connections} | {row} |", flush=True)


def main() -> None:
    """Measure one component after the other."""
    if not shutil.which("wrk"):
        sys.exit("wrk is missing: apt install wrk")
    if len(os.sched_getaffinity(0)) < 2:
        sys.exit("two cores are needed: one for the program, one for the load")
    print("| component | in flight | requests/s | p50 | p99 |")
    print("| --- | ---: | ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for version in ("1", "2"):
            measure_predictor(folder, version)
        measure_transformer(folder, programs.ROOT / "docs/seven.png")


if __name__ == "__main__":
    main()
