"""Calls to the predictor: the V2 protocol with raw tensors, over HTTP or gRPC.

Over HTTP it does not use the SDK's client, which takes six times the processor time and drops the
version from the answer (docs/decisions/calls.md).
"""

import logging
import math
import struct
from collections.abc import Mapping
from typing import Any, Protocol

import grpc
import numpy as np
import orjson
from kserve import InferInput, InferRequest, PredictorConfig
from kserve.inference_client import InferenceGRPCClient
from numpy.typing import NDArray

from serving import context, v2
from serving.batcher import PREDICTOR_SLOW
from serving.errors import Failed, Overloaded, ServingError, TimedOut, Unavailable
from serving.inference import VERSION_HEADER
from serving.message import Response
from serving.scores import DIGITS, VERSION, Images, Scores
from transformer import metrics
from transformer.http import Client

log = logging.getLogger(__name__)

AWAY = "the predictor cannot be reached or is not ready; try again later"
BUSY = "the predictor is overloaded; try again later"
DEFECT = "the predictor failed"


class PredictorClient(Protocol):
    """Scores images by a call to the predictor."""

    async def score(self, images: Images) -> Scores:
        """Score ``images``, uint8 [N, 28, 28].

        Raises:
            Overloaded, Unavailable, TimedOut, Failed: depending on the predictor's answer, or
                why there is none.
        """

    async def close(self) -> None:
        """Close the connections."""


def client_for(config: PredictorConfig, model_name: str) -> PredictorClient:
    """The client for the protocol that ``config`` names.

    Raises:
        ValueError: it names V1, which has no raw tensors, or a URL in place of the host.
    """
    if "/" in config.predictor_host:
        raise ValueError("--predictor_host must be no URL, but a host and port: 127.0.0.1:8082")
    if config.predictor_protocol == "v2":
        return RESTPredictor(config, model_name)
    if config.predictor_protocol == "grpc-v2":
        return GRPCPredictor(config, model_name)
    raise ValueError("--predictor_protocol must be v2 or grpc-v2")


class RESTPredictor:
    """V2 over HTTP with binary tensor data."""

    def __init__(self, config: PredictorConfig, model_name: str) -> None:
        url = f"{config.predictor_base_url}/v2/models/{model_name}/infer"
        self._client = Client(url, timeout=config.timeout)
        self._attempts = 1 + config.retries

    async def score(self, images: Images) -> Scores:
        """See ``PredictorClient``."""
        header = orjson.dumps(
            {
                "inputs": [
                    {
                        "name": "images",
                        "datatype": "UINT8",
                        "shape": images.shape,
                        "parameters": {"binary_data_size": images.nbytes},
                    }
                ],
                "parameters": {"binary_data_output": True},
            }
        )
        status, headers, body = await self._post(
            header + images.tobytes(),
            {v2.HEADER_LENGTH: str(len(header)), **context.current().headers()},
        )
        scores = _read_scores(headers, body, len(images)) if status == 200 else None
        metrics.count_call(headers.get(VERSION_HEADER), ok=scores is not None)
        if scores is None:
            log.warning("the predictor answered %d: %.200r", status, body)
            raise _error_of(status)
        return scores

    async def close(self) -> None:
        """See ``PredictorClient``."""
        self._client.close()

    async def _post(self, body: bytes, headers: dict[str, str]) -> Response:
        for attempt in range(1, self._attempts + 1):
            try:
                return await self._client.post(body, headers)
            except TimeoutError:
                metrics.count_call(None, ok=False)
                raise TimedOut(PREDICTOR_SLOW) from None
            except OSError as error:
                metrics.count_call(None, ok=False)
                # A call changes nothing, so it is safe to repeat.
                log.warning("call %d of %d failed: %s", attempt, self._attempts, error)
        raise Unavailable(AWAY)


