"""The image files of a request, whatever its form."""

import binascii
from typing import Any, NamedTuple, TypeAlias

from kserve import InferRequest

from serving import v2
from serving.errors import InvalidInput, NotAnImage
from serving.gate import check_instances

FORMS = 'expected {"instances": [{"image": {"b64": "…"}}, …]} with at least one image'
MISSENT = (
    "not an image but JSON, whose content type must be application/json, or a form, which goes to "
    "/predict"
)


class Upload(NamedTuple):
    """Files of an upload form."""

    files: list[bytes]
    show_picture: bool
    """Whether the answer shows what the model saw."""


Payload: TypeAlias = Any
"""What a request holds: V1 JSON (any value), an image file (``bytes``), an ``Upload``, or an
``InferRequest``."""


def read_files(payload: Payload, *, max_instances: int) -> list[bytes]:
    """The image files in ``payload``, in order, at least one; not yet decoded.

    Args:
        payload: V1 JSON ``{"instances": [{"image": {"b64": "…"}}, …]}``; an image file; an upload;
            or V2 with one input ``images``, BYTES [N] (base64 text if it is JSON).
        max_instances: most images in one request.

    Raises:
        InvalidInput: the payload is anything else; the message says where, and what was expected.
        TooLarge: more than ``max_instances`` images.
        NotAnImage: JSON or a form is sent as an image file.
    """
    if isinstance(payload, bytes):
        if payload.startswith((b"{", b"[", b"--")):
            raise NotAnImage(MISSENT)
        return [payload]
    if isinstance(payload, InferRequest):
        files = _from_v2(payload, max_instances)
    elif isinstance(payload, Upload):
        files = payload.files
    else:
        files = _instances(payload)
    check_instances(len(files), max_instances)
    return [_to_bytes(file, i) for i, file in enumerate(files)]


def _instances(payload: Any) -> list[Any]:
    instances = payload.get("instances") if isinstance(payload, dict) else None
    if not isinstance(instances, list) or not instances:
        raise InvalidInput(FORMS)
    return [_base64_text(instance, i) for i, instance in enumerate(instances)]


def _base64_text(instance: Any, i: int) -> str:
    try:
        text = instance["image"]["b64"]
    except (KeyError, TypeError, IndexError):
        text = None
    if not isinstance(text, str):
        raise InvalidInput(
            f'instance {i}: expected {{"image": {{"b64": "…"}}}}, an image file in base64'
        )
    return text


def _from_v2(request: InferRequest, max_instances: int) -> list[Any]:
    tensor = v2.only_input(request, "images", "BYTES")
    shape = tensor.shape
    if len(shape) != 1 or shape[0] < 1:
        raise InvalidInput(f"input 'images': expected shape [N] with N at least 1, got {shape}")
    check_instances(shape[0], max_instances)
    raw = v2.raw_data(tensor)
    files = list(tensor.data or ()) if raw is None else _unpack(raw, shape[0])
    if len(files) != shape[0]:
        raise InvalidInput(f"input 'images': the data do not hold the {shape[0]} items of 'shape'")
    return files


def _unpack(raw: bytes, count: int) -> list[bytes]:
    """The items of a BYTES tensor, each after its length; empty if the lengths do not add up."""
    files = []
    position = 0
    for _ in range(count):
        start = position + 4
        position = start + int.from_bytes(raw[position:start], "little")
        files.append(raw[start:position])
    return files if position == len(raw) else []


def _to_bytes(file: Any, i: int) -> bytes:
    try:
        return file if isinstance(file, bytes) else binascii.a2b_base64(file, strict_mode=True)
    except (TypeError, ValueError):  # not text; not base64, or not ASCII
        raise InvalidInput(
            f"instance {i}: expected the file as base64 text (A-Z a-z 0-9 + / and = at its end), "
            "without line breaks, and without 'data:…' in front"
        ) from None
