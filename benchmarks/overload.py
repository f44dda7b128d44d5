"""More requests than the transformer can answer: ``python -m benchmarks.overload``.

The transformer has a core to itself; the predictor and the load share the other. Requests of one
image each are sent at a fixed rate, whether or not earlier ones were answered (``arrivals.py``).
The table shows the capacity, what is answered at up to ten times that rate, and what afterwards;
what is left if clients hang up that wait for too long; and for a thousand clients that come again
at once, whatever they are told. If the load takes nearly a whole core, the figures say more about
the load than about the service.

``--soak=10`` then alternates a tenfold overload with a load of 80 % for ten minutes.
"""

import asyncio
import tempfile
import time
from pathlib import Path

import psutil
import uvloop

from benchmarks.arrivals import Answers, Load
from benchmarks.flags import flags, in_a_line
from benchmarks.load import LOAD, PROGRAM, check_cores, on
from tests import programs

PATH = "/v1/models/mnist:predict"
CLIENTS = 16
MANY = 1000
SECONDS = 20.0
"""Duration of each row."""


class Watch:
    """Prints a row of the table for each period."""

    def __init__(self, transformer: programs.Program, predictor: programs.Program) -> None:
        self._programs = [
            psutil.Process(transformer.process.pid),
            psutil.Process(predictor.process.pid),
            psutil.Process(),
        ]
        self._times = [time.monotonic()] + [0.0] * len(self._programs)

    def row(self, name: str, answers: Answers) -> None:
        """Print one row."""
        times = [time.monotonic(), *(sum(p.cpu_times()[:2]) for p in self._programs)]
        passed, *used = [b - a for a, b in zip(self._times, times, strict=True)]
        self._times = times
        memory = [int(p.memory_info().rss) >> 20 for p in self._programs[:2]]
        due = len(answers.times) + answers.lost + answers.unsent + answers.hung_up
        counts = answers.statuses
        others = sum(counts.values()) - counts[200] - counts[429]
        cells = (
            name,
            f"{due / answers.seconds:,.0f}",
            f"{answers.rate():,.0f}",
            f"{answers.percentile(50):,.0f}",
            f"{answers.percentile(99):,.0f}",
            f"{counts[429] / due:.0%}",
            f"{answers.percentile(99, 429):,.0f}" if counts[429] else "",
            f"{answers.unsent / due:.0%}",
            f"{answers.hung_up / due:.0%}",
            f"{others + answers.lost + answers.without_retry_after}",
            " / ".join(f"{cpu / passed:.2f}" for cpu in used),
            " / ".join(map(str, memory)),
        )
        print(f"| {' | '.join(cells)} |", flush=True)


HEADER = """\
| load | due/s | 200/s | p50, ms | p99, ms | 429 | p99, ms | unsent | hung up | else | cores | MiB |
| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"""
"""Percentiles of the answers with 200, then of those with 429. Unsent: all connections were in use.
Hung up: before an answer came, when the client had waited for as long as the row says.
``else`` counts all other answers, except 429 with Retry-After, and the requests without an answer.
Cores: transformer / predictor / load. Memory: transformer / predictor."""


async def measure(watch: Watch, load: Load, soak: float) -> None:
    """Measure, and print the table; ``soak`` is in minutes."""
    print(HEADER)
    for name in (f"{CLIENTS} clients in turn, to warm up", f"{CLIENTS} clients in turn"):
        answers = await load.in_turn(CLIENTS, SECONDS)
        capacity = answers.rate()
        watch.row(name, answers)

    async def at(name: str, share: float, patience: float | None = None) -> None:
        load.patience = patience
        watch.row(name, await load.at_rate(share * capacity, SECONDS))

    await at("×0.8", 0.8)
    await at("×1", 1)
    await at("×3", 3)
    await at("×10", 10)
    await at("×0.8, at once after", 0.8)
    for patience in (1.0, 0.3):
        await at(f"×10, clients that wait {patience:g} s", 10, patience)
    await at("×0.8, at once after", 0.8)
    watch.row(f"{MANY} clients in turn", await load.in_turn(MANY, SECONDS))
    loop = asyncio.get_running_loop()
    end = loop.time() + soak * 60
    while loop.time() < end:
        await at("soak, ×10", 10)
        await at("soak, ×0.8", 0.8)


def main() -> None:
    """Start the programs, and measure."""
    parser = flags(__doc__)
    parser.add_argument(
        "--soak", default=0, type=float, help="minutes to go on with ×10 and ×0.8 in turn"
    )
    args = parser.parse_args()
    check_cores()
    with tempfile.TemporaryDirectory() as name, on(LOAD):
        folder = Path(name)
        with programs.predictor(folder, "--compute_threads=1") as predictor, on(PROGRAM):
            address = f"127.0.0.1:{predictor.http_port}"
            with programs.transformer(folder, address) as transformer, on(LOAD):
                image = (programs.ROOT / "docs/seven.png").read_bytes()
                load = Load(transformer.http_port, PATH, image)
                uvloop.run(measure(Watch(transformer, predictor), load, args.soak))


if __name__ == "__main__":
    with in_a_line(programs.NotStarted):
        main()
