"""Has ONNX Runtime compute a ``torch.export`` program, in a third of the time that torch takes.

Torch is not needed, nor imported. The figures are in docs/decisions/runtime.md.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from predictor.program import Program
from predictor.translation import Translation, Untranslated

PART = 16
"""Images that one thread computes at a time: their numbers stay in the caches of its core."""

Array = NDArray[Any]


def open_session(program: Program, *, threads: int) -> Callable[[Array], Any]:
    """``program`` as a function of its one input, which computes on ``threads`` CPU threads.

    Raises:
        Untranslated: something in it is not known here.
    """
    translation = Translation(program)
    name = translation.input  # and not the translation, which has all weights
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3  # errors: a warning is for who wrote the program
    try:
        session = onnxruntime.InferenceSession(
            translation.model(), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # of several kinds, none of them public
        raise Untranslated(error) from error

    def compute(images: Array) -> Any:
        if threads != 1 or len(images) <= PART:
            return session.run(None, {name: images})
        starts = range(0, len(images), PART)
        parts = [session.run(None, {name: images[i : i + PART]}) for i in starts]
        return [np.concatenate(each) for each in zip(*parts, strict=True)]

    return compute
