"""Makes ``docs/benchmark.md`` and its plots from ``build/bench/results.json``.

``python -m benchmarks.report`` makes them again without measuring.
"""

import json
import statistics
import sys
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from benchmarks import charts
from benchmarks.bodies import CALL, IMAGES, LARGE, MANY, SMALL, TENSOR
from benchmarks.flags import flags, in_a_line
from benchmarks.servers import VENVS
from tests.programs import ROOT

RESULTS = VENVS / "results.json"
PAGE, TEMPLATE = ROOT / "docs/benchmark.md", ROOT / "benchmarks/page.md"
OURS, REST, GRPC = "ours", "KServe's pair, REST", "KServe's pair, gRPC"
FASTAPI, ASGI = "empty FastAPI endpoint", "empty ASGI app"
CLIENTS = (1, 8, 32, 64)
SINGLE, PAIRS = 1, 2
"""Processes that a request passes through."""
RATE, P50, P99, OTHERS = 4, 5, 6, 7
"""Columns in a row of answers, after round, server, case and clients."""

Results = dict[str, Any]


class Goal(NamedTuple):
    """A ratio to another server in each round, and its limit."""

    text: str
    limit: float
    least: bool
    """Whether the ratio should be at least ``limit``; otherwise, at most."""
    ratios: Sequence[float]

    def row(self) -> str:
        """The goal as a row of the table."""
        median = statistics.median(self.ratios)
        met = median >= self.limit if self.least else median <= self.limit
        spread = f"{min(self.ratios):.2f}–{max(self.ratios):.2f}"
        sign = "≥" if self.least else "≤"
        verdict = "met" if met else "**missed**"
        return f"| {self.text} | {sign} {self.limit:g} | {median:.2f} ({spread}) | {verdict} |"


class Report:
    """Medians and ratios of the results."""

    def __init__(self, results: Results) -> None:
        self.results = results
        self.processes: dict[str, int] = results["processes"]
        self.names = [name for name in self.processes if name not in results["missing"]]
        """In the order of the table, without those that failed in any round."""
        self.answers = [row for row in results["answers"] if row[1] in self.names]
        self.memory = {name: results["memory"][name] for name in self.names}
        self.start = {name: results["start"][name] for name in self.names}

    def values(self, name: str, case: str, clients: int, column: int = RATE) -> list[float]:
        """A figure of a server in each round."""
        key = [name, case, clients]
        return [row[column] for row in self.answers if row[1:4] == key]

    def median(self, name: str, case: str, clients: int, column: int = RATE) -> float:
        """Its median over the rounds; 0 if it was not measured."""
        return statistics.median(self.values(name, case, clients, column) or [0])

    def peers(self, processes: Iterable[int]) -> list[str]:
        """The other servers of the model, with so many processes."""
        return [
            name
            for name in self.names
            if name not in (OURS, FASTAPI, ASGI) and self.processes[name] in processes
        ]

    def best_peer(self, case: str, processes: Iterable[int] = (SINGLE, PAIRS)) -> str:
        """The peer with the most answers per second to 32 clients."""
        return max(self.peers(processes), key=lambda name: self.median(name, case, 32))

    def quickest(self, processes: int) -> str:
        """The peer that answers a single client fastest, at the median."""
        return min(self.peers([processes]), key=lambda name: self.median(name, SMALL, 1, P50))

    def goals(self) -> list[Goal]:
        """All goals, met or not, except those without measurements."""

        def rate(case: str, other: str, limit: float, among: str = "") -> Goal:
            found = ratios(self.values(OURS, case, 32), self.values(other, case, 32))
            return Goal(f"{case}: requests/s, to {other}{among}", limit, True, found)

        def latency(other: str, limit: float) -> Goal:
            found = ratios(self.values(OURS, SMALL, 1, P50), self.values(other, SMALL, 1, P50))
            return Goal(f"{SMALL}, one client: p50, to {other}", limit, False, found)

        single = self.best_peer(SMALL, [SINGLE])
        images = [IMAGES[MANY] * each for each in self.values(OURS, MANY, 8)]
        goals = [
            rate(SMALL, REST, 20),
            rate(SMALL, GRPC, 12),
            rate(SMALL, single, 3, ", the best with one process"),
            rate(SMALL, FASTAPI, 0.5),
            rate(LARGE, self.best_peer(LARGE), 1.7, ", the best peer"),
            Goal(
                f"{MANY}: images/s, to torch's forward pass of 64",
                0.6,
                True,
                ratios(images, self.results["forward"]),
            ),
            rate(TENSOR, REST, 4),
            rate(CALL, REST, 4),
            latency(self.quickest(SINGLE), 1.3),
            latency(self.quickest(PAIRS), 1),
            Goal(
                "start to the first answer, to a bare process with torch",
                1.15,
                False,
                ratios(self.start[OURS], self.results["bare"]),
            ),
            Goal(
                f"memory, to {REST}",
                0.8,
                False,
                ratios(self.memory[OURS], self.memory.get(REST, [])),
            ),
        ]
        return [goal for goal in goals if goal.ratios]

    def compared(self) -> list[str]:
        """The table of all servers."""
        base = self.median(OURS, SMALL, 32)
        rows = [
            "| server | processes | requests/s | ours is | p50, ms | p99, ms | one client, p50, ms "
            "| 280×280, requests/s | 64 images, images/s | memory, MB | start, s |",
            "| --- |" + " ---: |" * 10,
        ]
        for name in self.names:
            rate = self.median(name, SMALL, 32)
            figures = [
                f"{rate:,.0f}",
                f"× {base / rate:.1f}",
                f"{self.median(name, SMALL, 32, P50):.1f}",
                f"{self.median(name, SMALL, 32, P99):.1f}",
                f"{self.median(name, SMALL, 1, P50):.2f}",
                or_dash(self.median(name, LARGE, 32)),
                or_dash(IMAGES[MANY] * self.median(name, MANY, 8)),
                f"{statistics.median(self.memory[name]):.0f}",
                f"{statistics.median(self.start[name]):.2f}",
            ]
            rows.append(f"| {name} | {self.processes[name]} | {' | '.join(figures)} |")
        return rows

    def few(self) -> list[str]:
        """The servers that are measured with more numbers of clients."""
        best = self.best_peer(SMALL), self.best_peer(SMALL, [SINGLE])
        return [name for name in self.names if name in (OURS, REST, *best)]

    def grid(self) -> list[str]:
        """The table of these few, by number of clients."""
        rows = ["| sent | server | clients | requests/s | p50, ms | p99, ms |"]
        rows.append("| --- | --- | ---: | ---: | ---: | ---: |")
        for case in IMAGES:
            for name in self.few():
                for clients in CLIENTS:
                    if self.values(name, case, clients):
                        rate, p50, p99 = (
                            self.median(name, case, clients, column) for column in (RATE, P50, P99)
                        )
                        rows.append(
                            f"| {case} | {name} | {clients} | {rate:,.0f} | {p50:.2f} | {p99:.2f} |"
                        )
        return rows


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """The ratios of each round; none if the other server is missing."""
    return [a / b for a, b in zip(ours, theirs, strict=True)] if theirs else []


