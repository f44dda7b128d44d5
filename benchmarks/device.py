"""Compares the predictor's graph on a GPU with the CPU: ``python -m benchmarks.device``.

For each published version and number of images in a batch: the images per second that one thread
computes, from memory to memory as in the predictor, on the CPU, on the GPU with its kernels
launched one by one, and with the replay of ``predictor/replay.py``. Then how much the answers
differ from the CPU's, with TF32 too.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.artifact import images_per_second
from benchmarks.flags import flags, in_a_line
from predictor.artifact import GRAPH_FILE, ArtifactError, load
from predictor.graph import read_graph
from predictor.runtime import Graph
from serving.scores import Images
from tests.synthetic import digits

BATCHES = (1, 8, 64, 256)
ROUNDS = 50


def launched(directory: Path) -> Graph:
    """The graph on the GPU, its kernels launched one by one."""
    compute = read_graph((directory / GRAPH_FILE).read_bytes(), "cuda")

    def graph(images: Images) -> Any:
        with torch.inference_mode():
            outputs = compute(torch.from_numpy(images).cuda())
        return [output.cpu().numpy() for output in outputs]

    return graph


def compare(ours: Graph, theirs: Graph, images: Images) -> str:
    """How much the answers of two graphs differ, in words."""
    (expected, sure), (found, accepted) = ours(images), theirs(images)
    difference = np.abs(expected - found).max()
    changed = int((expected.argmax(1) != found.argmax(1)).sum() + (sure != accepted).sum())
    return f"up to {difference:.1g} in a probability, {changed} of {len(images)} answers"


def main() -> None:
    """Print a Markdown table, and the differences of each version."""
    flags(__doc__).parse_args()
    if not torch.cuda.is_available():
        sys.exit("there is no GPU here, or torch has no CUDA")
    images = digits(4096, seed=1).images.numpy()
    differences = []
    print(f"torch {torch.__version__}, {torch.cuda.get_device_name()}; images/s\n")
    print(
        "| version | images | CPU, one thread | GPU, launched | GPU, replayed | replayed/launched |"
    )
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for directory in sorted(Path("models/mnist").glob("[0-9]*")):
        ours, theirs = load(directory, threads=1).graph, load(directory, device="cuda").graph
        single = launched(directory)
        for batch in BATCHES:
            graphs = {"ours": ours, "launched": single, "replayed": theirs}
            rates = images_per_second(graphs, batch, ROUNDS)
            cells = " | ".join(f"{rate:,.0f}" for rate in rates.values())
            ratio = rates["replayed"] / rates["launched"]
            print(f"| {directory.name} | {batch} | {cells} | {ratio:.1f} |")
        differences.append(f"version {directory.name}: {compare(ours, theirs, images)}")
        torch.backends.cudnn.allow_tf32 = True
        differences.append(f"the same with TF32: {compare(ours, launched(directory), images)}")
    print("\n" + "\n".join(differences))


if __name__ == "__main__":
    with in_a_line(ArtifactError):
        main()
