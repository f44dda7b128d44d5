"""The V2 inference protocol over gRPC: the SDK's servicer, with versions and our errors."""

import asyncio
import logging
import sys
from http import HTTPStatus
from time import perf_counter
from typing import Any

import grpc
from grpc_interceptor import AsyncServerInterceptor
from kserve.errors import InvalidInput as SDKInvalidInput
from kserve.protocol.dataplane import DataPlane
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import (
    add_GRPCInferenceServiceServicer_to_server,
)
from kserve.protocol.grpc.servicer import InferenceServicer
from kserve.protocol.model_repository_extension import ModelRepositoryExtension

from serving import access
from serving.context import REQUEST_ID, TRACEPARENT, TRACESTATE, RequestContext, current
from serving.errors import LONGEST, ServingError
from serving.metrics import CLIENT_GONE
from serving.model import ServedModel
from serving.rest import VERSION_HEADER, model_metadata

CONCURRENT = 80
"""Calls at a time, beyond which more get RESOURCE_EXHAUSTED. Each may hold a message of 8 MiB, and
hold it five times on its way: 3.5 GB in all, as `python -m benchmarks.memory` finds."""

log = logging.getLogger(__name__)


class Servicer(InferenceServicer):  # type: ignore[misc]
    """What the SDK's servicer leaves out: versions. What it offers too freely: unloading."""

    def __init__(self, model: ServedModel, dataplane: DataPlane) -> None:
        super().__init__(dataplane, ModelRepositoryExtension(dataplane.model_registry))
        self._model = model

    async def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Answer the version that is served."""
        self._model.check_served(request.model_name, request.model_version)
        return await super().ModelInfer(request, context)

    async def ModelMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        """V2 model metadata, versions included."""
        self._model.check_served(request.name, request.version)
        return pb.ModelMetadataResponse(**model_metadata(self._model))

    async def ModelReady(self, request: Any, context: Any) -> Any:  # noqa: N802
        """V2 model readiness."""
        self._model.check_served(request.name, request.version)
        return await super().ModelReady(request, context)

    async def RepositoryModelLoad(self, request: Any, context: Any) -> None:  # noqa: N802
        """Not for callers: any of them could take the model away."""
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "models are not managed here")

    RepositoryModelUnload = RepositoryModelLoad


class Interceptor(AsyncServerInterceptor):  # type: ignore[misc]
    """Turns exceptions into gRPC status codes, and observes each inference.

    The trailing metadata name version and request as REST's headers do. A defect of ours shows no
    detail.
    """

    def __init__(self, version: str | None) -> None:
        """``version`` is named on errors."""
        self._version = version or ""

    async def intercept(
        self, method: Any, request_or_iterator: Any, context: Any, method_name: str
    ) -> Any:
        """Call the method and abort with the status of what it raises."""
        status: int = HTTPStatus.OK
        version, start = self._version, perf_counter()
        infers = method_name.endswith("/ModelInfer")
        request = _begin(context) if infers else RequestContext()
        try:
            response = await method(request_or_iterator, context)
            version = getattr(response, "model_version", version)
            context.set_trailing_metadata(_trailing(version))
            return response
        except ServingError as error:
            status = error.http_status
            await self._abort(context, error.grpc_status, str(error))
        except SDKInvalidInput as error:
            status = HTTPStatus.BAD_REQUEST
            await self._abort(context, "INVALID_ARGUMENT", str(error)[:LONGEST])
        except grpc.aio.AbortError:
            raise
        except asyncio.CancelledError:
            status = CLIENT_GONE
            raise
        except Exception:
            status = HTTPStatus.INTERNAL_SERVER_ERROR
            log.exception("%s failed", method_name)
            await self._abort(context, "INTERNAL", "internal error")
        finally:
            if infers:
                access.end(request, "grpc", status, version, perf_counter() - start)

    async def _abort(self, context: Any, status: str, message: str) -> None:
        await context.abort(grpc.StatusCode[status], message, _trailing(self._version))


def _begin(context: Any) -> RequestContext:
    metadata = dict(context.invocation_metadata() or ())
    named = (metadata.get(name, "") for name in (REQUEST_ID, TRACEPARENT, TRACESTATE))
    return access.begin("grpc", *named)


def _trailing(version: str) -> tuple[tuple[str, str], ...]:
    named = ((VERSION_HEADER, version), (REQUEST_ID, current().request_id))
    return tuple((name, value) for name, value in named if value)


async def start(
    model: ServedModel, dataplane: DataPlane, *, address: str, max_receive: int, max_send: int
) -> grpc.aio.Server:
    """Start the gRPC server on ``address`` (host:port).

    Messages may have ``max_receive`` and ``max_send`` bytes; gRPC itself refuses larger ones, with
    RESOURCE_EXHAUSTED.
    """
    server = grpc.aio.server(
        interceptors=(Interceptor(model.version),),
        maximum_concurrent_rpcs=CONCURRENT,
        options=(
            ("grpc.max_send_message_length", max_send),
            ("grpc.max_receive_message_length", max_receive),
            # A second process on the port is an error, not a partner.
            ("grpc.so_reuseport", 0),
        ),
    )
    add_GRPCInferenceServiceServicer_to_server(Servicer(model, dataplane), server)
    try:
        server.add_insecure_port(address)
    except RuntimeError:
        sys.exit(f"cannot listen on {address} for gRPC; choose another port with --grpc_port")
    await server.start()
    return server
