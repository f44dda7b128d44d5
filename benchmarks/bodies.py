"""The requests for the servers: the same images, in the format that each server takes."""

import base64
import functools
import json
from collections.abc import Sequence
from typing import NamedTuple

import httpx
import numpy as np
from kserve import InferInput, InferRequest
from numpy.typing import NDArray

from benchmarks.image import draw
from benchmarks.peers.model import Classifier, read
from training.pages import encode
from transformer import image

SMALL, LARGE, MANY = "one 28×28 PNG", "one 280×280 RGB PNG", "64 PNGs of 28×28"
TENSOR, CALL = "predictor, V2 binary", "predictor, V2 gRPC"
"""The cases: what a request holds, or where it goes."""
IMAGES = {SMALL: 1, LARGE: 1, MANY: 64, TENSOR: 1, CALL: 1}
"""Images per request, by case."""

Grey = NDArray[np.uint8]


class Request(NamedTuple):
    """Bodies to send in turn, and where to send them."""

    path: str
    content_type: str
    bodies: Sequence[bytes]
    port: str = "http"
    """Which port of the server: ``http``, ``inner`` or ``inner_grpc``, see ``servers.py``."""
    headers: tuple[tuple[str, str], ...] = ()


@functools.cache
def drawings() -> list[Grey]:
    """A drawing of each digit from 0 to 9: uint8 [280, 280], 255 is ink.

    The peers only shrink an image, and so misread many drawings. They read these correctly, so
    that the answers of every server can be checked.
    """
    random = np.random.default_rng(0)
    classify = Classifier()
    found = []
    for digit in range(10):
        while True:
            page = draw(random, digit, (280, 280), 24)
            pictures = [read(png(page, LARGE)), read(png(page, SMALL))]
            if all(each["digit"] == digit for each in classify(np.stack(pictures))):
                break
        found.append(page)
    return found


def png(drawing: Grey, case: str) -> bytes:
    """The drawing as a PNG: in RGB for ``LARGE``, otherwise in MNIST's format."""
    if case == LARGE:
        return encode(np.dstack([drawing] * 3))
    return encode(image.picture(drawing).pixels)


def files(case: str) -> list[list[bytes]]:
    """The image files of ten requests, each of which begins with another digit."""
    each = [png(drawing, case) for drawing in drawings()]
    return [[each[digit] for digit in digits] for digits in digits_sent(case)]


def digits_sent(case: str) -> list[list[int]]:
    """The digits in each of the ten requests."""
    return [[(start + i) % 10 for i in range(IMAGES[case])] for start in range(10)]


def body(path: str, case: str) -> Request:
    """Requests whose body is the image."""
    return Request(path, "image/png", [file for (file,) in files(case)])


def v1(path: str, case: str) -> Request:
    """Requests in KServe's V1, with images in base64."""
    return _json(
        path, [{"instances": [{"image": {"b64": text}} for text in row]} for row in _base64(case)]
    )


def plain(path: str, case: str) -> Request:
    """Requests in plain JSON, which follows no standard, with images in base64."""
    return _json(path, [{"images": row} for row in _base64(case)])


def v2(path: str, case: str) -> Request:
    """Requests in V2 as JSON, with images in base64."""
    tensor = {"name": "images", "datatype": "BYTES", "parameters": {"content_type": "base64"}}
    return _json(
        path, [{"inputs": [{**tensor, "shape": [len(row)], "data": row}]} for row in _base64(case)]
    )


def form(path: str, case: str) -> Request:
    """Requests with a multipart form, whose files are named ``images``."""
    forms = [
        httpx.Request(
            "POST",
            "http://localhost",
            files=[("images", ("digit.png", file, "image/png")) for file in row],
            headers={"content-type": "multipart/form-data; boundary=benchmark"},
        )
        for row in files(case)
    ]
    return Request(path, forms[0].headers["content-type"], [each.read() for each in forms])


def tensor(path: str) -> Request:
    """Requests for a predictor: V2 with binary tensor data."""
    requests = [_infer_request(drawing).to_rest() for drawing in drawings()]
    (length,) = {length for _, length in requests}
    header = (("Inference-Header-Content-Length", str(length)),)
    bodies = [content for content, _ in requests]
    return Request(path, "application/octet-stream", bodies, "inner", header)


def call() -> Request:
    """The same requests for gRPC."""
    bodies = [_infer_request(drawing).to_grpc().SerializeToString() for drawing in drawings()]
    return Request("", "", bodies, "inner_grpc")


def _infer_request(drawing: Grey) -> InferRequest:
    pixels = image.picture(drawing).pixels[np.newaxis]
    tensor = InferInput("images", list(pixels.shape), "UINT8")
    tensor.set_data_from_numpy(pixels)
    return InferRequest("mnist", [tensor], parameters={"binary_data_output": True})


def _base64(case: str) -> list[list[str]]:
    return [[base64.b64encode(file).decode() for file in row] for row in files(case)]


def _json(path: str, contents: list[object]) -> Request:
    return Request(path, "application/json", [json.dumps(each).encode() for each in contents])
