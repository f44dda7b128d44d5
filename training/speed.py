"""How long one graph takes, compared with another."""

import statistics
import time

from predictor.runtime import Graph
from serving.scores import Images

ROUNDS = 40
"""Pairs of runs, for each batch size, whose median is the ratio of times."""
BATCH = 64
"""The largest batch of the predictor."""


def time_ratio(production: Graph, candidate: Graph, images: Images) -> float:
    """Return the candidate's time per image divided by production's.

    The two run in turn, so that other load on the machine affects both. It is measured with one
    image and with a batch; the larger of the two medians counts.

    Args:
        production: the graph in use.
        candidate: the graph that may replace it.
        images: uint8 [N, 28, 28]; at most 64 are used.
    """
    return max(_median_ratio(production, candidate, images[:size]) for size in (1, BATCH))


def _median_ratio(production: Graph, candidate: Graph, images: Images) -> float:
    _seconds(production, images), _seconds(candidate, images)  # the first runs are slower
    ratios = []
    for turn in range(ROUNDS):
        if turn % 2:
            new, old = _seconds(candidate, images), _seconds(production, images)
        else:
            old, new = _seconds(production, images), _seconds(candidate, images)
        ratios.append(new / old)
    return statistics.median(ratios)


def _seconds(graph: Graph, images: Images) -> float:
    start = time.perf_counter()
    graph(images)
    return time.perf_counter() - start
