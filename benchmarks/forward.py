"""Torch's forward pass with nothing around it: ``python -m benchmarks.forward``.

Prints how many images per second the graph of version 1 scores on one thread, 64 in a batch.
"""

import time

import torch

from benchmarks.flags import flags, in_a_line
from predictor.artifact import GRAPH_FILE
from predictor.graph import read_graph
from serving.numbers import positive
from tests.programs import ROOT

BATCH = 64


def images_per_second(seconds: float) -> float:
    """Measure for ``seconds``."""
    torch.set_num_threads(1)
    graph = read_graph((ROOT / "models/mnist/1" / GRAPH_FILE).read_bytes())
    images = torch.randint(0, 256, (BATCH, 28, 28), dtype=torch.uint8)
    with torch.inference_mode():
        graph(images)
        begin = time.perf_counter()
        passes = 0
        while time.perf_counter() < begin + seconds:
            graph(images)
            passes += 1
    return passes * BATCH / (time.perf_counter() - begin)


if __name__ == "__main__":
    with in_a_line():
        parser = flags(__doc__)
        parser.add_argument(
            "seconds", nargs="?", type=positive, default=2, help="seconds to measure (default 2)"
        )
        print(images_per_second(parser.parse_args().seconds))
