"""The answer for the caller: the digit, how sure the model is, and what kind of picture it was."""

import base64
import io
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from serving.scores import Scores
from transformer.image import Picture

NO_DIGIT = -1
"""``digit`` of an image without one; in V1 it is ``null``."""


class Reading(NamedTuple):
    """The digits that the model reads in N pictures, named once for all requests of a call."""

    digit: NDArray[np.int64]
    """int64 [N], the most probable digits."""
    confidence: NDArray[np.float32]
    """float32 [N], their probabilities."""
    scores: Scores

    @classmethod
    def of(cls, scores: Scores) -> "Reading":
        """Name the digits."""
        return cls(scores.probabilities.argmax(1), scores.probabilities.max(1), scores)

    def rows(self, start: int, stop: int) -> "Reading":
        """What it reads in pictures ``start`` to ``stop`` (exclusive)."""
        return Reading(
            self.digit[start:stop], self.confidence[start:stop], self.scores.rows(start, stop)
        )


class Answer(NamedTuple):
    """The answer for N images; V2's tensors have the names of these fields."""

    digit: NDArray[np.int64]
    """int64 [N], 0–9 or ``NO_DIGIT``."""
    confidence: NDArray[np.float32]
    """float32 [N], the calibrated probability of that digit; 0 where there is none."""
    probabilities: NDArray[np.float32]
    """float32 [N, 10]; 0 where there is no digit."""
    status: list[str]
    """N times ``ok``, ``uncertain``, ``no_digit`` or ``multiple``."""


def make_answer(pictures: list[Picture], reading: Reading) -> Answer:
    """Combine pictures and reading: ``no_digit`` and ``multiple`` stand whatever the model says."""
    digit, confidence, scores = reading
    statuses = [
        "uncertain" if picture.status == "ok" and not accepted else picture.status
        for picture, accepted in zip(pictures, scores.accepted.tolist(), strict=True)
    ]
    probabilities = scores.probabilities
    if "no_digit" in statuses:
        is_blank = np.array([status == "no_digit" for status in statuses])
        digit = np.where(is_blank, NO_DIGIT, digit)
        confidence = np.where(is_blank, np.float32(0), confidence)
        probabilities = np.where(is_blank[:, None], np.float32(0), probabilities)
    return Answer(digit, confidence, probabilities, statuses)


def to_predictions(answer: Answer) -> list[dict[str, Any]]:
    """The answer as V1 predictions, one object per image."""
    return [
        {
            "digit": None if digit == NO_DIGIT else digit,
            "confidence": confidence,
            "probabilities": probabilities,
            "status": status,
        }
        for digit, confidence, probabilities, status in zip(
            answer.digit.tolist(),
            answer.confidence,
            answer.probabilities,
            answer.status,
            strict=True,
        )
    ]


def show(picture: Picture) -> dict[str, str]:
    """The picture as a PNG in ``{"b64": "…"}``, the form in which V1 requests send images."""
    png = io.BytesIO()
    Image.fromarray(picture.pixels).save(png, "PNG")
    return {"b64": base64.b64encode(png.getvalue()).decode()}
