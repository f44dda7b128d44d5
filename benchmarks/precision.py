"""How bf16 changes the answers: ``python -m benchmarks.precision``.

Convolutions and the linear layer are computed with bf16 weights and inputs; scaling, temperature
and softmax stay in float32. Prints a Markdown table that compares each published version with its
published graph on the CPU, on MNIST's digits by the writers held out from its training. Computes on
a GPU if there is one.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from torch import fx

from benchmarks.data import MNIST
from benchmarks.flags import flags, in_a_line
from predictor.artifact import GRAPH_FILE, ArtifactError, load
from predictor.graph import read_graph
from predictor.runtime import Graph
from serving.scores import Images
from training.data import DataError, Digits
from training.measure import answer, calibration_error
from training.run import RunError, training_data

HALF = (torch.conv2d, torch.nn.functional.linear)
"""The functions computed in bf16; what lies between them is, too."""


class _Half(fx.Transformer):
    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if target not in HALF:
            return super().call_function(target, args, kwargs)
        images, *rest = args
        images = super().call_function(torch.Tensor.to, (images, torch.bfloat16), {})
        result = super().call_function(target, (images, *rest), kwargs)
        if target is torch.nn.functional.linear:
            result = super().call_function(torch.Tensor.to, (result, torch.float32), {})
        return result


def in_bf16(compute: Callable[..., Any]) -> Callable[..., Any]:
    """A function from ``read_graph``, with its weights and ``HALF`` in bf16."""
    whole = cast("functools.partial[Any]", compute)
    module = _Half(whole.func.__self__).transform()  # type: ignore[attr-defined]
    return functools.partial(module.forward, *(weight.bfloat16() for weight in whole.args))


def on(device: str, compute: Callable[..., Any]) -> Graph:
    """``compute`` on ``device``, with images and answers in main memory."""

    def graph(images: Images) -> Any:
        with torch.inference_mode():
            outputs = compute(torch.from_numpy(images).to(device))
        return [output.cpu().numpy() for output in outputs]

    return graph


def row(graph: Graph, published: Graph, digits: Digits) -> str:
    """The cells of ``graph``: how much it differs from the published one, and how good it is."""
    (expected, sure), (found, accepted) = (
        answer(each, digits.images) for each in (published, graph)
    )
    confidence, digit = found.max(dim=1)
    right = digit == digits.labels
    cells = (
        f"{(found - expected).abs().max().item():.1g}",
        f"{int((digit != expected.argmax(dim=1)).sum())}",
        f"{int((accepted != sure).sum())}",
        f"{right.double().mean().item():.2%}",
        f"{calibration_error(confidence, right):.5f}",
    )
    return " | ".join(cells)


def main() -> None:
    """Measure, and print the table."""
    flags(__doc__).parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    # As the predictor does.
    torch.backends.cudnn.allow_tf32 = False
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    print(f"torch {torch.__version__}, {name}\n")
    print(
        "| version | numbers | largest difference in a probability | different digits"
        " | different `accepted` | accuracy | calibration error |"
    )
    print("| --- | --- |" + " ---: |" * 5)
    for directory in sorted(Path("models/mnist").glob("[0-9]*")):
        model = load(directory)
        _, digits = training_data(model.metadata.training, MNIST, of=str(directory))
        compute = read_graph((directory / GRAPH_FILE).read_bytes(), device)
        for numbers, computed in (("float32", compute), ("bf16", in_bf16(compute))):
            cells = row(on(device, computed), model.graph, digits)
            print(f"| {directory.name} | {numbers} | {cells} |")


if __name__ == "__main__":
    with in_a_line(ArtifactError, DataError, RunError):
        main()
