"""MLServer with batching: a custom runtime, started by ``mlserver start`` with two settings files.

https://docs.seldon.ai/mlserver/user-guide/custom and
https://docs.seldon.ai/mlserver/user-guide/adaptive-batching
"""

import numpy as np
from mlserver import MLModel
from mlserver.codecs import Base64Codec, NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse

from benchmarks.peers.model import Classifier, read


class Digits(MLModel):  # type: ignore[misc]
    """Reads a BYTES tensor of image files in base64."""

    async def load(self) -> bool:
        """Load the model."""
        self.classify = Classifier()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """One forward pass for all requests."""
        files = Base64Codec.decode_input(payload.inputs[0])
        scores = self.classify.probabilities(np.stack([read(file) for file in files]))
        return InferenceResponse(
            model_name=self.name,
            outputs=[
                NumpyCodec.encode_output("digit", scores.argmax(1)[:, np.newaxis]),
                NumpyCodec.encode_output("probabilities", scores),
            ],
        )
