"""The answer for the caller: the digit, how sure the model is, and what kind of picture it was."""

import base64
import io
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from serving.scores import DIGITS, Scores
from transformer.image import Picture

NO_DIGIT = -1
"""``digit`` of an image without one; in V1 it is ``null``."""


class Reading(NamedTuple):
    """What the model reads in N pictures, one item for each.

    They are lists, made once for all requests of a call: to slice and iterate over arrays would
    take several times as long.
    """

    digit: list[int]
    """The most probable digits."""
    confidence: list[np.float32]
    """Their probabilities."""
    probabilities: list[NDArray[np.float32]]
    """float32 [10] each."""
    accepted: list[bool]
    """Whether the model is sure that the picture is one of the digits."""
    model_version: str

    @classmethod
    def of(cls, scores: Scores) -> "Reading":
        """Name the digits."""
        probabilities = scores.probabilities
        return cls(
            probabilities.argmax(1).tolist(),
            list(probabilities.max(1)),
            list(probabilities),
            scores.accepted.tolist(),
            scores.model_version,
        )

    def rows(self, start: int, stop: int) -> "Reading":
        """What it reads in pictures ``start`` to ``stop`` (exclusive)."""
        digit, confidence, probabilities, accepted, model_version = self
        return Reading(
            digit[start:stop],
            confidence[start:stop],
            probabilities[start:stop],
            accepted[start:stop],
            model_version,
        )


class Answer(NamedTuple):
    """The answer for N images, one item for each."""

    digit: list[int]
    """0–9 or ``NO_DIGIT``."""
    confidence: list[np.float32]
    """The calibrated probability of that digit; 0 where there is none."""
    probabilities: list[NDArray[np.float32]]
    """float32 [10] each; 0 where there is no digit."""
    status: list[str]
    """``ok``, ``uncertain``, ``no_digit`` or ``multiple``."""


def make_answer(pictures: list[Picture], reading: Reading) -> Answer:
    """Combine pictures and reading: ``no_digit`` and ``multiple`` stand whatever the model says."""
    statuses: list[str] = [
        "uncertain" if picture.status == "ok" and not accepted else picture.status
        for picture, accepted in zip(pictures, reading.accepted, strict=True)
    ]
    answer = Answer(reading.digit, reading.confidence, reading.probabilities, statuses)
    if "no_digit" not in statuses:
        return answer
    blank = (NO_DIGIT, np.float32(0), np.zeros(DIGITS, np.float32), "no_digit")
    images = [blank if image[-1] == "no_digit" else image for image in zip(*answer, strict=True)]
    return Answer(*map(list, zip(*images, strict=True)))


def to_predictions(answer: Answer) -> list[dict[str, Any]]:
    """The answer as V1 predictions, one object per image."""
    return [
        {
            "digit": None if digit == NO_DIGIT else digit,
            "confidence": confidence,
            "probabilities": probabilities,
            "status": status,
        }
        for digit, confidence, probabilities, status in zip(*answer, strict=True)
    ]


def to_tensors(answer: Answer) -> dict[str, NDArray[Any]]:
    """The answer as V2's outputs, see ``Transformer.get_output_types``."""
    return {
        "digit": np.array(answer.digit, np.int64),
        "confidence": np.array(answer.confidence, np.float32),
        "probabilities": np.array(answer.probabilities, np.float32),
        "status": np.array(answer.status, object),
    }


def show(picture: Picture) -> dict[str, str]:
    """The picture as a PNG in ``{"b64": "…"}``, the form in which V1 requests send images."""
    png = io.BytesIO()
    Image.fromarray(picture.pixels).save(png, "PNG")
    return {"b64": base64.b64encode(png.getvalue()).decode()}
