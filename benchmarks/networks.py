"""What each network costs: ``python -m benchmarks.networks`` prints a Markdown table.

The graphs are those that would be published, but with random weights, on one thread. The networks
take turns in each round; the times are medians per image, and the ratio is to ``plain``.
"""

import statistics
import time

import torch

from benchmarks.flags import flags, in_a_line
from predictor.graph import read_graph
from training.network import NETWORKS, Served, export, fold, multiply_adds, network

ROUNDS = 60
BATCHES = 1, 16


def main() -> None:
    """Measure, and print the table."""
    flags(__doc__).parse_args()
    torch.set_num_threads(1)
    graphs = {
        name: read_graph(export(Served(fold(network(name)), temperature=1.0, threshold=0.5)))
        for name in NETWORKS
    }
    times: dict[tuple[str, int], list[float]] = {(n, b): [] for n in graphs for b in BATCHES}
    with torch.inference_mode():
        for _ in range(ROUNDS):
            for (name, batch), taken in times.items():
                images = torch.randint(0, 256, (batch, 28, 28), dtype=torch.uint8)
                start = time.perf_counter()
                graphs[name](images)
                taken.append((time.perf_counter() - start) / batch)
    print("| network | multiply-adds | µs alone | ratio | µs of 16 | ratio |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for name in graphs:
        cells = [f"`{name}`", f"{multiply_adds(network(name)):,}"]
        for batch in BATCHES:
            median = statistics.median(times[name, batch])
            cells += [
                f"{median * 1e6:,.0f}",
                f"{median / statistics.median(times['plain', batch]):.2f}",
            ]
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    with in_a_line():
        main()
