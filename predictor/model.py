"""The KServe model: checks the tensor, scores it in a shared forward pass, formats the answer."""

from collections.abc import Mapping
from functools import partial
from math import inf
from time import perf_counter
from typing import Any

from kserve import InferRequest, InferResponse

from predictor import artifact
from predictor.metrics import describe
from predictor.tensors import read_images
from serving import context, metrics, v2
from serving.batcher import Batcher
from serving.model import ServedModel
from serving.scores import Images, Scores
from serving.threads import Threads

SHORT = 0.001
"""Seconds. A pass of one image that took less the last time runs on the event loop: its caller is
alone, so that the loop has nothing else to do, and a thread would cost more."""


class Predictor(ServedModel):
    """Serves one version of the model.

    Input ``images``: UINT8 [N, 28, 28] (or [N, 1, 28, 28]). Outputs ``probabilities``: FP32
    [N, 10] and ``accepted``: BOOL [N]. V1 has the same, one object per instance.
    """

    platform = "pytorch_export"

    def __init__(
        self,
        name: str,
        version: artifact.Model,
        *,
        max_instances: int,
        max_batch: int,
        max_pending: int,
        max_linger: float,
    ) -> None:
        """Serve ``version`` as ``name``; for the limits see ``read_images`` and ``Batcher``."""
        super().__init__(name)
        self.version: str = str(version.metadata.version)
        self._metadata = version.metadata
        describe(version.metadata)
        self._graph = version.graph
        self._alone = inf
        """Seconds that the last pass of one image took."""
        self._max_instances = max_instances
        # One thread, so that passes do not compete: each uses the threads of what computes it.
        self.threads = Threads(1, "forward")
        self._batcher = Batcher(
            self._score,
            stage="compute",
            max_batch=max_batch,
            max_pending=max_pending,
            max_linger=max_linger,
        )

    def get_input_types(self) -> list[dict[str, Any]]:
        """The signature of the input, as V2 metadata."""
        return [tensor.model_dump() for tensor in self._metadata.inputs]

    def get_output_types(self) -> list[dict[str, Any]]:
        """The signature of the outputs, as V2 metadata."""
        return [tensor.model_dump() for tensor in self._metadata.outputs]

    async def predict(
        self, payload: dict[str, Any] | InferRequest, headers: Mapping[str, str] | None = None
    ) -> dict[str, Any] | InferResponse:
        """Score the images of a V1 or V2 request.

        Raises:
            InvalidInput: the images are not what the model takes.
            TooLarge: more than ``max_instances`` images.
            Overloaded: too many images are waiting.
        """
        images = read_images(payload, max_instances=self._max_instances)
        context.current().images = len(images)
        scores = await self._batcher.submit(images)
        metrics.count_answer(
            self.version,
            unsure=not scores.accepted.all(),
            first_digit=int(scores.probabilities[0].argmax()),
        )
        if isinstance(payload, InferRequest):
            return v2.make_response(
                payload,
                {"probabilities": scores.probabilities, "accepted": scores.accepted},
                model_name=self.name,
                model_version=self.version,
            )
        return {
            "predictions": [
                {"probabilities": row, "accepted": accepted}
                for row, accepted in zip(
                    scores.probabilities, scores.accepted.tolist(), strict=True
                )
            ],
            "model_name": self.name,
            "model_version": self.version,
        }

    async def _score(self, images: Images) -> Scores:
        """One forward pass."""
        if len(images) == 1 and self._alone < SHORT:
            return self._forward(images)
        return await self.threads.run(partial(self._forward, images))

    def _forward(self, images: Images) -> Scores:
        began = perf_counter()
        probabilities, accepted = self._graph(images)
        if len(images) == 1:
            self._alone = perf_counter() - began
        return Scores(probabilities, accepted, self.version)
