"""TorchServe with batching: a custom handler.

https://docs.pytorch.org/serve/custom_service.html and
https://docs.pytorch.org/serve/batch_inference_with_ts.html
"""

import base64
from typing import Any

import numpy as np

from benchmarks.peers.model import Classifier, read


class Digits:
    """Reads requests whose body is an image, or JSON with image files in base64."""

    def initialize(self, context: Any) -> None:
        """Load the model."""
        self.classify = Classifier()

    def handle(self, data: list[dict[str, Any]], context: Any) -> list[list[dict[str, Any]]]:
        """One forward pass for all requests."""
        requests = [files(row["body"]) for row in data]
        answers = iter(self.classify(np.stack([read(file) for r in requests for file in r])))
        return [[next(answers) for _ in request] for request in requests]


def files(body: Any) -> list[bytes]:
    """The image files of a request."""
    if isinstance(body, dict):
        return [base64.b64decode(file) for file in body["images"]]
    return [bytes(body)]
