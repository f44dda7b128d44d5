"""BentoML with batching, as https://docs.bentoml.com/en/latest/get-started/adaptive-batching.html.

Started by ``bentoml serve benchmarks.peers.bentoml_service:Digits``. Images come as a form, as in
https://docs.bentoml.com/en/latest/build-with-bentoml/iotypes.html.
"""

from typing import Any

import bentoml
import numpy as np
from PIL.Image import Image

from benchmarks.peers.model import Classifier, shrink


@bentoml.service(workers=1)
class Digits:
    """Reads image files, one or several per request."""

    def __init__(self) -> None:
        self.classify = Classifier()

    @bentoml.api(batchable=True, max_batch_size=64)  # type: ignore[untyped-decorator]
    def predict(self, images: list[Image]) -> list[dict[str, Any]]:
        """One forward pass for all requests."""
        return self.classify(np.stack([shrink(image) for image in images]))