def or_dash(value: float) -> str:
    """The number, or a dash in place of 0."""
    return f"{value:,.0f}" if value else "–"


def draw(report: Report) -> None:
    """Draw the two plots of the page."""

    def everyone(case: str, clients: int, column: int) -> dict[str, float]:
        return {name: report.median(name, case, clients, column) for name in report.names}

    def each(values: dict[str, list[float]]) -> dict[str, float]:
        return {name: statistics.median(found) for name, found in values.items()}

    charts.bars(
        PAGE.with_name("benchmark-servers.png"),
        {
            "requests/s, 32 clients": everyone(SMALL, 32, RATE),
            "p50, ms, 32 clients": everyone(SMALL, 32, P50),
            "p99, ms, 32 clients": everyone(SMALL, 32, P99),
            "memory, MB": each(report.memory),
            "start, s": each(report.start),
        },
        ours=OURS,
        limits=(FASTAPI, ASGI),
    )
    charts.lines(
        PAGE.with_name("benchmark-clients.png"),
        {
            title: {
                name: {clients: report.median(name, SMALL, clients, column) for clients in CLIENTS}
                for name in report.few()
            }
            for title, column in (("requests/s", RATE), ("p50, ms", P50), ("p99, ms", P99))
        },
        "clients",
    )


def write(results: Results) -> None:
    """Write the page and its plots."""
    report = Report(results)
    draw(report)
    gone = "".join(f"\n- {name}: {why.splitlines()[0]}" for name, why in results["missing"].items())
    page = TEMPLATE.read_text(encoding="utf-8").format(
        **results["about"],
        rounds=len(results["bare"]),
        goals="\n".join(goal.row() for goal in report.goals()),
        compared="\n".join(report.compared()),
        forward=f"{statistics.median(results['forward']):,.0f}",
        bare=f"{statistics.median(results['bare']):.2f}",
        others=f"{statistics.median(row[OTHERS] for row in report.answers):.0%}",
        missing=f"\nMissing here:\n{gone}\n" if gone else "",
        grid="\n".join(report.grid()),
    )
    PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    with in_a_line():
        flags(__doc__).parse_args()
        if not RESULTS.exists():
            sys.exit(f"{RESULTS} is missing; run first: python -m benchmarks.bench")
        write(json.loads(RESULTS.read_text(encoding="utf-8")))
