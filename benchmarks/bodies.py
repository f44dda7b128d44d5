"""The requests that are sent to every server: the same images, in the form that each takes."""

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
"""What is sent."""
IMAGES = {SMALL: 1, LARGE: 1, MANY: 64, TENSOR: 1, CALL: 1}
"""Images in a request."""

Grey = NDArray[np.uint8]


class Request(NamedTuple):
    """Bodies that are sent in turn, and where to."""

    path: str
    content_type: str
    bodies: Sequence[bytes]
    port: str = "http"
    """Which of the server's: ``http``, ``inner`` or ``inner_grpc``, see ``servers.py``."""
    headers: tuple[tuple[str, str], ...] = ()


@functools.cache
def drawings() -> list[Grey]:
    """A drawing of each digit, in order: [280, 280], 255 is ink.

    Peers only shrink an image, so that they read many drawings wrong. These are read right by them
    too, and so every server's answers can be checked.
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
    """The drawing as a file: in colours, or in MNIST's format."""
    if case == LARGE:
        return encode(np.dstack([drawing] * 3))
    return encode(image.picture(drawing).pixels)


def files(case: str) -> list[list[bytes]]:
    """The image files of the requests: ten requests, each begins with another digit."""
    each = [png(drawing, case) for drawing in drawings()]
    return [[each[digit] for digit in digits] for digits in digits_sent(case)]


def digits_sent(case: str) -> list[list[int]]:
    """The digits in the requests."""
    return [[(start + i) % 10 for i in range(IMAGES[case])] for start in range(10)]


def body(path: str, case: str) -> Request:
    """The image is the body."""
    return Request(path, "image/png", [file for (file,) in files(case)])


def v1(path: str, case: str) -> Request:
    """KServe's V1."""
    return _json(
        path, [{"instances": [{"image": {"b64": text}} for text in row]} for row in _base64(case)]
    )


def plain(path: str, case: str) -> Request:
    """JSON without a standard."""
    return _json(path, [{"images": row} for row in _base64(case)])


def v2(path: str, case: str) -> Request:
    """V2 as JSON, images in base64."""
    tensor = {"name": "images", "datatype": "BYTES", "parameters": {"content_type": "base64"}}
    return _json(
        path, [{"inputs": [{**tensor, "shape": [len(row)], "data": row}]} for row in _base64(case)]
    )


def form(path: str, case: str) -> Request:
    """A multipart form with the files ``images``."""
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
    """V2 with binary data: what the predictor takes."""
    requests = [_infer_request(drawing).to_rest() for drawing in drawings()]
    (length,) = {length for _, length in requests}
    header = (("Inference-Header-Content-Length", str(length)),)
    bodies = [content for content, _ in requests]
    return Request(path, "application/octet-stream", bodies, "inner", header)


def call() -> Request:
    """The same for gRPC."""
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
