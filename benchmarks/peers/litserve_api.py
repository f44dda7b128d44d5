"""LitServe with batching, as in https://lightning.ai/docs/litserve/features/batching."""

import base64
from typing import Any

import litserve
import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.model import Classifier, read, setting

Images = NDArray[np.uint8]
Answers = list[dict[str, Any]]


class Digits(litserve.LitAPI):  # type: ignore[misc]
    """Reads image files in base64, one or several per request."""

    def setup(self, device: str) -> None:
        """Load the model."""
        self.classify = Classifier()

    def decode_request(self, request: dict[str, list[str]]) -> Images:
        """The images of one request."""
        return np.stack([read(base64.b64decode(file)) for file in request["images"]])

    def batch(self, inputs: list[Images]) -> list[Images]:
        """Leave the requests as they are, since they differ in length."""
        return inputs

    def predict(self, x: list[Images]) -> list[Answers]:
        """One forward pass for all requests."""
        answers = iter(self.classify(np.concatenate(x)))
        return [[next(answers) for _ in images] for images in x]

    def unbatch(self, output: list[Answers]) -> list[Answers]:
        """Leave the answers as they are, one list per request."""
        return output

    def encode_response(self, output: Answers) -> dict[str, Answers]:
        """The answer to one request."""
        return {"predictions": output}


if __name__ == "__main__":
    api = Digits(max_batch_size=16, batch_timeout=0.001)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1)
    server.run("127.0.0.1", setting("PORT"), num_api_servers=1, generate_client_file=False)
