"""A version's reference for live images: a data set, counted as the service counts."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence

from predictor.metadata import Histogram, Reference
from serving.scores import DIGITS
from training.data import Digits
from transformer.answer import NO_DIGIT, Answer
from transformer.image import Picture
from transformer.traits import AREA_BOUNDS, CONFIDENCE_BOUNDS, INK_BOUNDS, area_ratio, ink_ratio


def refer(digits: Digits, pictures: Sequence[Picture], answer: Answer) -> Reference:
    """Count the pictures that the transformer made of ``digits``, and the answers for them.

    This follows ``transformer.metrics``: blank pictures are left out of ink and area, and answers
    without a digit are left out of confidence.
    """
    counted = Counter(answer.digit)
    inked = [picture.pixels for picture in pictures if picture.status != "no_digit"]
    confidences = zip(answer.digit, answer.confidence, strict=True)
    return Reference(
        dataset=digits.name,
        digest=digits.digest,
        images=len(digits),
        digits={str(digit): counted[digit] for digit in range(DIGITS)}
        | {"none": counted[NO_DIGIT]},
        histograms={
            "confidence": _histogram(
                (float(value) for digit, value in confidences if digit != NO_DIGIT),
                CONFIDENCE_BOUNDS,
            ),
            "ink": _histogram(map(ink_ratio, inked), INK_BOUNDS),
            "area": _histogram(map(area_ratio, inked), AREA_BOUNDS),
        },
    )


def _histogram(values: Iterable[float], bounds: Sequence[float]) -> Histogram:
    counted = Counter(bisect_left(bounds, value) for value in values)
    counts = tuple(counted[index] for index in range(len(bounds) + 1))
    return Histogram(bounds=tuple(map(float, bounds)), counts=counts)
