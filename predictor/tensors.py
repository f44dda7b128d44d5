"""Checks the images of a request, and makes one array of them."""

import math
from typing import Any

import numpy as np
from kserve import InferRequest

from predictor.metadata import INPUTS
from serving import v2
from serving.errors import InvalidInput
from serving.gate import check_instances
from serving.scores import Images

SHAPE = list(INPUTS[0].shape[1:])
EXPECTED = f"expected {'×'.join(map(str, SHAPE))} integers from 0 (background) to 255 (ink)"


def read_images(payload: dict[str, Any] | InferRequest, *, max_instances: int) -> Images:
    """The images of a request.

    Args:
        payload: V1, ``{"instances": [28×28 integers, …]}``, or V2 with one input ``images``,
            UINT8 [N, 28, 28] or [N, 1, 28, 28].
        max_instances: most images in one request.

    Returns:
        uint8 [N, 28, 28], N at least 1.

    Raises:
        InvalidInput: the payload is anything else; the message says where, and what was expected.
        TooLarge: N is over the limit.
    """
    if isinstance(payload, InferRequest):
        return _from_v2(payload, max_instances)
    return _from_v1(payload, max_instances)


def _from_v1(payload: dict[str, Any], max_instances: int) -> Images:
    instances = payload.get("instances") if isinstance(payload, dict) else None
    if not isinstance(instances, list) or not instances:
        raise InvalidInput('expected {"instances": [image, …]} with at least one image')
    check_instances(len(instances), max_instances)
    return np.stack(
        [_from_numbers(each, f"instance {i}", SHAPE) for i, each in enumerate(instances)]
    )


def _from_v2(request: InferRequest, max_instances: int) -> Images:
    tensor = v2.only_input(request, "images", "UINT8")
    shape = tensor.shape
    if shape[1:] not in (SHAPE, [1, *SHAPE]) or shape[0] < 1:
        sides = ", ".join(map(str, SHAPE))
        raise InvalidInput(
            f"input 'images': expected shape [N, {sides}] or [N, 1, {sides}], got {shape}"
        )
    check_instances(shape[0], max_instances)
    if v2.raw_data(tensor) is None:
        is_nested = any(isinstance(part, list) for part in tensor.data[:1])
        sizes = shape if is_nested else [math.prod(shape)]
        return _from_numbers(tensor.data, "input 'images'", sizes).reshape(shape[0], *SHAPE)
    try:
        # A view of the body, not a copy.
        return np.asarray(tensor.as_numpy(), np.uint8).reshape(shape[0], *SHAPE)
    except ValueError:
        raise InvalidInput(
            f"input 'images': shape {shape} needs {math.prod(shape)} bytes of data"
        ) from None


def _from_numbers(numbers: list[Any], where: str, shape: list[int]) -> Images:
    """The numbers of lists nested as ``shape`` says, as uint8 in that shape."""
    return np.frombuffer(_octets(numbers, where, shape), np.uint8).reshape(shape)


def _octets(numbers: list[Any], where: str, shape: list[int]) -> bytes:
    if not isinstance(numbers, list):
        raise InvalidInput(f"{where}: {EXPECTED}, got something else than a list")
    size, *inner = shape
    if len(numbers) != size:
        raise InvalidInput(f"{where}: {EXPECTED}, got a list of {len(numbers)} and not {size}")
    if inner:
        return b"".join(_octets(part, where, inner) for part in numbers)
    try:
        octets = bytes(numbers)  # which takes integers from 0 to 255 only
    except (TypeError, ValueError):
        octets = None
    if octets is None or bool in map(type, numbers):  # a mask is 0 and 255, not false and true
        raise InvalidInput(f"{where}: {EXPECTED}, got something else among the values")
    return octets
