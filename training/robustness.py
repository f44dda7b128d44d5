"""Disturbances of digits in MNIST's format, to measure how well the model tolerates them."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

Images = NDArray[np.uint8]
"""uint8 [N, 28, 28], 255 = ink."""

FINE = 4
"""Strokes are changed at this multiple of the resolution, so in steps of a quarter pixel."""


class Disturbance(NamedTuple):
    """A way to make digits harder to read, at several levels."""

    unit: str
    levels: Sequence[float]
    """From one extreme to the other; one of them is ``neutral``."""
    neutral: float
    """The level that changes nothing."""
    change: Callable[[Images, float], Images]
    """(images, level) → images, both uint8 [N, 28, 28]."""


def rotate(images: Images, degrees: float) -> Images:
    """Turn by ``degrees`` about the middle, counter-clockwise."""
    middle = (images.shape[2] - 1) / 2, (images.shape[1] - 1) / 2
    return _warped(images, cv2.getRotationMatrix2D(middle, degrees, 1))


def shift(images: Images, pixels: float) -> Images:
    """Move by ``pixels`` to the right and down."""
    return _warped(images, np.array([[1, 0, pixels], [0, 1, pixels]], np.float64))


def blur(images: Images, sigma: float) -> Images:
    """Blur with a Gaussian of the standard deviation ``sigma``, in pixels."""
    if sigma == 0:  # for OpenCV this means to choose one
        return images
    return _each(images, lambda image: cv2.GaussianBlur(image, (0, 0), sigma))


def add_noise(images: Images, deviation: float) -> Images:
    """Add Gaussian noise of a standard deviation in grey levels of 255; always the same noise."""
    noise = np.random.default_rng(0).standard_normal(images.shape, np.float32)
    return np.clip(np.rint(images + deviation * noise), 0, 255).astype(np.uint8)


def change_stroke(images: Images, pixels: float) -> Images:
    """Make strokes wider by ``pixels`` (dilation), or thinner if negative (erosion)."""
    size = round(abs(pixels) * FINE) + 1
    pen = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))
    operation = cv2.MORPH_DILATE if pixels > 0 else cv2.MORPH_ERODE
    small = images.shape[2], images.shape[1]

    def changed(image: Images) -> NDArray[np.generic]:
        fine = np.asarray(image.repeat(FINE, axis=0).repeat(FINE, axis=1))
        fine = np.asarray(cv2.morphologyEx(fine, operation, pen))
        return np.asarray(cv2.resize(fine, small, interpolation=cv2.INTER_AREA))

    return _each(images, changed)


def fade(images: Images, share: float) -> Images:
    """Scale every pixel by ``share``, so that ink turns grey."""
    return np.asarray(np.rint(images * share), np.uint8)


DISTURBANCES = {
    "rotation": Disturbance("degrees", (-45, -30, -15, 0, 15, 30, 45), 0, rotate),
    "shift": Disturbance("pixels right and down", (-4, -3, -2, -1, 0, 1, 2, 3, 4), 0, shift),
    "blur": Disturbance("pixels, sigma", (0, 0.5, 1, 1.5, 2, 3), 0, blur),
    "noise": Disturbance("grey levels, sigma", (0, 25, 50, 75, 100, 125), 0, add_noise),
    "stroke width": Disturbance("pixels more", (-2, -1.5, -1, 0, 1, 2, 3), 0, change_stroke),
    "contrast": Disturbance("share of the ink", (1, 0.8, 0.6, 0.4, 0.2, 0.1), 1, fade),
}


def measure(images: Images, accuracy: Callable[[Images], float]) -> dict[str, JsonValue]:
    """Return the accuracy on the images, by disturbance and level."""
    return {
        name: {f"{level:g}": accuracy(of.change(images, level)) for level in of.levels}
        for name, of in DISTURBANCES.items()
    }


def _warped(images: Images, matrix: NDArray[np.generic]) -> Images:
    size = images.shape[2], images.shape[1]
    return _each(images, lambda image: cv2.warpAffine(image, np.asarray(matrix), size))


def _each(images: Images, change: Callable[[Images], NDArray[np.generic]]) -> Images:
    return np.stack([np.asarray(change(image), np.uint8) for image in images])
