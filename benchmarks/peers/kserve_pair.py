"""KServe's documented pair: ``python -m benchmarks.peers.kserve_pair predictor``.

A custom predictor and a custom transformer as KServe's documentation writes them, over REST V1 or,
with ``--predictor_protocol=grpc-v2``, gRPC between the two:
https://kserve.github.io/website/docs/model-serving/predictive-inference/frameworks/custom-predictor/custom-predictor
https://kserve.github.io/website/docs/model-serving/predictive-inference/transformers/custom-transformer

Three things differ from the documentation, all in its favour: the tensors are integers, because the
graph scales them itself; every image of a request is used, not only the first; and Pillow shrinks
the image without torchvision, which would load torch in the transformer too.
"""

import argparse
import base64
from typing import Any

import numpy as np
from kserve import (
    InferInput,
    InferOutput,
    InferRequest,
    InferResponse,
    Model,
    ModelServer,
    logging,
    model_server,
)
from kserve.utils.utils import generate_uuid

from benchmarks.peers.model import Classifier, answer, read

Json = dict[str, Any]
Headers = dict[str, str] | None


class Predictor(Model):  # type: ignore[misc]
    """Scores 28×28 images."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.classify = Classifier()
        self.ready = True

    def predict(
        self, payload: Json | InferRequest, headers: Headers = None
    ) -> Json | InferResponse:
        """The probabilities of each image."""
        if isinstance(payload, InferRequest):
            scores = self.classify.probabilities(payload.inputs[0].as_numpy())
            output = InferOutput("output-0", list(scores.shape), "FP32", scores.flatten().tolist())
            return InferResponse(generate_uuid(), self.name, [output])
        scores = self.classify.probabilities(np.asarray(payload["instances"], np.uint8))
        return {"predictions": scores.tolist()}


class Transformer(Model):  # type: ignore[misc]
    """Turns image files into 28×28 images; the SDK's own ``predict`` calls the predictor."""

    def __init__(self, name: str, protocol: str) -> None:
        super().__init__(name)
        self.over_grpc = protocol == "grpc-v2"
        self.ready = True

    def preprocess(self, payload: Json, headers: Headers = None) -> Json | InferRequest:
        """Decode the images, and shrink them."""
        files = [base64.b64decode(instance["image"]["b64"]) for instance in payload["instances"]]
        images = np.asarray([read(file) for file in files])
        if not self.over_grpc:
            return {"instances": images.tolist()}
        tensor = InferInput("INPUT__0", list(images.shape), "UINT8")
        tensor.set_data_from_numpy(images)
        return InferRequest(self.name, [tensor])

    def postprocess(self, result: Json | InferResponse, headers: Headers = None) -> Json:
        """The digit of each image."""
        if isinstance(result, InferResponse):
            rows = result.outputs[0].as_numpy().tolist()
        else:
            rows = result["predictions"]
        return {"predictions": [answer(row) for row in rows]}


def main() -> None:
    """Serve one of the two."""
    parser = argparse.ArgumentParser(description=__doc__, parents=[model_server.parser])
    parser.add_argument("program", choices=("predictor", "transformer"))
    args = parser.parse_args()
    if args.configure_logging:
        logging.configure_logging(args.log_config_file)
    if args.program == "predictor":
        model: Model = Predictor(args.model_name)
    else:
        model = Transformer(args.model_name, args.predictor_protocol)
    ModelServer().start([model])


if __name__ == "__main__":
    main()