class GRPCPredictor:
    """V2 over gRPC with raw tensors."""

    def __init__(self, config: PredictorConfig, model_name: str) -> None:
        self._config = config
        self._model_name = model_name
        self._client: InferenceGRPCClient | None = None

    async def score(self, images: Images) -> Scores:
        """See ``PredictorClient``."""
        if self._client is None:  # grpc.aio needs a running event loop
            self._client = InferenceGRPCClient(
                self._config.predictor_host,
                use_ssl=self._config.use_ssl,
                timeout=self._config.timeout,
                # The SDK passes it on as gRPC's maxAttempts, which counts the first attempt too.
                retries=self._config.retries and self._config.retries + 1,
                # By default one connection takes every call to the same pod.
                channel_args=[
                    ("grpc.lb_policy_name", "round_robin"),
                    ("grpc.enable_http_proxy", 0),
                ],
            )
        tensor = InferInput("images", list(images.shape), "UINT8")
        tensor.set_data_from_numpy(images)
        request = InferRequest(self._model_name, [tensor])
        try:
            metadata = tuple(context.current().headers().items())
            response = await self._client.infer(request, headers=metadata)
            tensors = {output.name: output.as_numpy() for output in response.outputs}
        except grpc.aio.AioRpcError as error:
            metrics.count_call(dict(error.trailing_metadata() or ()).get(VERSION_HEADER), ok=False)
            log.warning("the predictor answered %s: %.200r", error.code().name, error.details())
            raise _error_of(_HTTP_STATUS.get(error.code(), 500)) from None
        except (IndexError, ValueError, struct.error) as error:  # the SDK cannot read the answer
            metrics.count_call(None, ok=False)
            log.warning("the predictor answered what is no V2: %.200r", error)
            raise Unavailable(AWAY) from None
        scores = _scores(tensors, response.model_version, len(images))
        metrics.count_call(response.model_version, ok=scores is not None)
        if scores is None:
            names = [output.name for output in response.outputs]
            log.warning("the predictor answered with %s", names)
            raise Unavailable(AWAY)
        return scores

    async def close(self) -> None:
        """See ``PredictorClient``."""
        if self._client:
            await self._client.close()


_HTTP_STATUS = {
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.UNIMPLEMENTED: 404,  # what gRPC makes of a proxy's 404
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
}
_DTYPES: dict[str, type[Any]] = {"FP32": np.float32, "BOOL": np.bool_}
"""By the V2 datatypes of the outputs that are read."""


def _error_of(status: int) -> ServingError:
    """The error for the caller when the predictor, or a proxy before it, answers ``status``."""
    if status == 429:
        return Overloaded(BUSY)
    if status == 504:
        return TimedOut(PREDICTOR_SLOW)
    # 200 with another body is not from the predictor. 404: a proxy does not know the host (yet).
    if status in (200, 404, 502, 503):
        return Unavailable(AWAY)
    return Failed(DEFECT)


def _read_scores(headers: Mapping[str, str], body: bytes, count: int) -> Scores | None:
    """The scores of ``count`` images; ``None`` if the answer does not contain them."""
    tensors = {}
    try:
        position = int(headers[v2.HEADER_LENGTH])
        answer = orjson.loads(body[:position])
        for output in answer["outputs"]:
            dtype = _DTYPES[output["datatype"]]
            shape = output["shape"]
            if len(shape) > v2.MOST_DIMENSIONS:
                return None
            data: NDArray[Any] = np.frombuffer(body, dtype, math.prod(shape), position)
            position += data.nbytes
            tensors[output["name"]] = data.reshape(shape)
        return _scores(tensors, answer["model_version"], count)
    except (KeyError, TypeError, ValueError, OverflowError):
        return None


def _scores(tensors: Mapping[str, NDArray[Any]], version: Any, count: int) -> Scores | None:
    """The scores of ``count`` images; ``None`` if the answer is not as the contract says."""
    probabilities, accepted = tensors.get("probabilities"), tensors.get("accepted")
    if probabilities is None or accepted is None:
        return None
    if (probabilities.shape, accepted.shape) != ((count, DIGITS), (count,)):
        return None
    if probabilities.dtype != np.float32 or accepted.dtype != np.bool_:
        return None
    if not (isinstance(version, str) and VERSION.fullmatch(version)):
        return None
    return Scores(probabilities, accepted, version) if np.isfinite(probabilities).all() else None
