"""The features of pictures and answers that are counted to detect drift, and their buckets.

The evaluation counts the same in the validation set, and a version has that as its reference.
"""

import cv2

from transformer.decode import Grey

CONFIDENCE_BOUNDS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 0.999, 1)
INK_BOUNDS = tuple(each / 40 for each in range(1, 13))
AREA_BOUNDS = tuple(each / 20 for each in range(1, 12))


def ink_ratio(pixels: Grey) -> float:
    """The mean brightness of a picture as the model sees it: 0 is blank, 1 is all ink."""
    return cv2.mean(pixels)[0] / 255


def area_ratio(pixels: Grey) -> float:
    """The share of a picture's pixels that have any ink."""
    return cv2.countNonZero(pixels) / pixels.size
