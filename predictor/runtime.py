"""What computes a graph: ONNX Runtime, or torch if there is an operator that only torch knows."""

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from predictor.metadata import Metadata
from predictor.program import read_program
from predictor.session import open_session
from predictor.translation import Untranslated
from serving.scores import Images

Graph = Callable[[Images], tuple[NDArray[np.float32], NDArray[np.bool_]]]
"""``images`` uint8 [N, 28, 28] → ``probabilities`` float32 [N, 10], ``accepted`` bool [N]."""

DEVICES = ("cpu", "cuda")
"""What may compute it."""
FEW, MULTIPLE = 8, 4
"""A batch of more than ``FEW`` images is filled up with blank ones to a multiple of ``MULTIPLE``:
torch prepares for each size that it meets, and keeps up to half a megabyte for it."""

log = logging.getLogger(__name__)


def open_graph(content: bytes, *, device: str = "cpu", threads: int = 0) -> Graph:
    """The graph in ``content``, a ``.pt2`` archive, as a function.

    Args:
        content: what ``torch.export`` has saved.
        device: one of ``DEVICES``; inputs and outputs are in main memory with either.
        threads: of ONNX Runtime, or 0 for one per core; torch's are set for the process.

    Raises:
        ValueError: the graph has something that is not supported here; the message names it.
    """
    if device == "cpu":
        try:
            return open_session(read_program(content), threads=threads)
        except Untranslated as reason:
            log.info("torch computes the graph; ONNX Runtime does not know %s", reason)
    return _in_torch(content, device)


def check(graph: Graph, metadata: Metadata) -> None:
    """Run zeros through the graph; raise ValueError if the outputs are not as declared, or NaN."""
    datatypes = {"UINT8": np.uint8, "FP32": np.float32, "BOOL": np.bool_}
    for batch in (1, 3):  # two sizes, in case the export has fixed one
        inputs: list[Any] = [
            np.zeros(spec.shape_for(batch), datatypes[spec.datatype]) for spec in metadata.inputs
        ]
        answers = graph(*inputs)
        found = [(output.dtype, output.shape) for output in answers]
        expected = [
            (np.dtype(datatypes[spec.datatype]), spec.shape_for(batch)) for spec in metadata.outputs
        ]
        if found != expected:
            raise ValueError(f"declared are outputs {expected}, found {found}")
        # As of weights that are NaN: the transformer would refuse each answer.
        if not all(np.isfinite(output).all() for output in answers):
            raise ValueError("of a blank picture it gives numbers that are not finite")


def _in_torch(content: bytes, device: str) -> Graph:
    import torch

    from predictor.graph import read_graph

    compute: Callable[..., Any] = read_graph(content, device)
    if device == "cuda":
        from predictor.replay import Replay

        # TF32 keeps 10 bits: the answers would differ from those evaluated and calibrated.
        torch.backends.cudnn.allow_tf32 = False
        compute = Replay(compute)

    def graph(images: Images) -> Any:
        count = len(images)
        size = count if count <= FEW else count + -count % MULTIPLE
        # A copy: torch warns of memory that may not be written to, as that of a request's body.
        batch = np.zeros((size, *images.shape[1:]), images.dtype)
        batch[:count] = images
        with torch.inference_mode():
            outputs = compute(torch.from_numpy(batch))
        return [output.numpy()[:count] for output in outputs]

    return graph
