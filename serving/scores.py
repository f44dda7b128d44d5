"""What the model says about a batch of images."""

import re
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

LABELS = tuple("0123456789")
"""The names of the classes, in the order of the probabilities."""
DIGITS = len(LABELS)
"""How many the model tells apart."""
VERSION = re.compile(r"[0-9A-Za-z._-]{1,64}")
"""Allowed names of a version, which appear in headers, log lines and labels."""
Images = NDArray[np.uint8]
"""uint8 [N, 28, 28], 0 is background, 255 is ink."""


class Scores(NamedTuple):
    """The model's answer for N images."""

    probabilities: NDArray[np.float32]
    """float32 [N, 10], calibrated; each row sums to 1."""
    accepted: NDArray[np.bool_]
    """bool [N]: whether the model is sure that the image is one of the digits."""
    model_version: str

    def rows(self, start: int, stop: int) -> "Scores":
        """The answer for images ``start`` to ``stop`` (exclusive)."""
        return Scores(self.probabilities[start:stop], self.accepted[start:stop], self.model_version)
