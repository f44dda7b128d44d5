"""KServe's documented pair, to compare with ours: ``python -m benchmarks.documented predictor``.

A custom predictor and a custom transformer as KServe's documentation writes them, over REST and V1,
with the graph that ours serves. The documentation decodes with torchvision, and so imports torch in
the transformer too; here it is OpenCV, which starts sooner.
"""

import argparse
import base64
from pathlib import Path
from typing import Any

import numpy as np
from kserve import Model, ModelServer, model_server

GRAPH = Path("models/mnist/1/model.pt2")

Json = dict[str, Any]


class Predictor(Model):  # type: ignore[misc]
    """Scores 28×28 images."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        import torch  # here, because the transformer has no need of it

        from predictor.graph import read_graph

        self.torch = torch
        self.graph = read_graph(GRAPH.read_bytes())
        self.ready = True

    def predict(self, payload: Json, headers: dict[str, str] | None = None) -> Json:
        """The probabilities of each image."""
        with self.torch.inference_mode():
            images = self.torch.tensor(payload["instances"], dtype=self.torch.uint8)
            return {"predictions": self.graph(images)[0].tolist()}


class Transformer(Model):  # type: ignore[misc]
    """Makes 28×28 images of files; the SDK's own ``predict`` calls the predictor."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        import cv2

        self.cv2 = cv2
        self.ready = True

    def preprocess(self, payload: Json, headers: dict[str, str] | None = None) -> Json:
        """Decode, make the ink bright, shrink."""
        return {"instances": [self.read(image["image"]["b64"]) for image in payload["instances"]]}

    def read(self, image: str) -> Any:
        """One image, in base64."""
        data = np.frombuffer(base64.b64decode(image), np.uint8)
        grey = np.asarray(self.cv2.imdecode(data, self.cv2.IMREAD_GRAYSCALE))
        return self.cv2.resize(255 - grey, (28, 28), interpolation=self.cv2.INTER_AREA).tolist()

    def postprocess(self, result: Json, headers: dict[str, str] | None = None) -> Json:
        """The digit of each image."""
        return {"predictions": [{"digit": int(np.argmax(row))} for row in result["predictions"]]}


def main() -> None:
    """Serve one of the two."""
    parser = argparse.ArgumentParser(description=__doc__, parents=[model_server.parser])
    parser.add_argument("program", choices=("predictor", "transformer"))
    args = parser.parse_args()
    model = (Predictor if args.program == "predictor" else Transformer)(args.model_name)
    ModelServer().start([model])


if __name__ == "__main__":
    main()
