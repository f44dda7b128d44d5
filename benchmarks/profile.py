"""Where our pair's time goes under load: ``python -m benchmarks.profile --help``.

Starts the pair as ``make bench`` does, on one core, and prints the processor time of each program
per request, and how many images share a call and a forward pass. It also prints the process ids,
for a profiler to attach meanwhile, such as ``py-spy record --pid ID``.
"""

import argparse
import tempfile
from pathlib import Path

import httpx

from benchmarks import load
from benchmarks.bench import COMPARED, measure, wait
from benchmarks.bodies import CALL, LARGE, MANY, SMALL, TENSOR
from benchmarks.flags import flags, in_a_line
from benchmarks.servers import running, servers
from serving.numbers import positive

CASES = {"small": SMALL, "large": LARGE, "many": MANY, "tensor": TENSOR, "call": CALL}
NAMES = "predictor", "transformer"
METRICS = "third", "fourth"
"""The names of the ports for their metrics."""


def parse() -> argparse.Namespace:
    """Parse the command line."""
    parser = flags(__doc__, "python -m benchmarks.profile --case=large --clients=8")
    parser.add_argument("--case", choices=CASES, default="small", help=", ".join(CASES.values()))
    parser.add_argument(
        "--clients",
        type=positive,
        help="each waits for its answer (default 32; 8 with many, as in make bench)",
    )
    parser.add_argument(
        "--seconds", type=positive, default=5, help="seconds to measure (default 5)"
    )
    args = parser.parse_args()
    args.clients = args.clients or COMPARED[CASES[args.case]][-1]
    return args


def batches(port: int) -> tuple[float, float]:
    """Images that a program has processed in batches, and the number of those batches."""
    lines = httpx.get(f"http://127.0.0.1:{port}/metrics").text.splitlines()
    samples = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    name = "mnist_batch_images"
    return float(samples[f"{name}_sum"]), float(samples[f"{name}_count"])


def main() -> None:
    """Start the pair, measure it under load, and print."""
    args = parse()
    load.check_machine()
    ours = servers()[0]
    commands = [
        f"{command} --metrics_port={{{port}}}"
        for command, port in zip(ours.commands, METRICS, strict=True)
    ]
    case = CASES[args.case]
    with (
        tempfile.TemporaryDirectory() as name,
        running(ours._replace(commands=tuple(commands)), Path(name)) as pair,
    ):
        wait(pair, ours.requests[SMALL])
        pair.pin(load.PROGRAM)
        processes = pair.all()
        for program, process in zip(NAMES, processes, strict=True):
            print(f"{program}: process {process.pid}")

        measure(pair, case, ours.requests[case], args.clients, 1, Path(name))
        before = [sum(process.cpu_times()[:2]) for process in processes]
        counted = [batches(pair.ports[port]) for port in METRICS]
        rate, p50, p99, _ = measure(
            pair, case, ours.requests[case], args.clients, args.seconds, Path(name)
        )
        print(f"{rate:,.0f} requests/s, p50 {p50:.2f} ms, p99 {p99:.2f} ms")
        for i, program in enumerate(NAMES):
            taken = sum(processes[i].cpu_times()[:2]) - before[i]
            images, runs = (
                now - then
                for now, then in zip(batches(pair.ports[METRICS[i]]), counted[i], strict=True)
            )
            print(
                f"{program}: {taken / rate / args.seconds * 1e6:.0f} µs of CPU time per request, "
                f"{images / max(runs, 1):.1f} images per batch"
            )


if __name__ == "__main__":
    with in_a_line():
        main()
