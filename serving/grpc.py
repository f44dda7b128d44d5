"""The V2 inference protocol over gRPC, with versions, limits and our errors."""

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from time import perf_counter
from typing import Any

from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from kserve import InferResponse
from kserve.protocol.dataplane import DataPlane
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from kserve.protocol.grpc.servicer import InferenceServicer

from serving import access, http2, protobuf, v2
from serving.call import Headers, Method, Service
from serving.context import REQUEST_ID, TRACEPARENT, TRACESTATE
from serving.errors import ServingError, TooLarge
from serving.listener import listen
from serving.metrics import CLIENT_GONE, observe
from serving.model import ServedModel
from serving.rest import model_metadata, told

CONCURRENT = 400
"""Most inferences in hand at a time; further ones get RESOURCE_EXHAUSTED. One connection may bring
as many at once; those of REST, which has a connection for each, come one after another."""


class Methods:
    """Those of the service ``inference.GRPCInferenceService``, but the ones that manage models.

    Any caller could take the model away with these.
    """

    def __init__(self, model: ServedModel, dataplane: DataPlane, *, max_send: int) -> None:
        """Answer for ``model``; an inference with at most ``max_send`` bytes."""
        self._model = model
        self._version = model.version or ""
        self._max_send = max_send
        self._sdk = InferenceServicer(dataplane, None)

    def by_path(self) -> dict[str, Method]:
        """The methods by the paths that they are called by."""
        service = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"]
        others = {
            "ServerLive": self._sdk.ServerLive,
            "ServerReady": self._sdk.ServerReady,
            "ServerMetadata": self._sdk.ServerMetadata,
            "ModelReady": self._model_ready,
            "ModelMetadata": self._model_metadata,
        }
        methods = {
            name: self._method(GetMessageClass(service.methods_by_name[name].input_type), answer)
            for name, answer in others.items()
        }
        methods["ModelInfer"] = Method(self._infer, self._refused)
        return {f"/{service.full_name}/{name}": method for name, method in methods.items()}

    async def _infer(self, data: bytes, headers: Headers) -> tuple[bytes, str]:
        """The answer to an inference.

        The SDK's ``ModelInfer`` takes half as long again.
        """
        status: int = HTTPStatus.OK
        version = self._version
        named = [headers.get(name, "") for name in (REQUEST_ID, TRACEPARENT, TRACESTATE)]
        observed = access.begin("grpc", *named)
        try:
            request: Any = protobuf.parse(pb.ModelInferRequest, data)
            self._model.check_served(request.model_name, request.model_version)
            answer = await self._model(v2.read_message(request), headers)
            version = answer.model_version
            message = _message(answer).SerializeToString()
            if len(message) > self._max_send:
                raise TooLarge(f"the answer is over the limit of {self._max_send} bytes")
            return message, version
        except asyncio.CancelledError:
            status = CLIENT_GONE
            raise
        except Exception as error:
            status, *_ = told(error)
            raise
        finally:
            access.end(observed, "grpc", status, version, perf_counter() - observed.arrived)

    def _refused(self, error: ServingError) -> None:
        observe("grpc", error.http_status, self._version, 0)

    def _method(
        self, kind: type[Message], answer: Callable[[Any, Any], Awaitable[Message]]
    ) -> Method:
        """A method that takes a message of that ``kind``, as the SDK's have it."""

        async def called(data: bytes, _: Headers) -> tuple[bytes, str]:
            message = await answer(protobuf.parse(kind, data), None)
            return message.SerializeToString(), self._version

        return Method(called)

    async def _model_metadata(self, request: Any, _: None) -> Message:
        """V2 model metadata, versions included."""
        self._model.check_served(request.name, request.version)
        return pb.ModelMetadataResponse(**model_metadata(self._model))

    async def _model_ready(self, request: Any, _: None) -> Any:
        """V2 model readiness."""
        self._model.check_served(request.name, request.version)
        return await self._sdk.ModelReady(request, None)


def _message(response: InferResponse) -> Message:
    """``response``, whose tensors are arrays, as a ``ModelInferResponse`` with raw contents."""
    return pb.ModelInferResponse(
        id=response.id,
        model_name=response.model_name,
        model_version=response.model_version,
        outputs=[
            pb.ModelInferResponse.InferOutputTensor(
                name=output.name, datatype=output.datatype, shape=output.shape
            )
            for output in response.outputs
        ],
        raw_output_contents=[v2.to_bytes(output.data) for output in response.outputs],
    )


def tls(certfile: str | None, keyfile: str | None) -> ssl.SSLContext | None:
    """For TLS; ``None`` without a certificate. The key may be in the certificate's file."""
    if not certfile:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certfile, keyfile)
    context.set_alpn_protocols(["h2"])
    return context


async def start(
    model: ServedModel,
    dataplane: DataPlane,
    *,
    host: str,
    port: int,
    max_receive: int,
    max_send: int,
    ssl: ssl.SSLContext | None = None,
) -> http2.Server:
    """Start the gRPC server on ``host`` and ``port``, over TLS with ``ssl``.

    Messages may have ``max_receive`` bytes, answers ``max_send``.
    """
    service = Service(
        Methods(model, dataplane, max_send=max_send).by_path(),
        version=model.version or "",
        max_calls=CONCURRENT,
        max_receive=max_receive,
    )
    server = http2.Server(service.call, largest=service.bodies.largest, ssl=ssl)
    await server.start(listen(host, port, "--grpc_port"))
    return server
