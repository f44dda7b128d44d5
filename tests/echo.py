"""A model that answers with what reached it."""

import asyncio
from typing import Any

import numpy as np
from kserve import InferRequest

from serving import v2
from serving.model import ServedModel
from serving.threads import Threads

V1 = "/v1/models/mnist:predict"
V2 = "/v2/models/mnist/infer"


class Echo(ServedModel):
    """Answers with what reached it, or raises it."""

    platform = "echo"
    version = "7"
    threads = Threads(1, "echo")

    def __init__(self) -> None:
        super().__init__("mnist")
        self.ready = True
        self.seen: list[Any] = []
        self.error: Exception | None = None
        self.cancelled = False
        self.hang = False

    def get_input_types(self) -> list[dict[str, Any]]:
        return [{"name": "images", "datatype": "UINT8", "shape": [-1, 28, 28]}]

    async def predict(self, payload: Any, headers: dict[str, str] | None = None) -> Any:
        self.seen.append(payload)
        if self.error:
            raise self.error
        if self.hang:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                self.cancelled = True
                raise
        if isinstance(payload, InferRequest):
            numbers = payload.inputs[0].as_numpy()
            return v2.make_response(
                payload, {"numbers": numbers}, model_name="mnist", model_version="7"
            )
        return {"predictions": [np.float32(0.5)], "model_version": "7"}
