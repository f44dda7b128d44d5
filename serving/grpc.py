"""The V2 inference protocol over gRPC: the SDK's servicer, with versions, limits and our errors."""

import asyncio
import functools
import logging
import sys
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from pathlib import Path
from time import perf_counter
from typing import Any, TypeAlias

import grpc
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass
from kserve import InferRequest, InferResponse
from kserve.errors import InvalidInput as SDKInvalidInput
from kserve.protocol.dataplane import DataPlane
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from kserve.protocol.grpc.servicer import InferenceServicer

from serving import access, protobuf, v2
from serving.context import REQUEST_ID, TRACEPARENT, TRACESTATE, current
from serving.errors import Failed, InvalidInput, ServingError, TimedOut
from serving.gate import Gate
from serving.inference import VERSION_HEADER
from serving.metrics import CLIENT_GONE
from serving.model import ServedModel
from serving.rest import model_metadata

CONCURRENT = 80
"""Most calls at a time; further ones get RESOURCE_EXHAUSTED before their message is received."""
MESSAGES = 8
"""How many messages of the largest size may be held at a time, or as many smaller ones as take the
same room. Each is in memory three times: as it came, parsed, and as tensors."""

STREAMS = 400
"""Most calls at a time on one connection; further ones are refused on the wire. Without a limit,
calls that are cancelled as soon as they are opened would fill the queue in which others' wait. It
is well above ``CONCURRENT``, since calls that have just ended count, and since a gateway's
connection has those of many clients."""

AGE = 60
"""Seconds, give or take a tenth, after which a connection accepts no more calls; its client opens
another. gRPC has no time limit for a call, so a client that does not read its answer would
otherwise hold one for ever."""
AGE_GRACE = 30
"""Seconds that the calls of such a connection have to end."""
TIMEOUT = 10
"""Seconds that a client has to send a call's message; the call is one of the ``CONCURRENT``."""
LOOK = 0.1
"""Seconds between looks whether gRPC still serves, and whether its port is free again."""

log = logging.getLogger(__name__)

Method: TypeAlias = Callable[[Any, Any], Awaitable[Any]]


class Servicer(InferenceServicer):  # type: ignore[misc]
    """The SDK's, with versions, our errors and observation.

    It does not use the SDK's ``ModelInfer``, with which an inference takes half as long again.
    """

    def __init__(self, model: ServedModel, dataplane: DataPlane, *, max_message: int) -> None:
        super().__init__(dataplane, None)  # `_handler` leaves out what manages models
        self._model = model
        self._held = Gate(MESSAGES * max_message, "bytes")
        self.version = model.version or ""

    async def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Answer an inference; the trailing metadata have the version and the request id."""
        status: int = HTTPStatus.OK
        metadata = dict(context.invocation_metadata() or ())
        named = (metadata.get(name, "") for name in (REQUEST_ID, TRACEPARENT, TRACESTATE))
        observed = access.begin("grpc", *named)
        version = self.version
        try:
            self._model.check_served(request.model_name, request.model_version)
            v2.check_message(request)
            self.validate_grpc_request(request)
            with self._held.admit(request.ByteSize()):
                answer = await self._model(InferRequest.from_grpc(request), metadata)
            version = answer.model_version
            context.set_trailing_metadata(_trailing(version))
            return _message(answer)
        except asyncio.CancelledError:
            status = CLIENT_GONE
            raise
        except Exception as error:
            status = _fail(context, error, version)
        finally:
            access.end(observed, "grpc", status, version, perf_counter() - observed.arrived)

    async def ModelMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        """V2 model metadata, versions included."""
        self._model.check_served(request.name, request.version)
        return pb.ModelMetadataResponse(**model_metadata(self._model))

    async def ModelReady(self, request: Any, context: Any) -> Any:  # noqa: N802
        """V2 model readiness."""
        self._model.check_served(request.name, request.version)
        return await super().ModelReady(request, context)


def _handler(servicer: Servicer) -> grpc.GenericRpcHandler:
    """The servicer's methods, each as one that takes a stream and reads one message from it.

    On the wire this is the same, but for the message of a unary method gRPC waits without limit.
    The methods that load and unload models are left out: any caller could take the model away.
    """

    def received(method: Method) -> Method:
        async def receive(_: object, context: Any) -> Any:
            try:
                return await method(await _read(context), context)
            except Exception as error:
                _fail(context, error, servicer.version)

        return receive

    service = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    return grpc.method_handlers_generic_handler(
        service.full_name,
        {
            method.name: grpc.stream_unary_rpc_method_handler(
                received(getattr(servicer, method.name)),
                functools.partial(protobuf.parse, GetMessageClass(method.input_type)),
                GetMessageClass(method.output_type).SerializeToString,
            )
            for method in service.methods
            if not method.name.startswith("Repository")
        },
    )


async def _read(context: Any) -> Any:
    """The message of a call."""
    try:
        async with asyncio.timeout(TIMEOUT):
            request = await context.read()
    except DecodeError as error:
        raise InvalidInput(str(error)) from None
    except TimeoutError:
        raise TimedOut(f"the message was not complete after {TIMEOUT} s") from None
    if request is grpc.aio.EOF:
        raise InvalidInput("a call without a message")
    return request


def _message(response: InferResponse) -> Any:
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


def _fail(context: Any, error: Exception, version: str) -> int:
    """End a call with ``error``, and return HTTP's status for it; a defect shows no detail.

    What ``context.abort`` raises would keep the request in memory until a garbage collection.
    """
    match error:
        case ServingError():
            told = error
        case SDKInvalidInput():
            told = InvalidInput(str(error))
        case _:
            log.error("a defect", exc_info=error)
            told = Failed("internal error")
    context.set_code(grpc.StatusCode[told.grpc_status])
    context.set_details(str(told))
    context.set_trailing_metadata(_trailing(version))
    return told.http_status


def _trailing(version: str) -> tuple[tuple[str, str], ...]:
    named = ((VERSION_HEADER, version), (REQUEST_ID, current().request_id))
    return tuple((name, value) for name, value in named if value)


def credentials(certfile: str | None, keyfile: str | None) -> grpc.ServerCredentials | None:
    """For TLS; ``None`` without a certificate. The key may be in the certificate's file."""
    if not certfile:
        return None
    chain, key = (Path(name).read_bytes() for name in (certfile, keyfile or certfile))
    return grpc.ssl_server_credentials([(key, chain)])


class Server:
    """A gRPC server, and another in its place when it ends; its calls in hand are finished.

    That of grpcio 1.85.1 takes no more calls, and closes its port, after any whose path is not
    UTF-8.
    """

    def __init__(self, listen: Callable[[], grpc.aio.Server]) -> None:
        self._listen = listen
        self._server = listen()
        self._ending: set[asyncio.Task[None]] = set()
        self._stops = False

    async def start(self) -> None:
        """Serve until ``stop``."""
        await self._server.start()
        self._kept = asyncio.create_task(self._keep())

    async def stop(self, grace: float | None) -> None:
        """Take no more calls; those in hand have ``grace`` seconds to end."""
        self._stops = True
        await self._kept  # a server whose start is cancelled cannot be stopped
        # One that a call ends just then raises what ended it.
        stopping = (self._server.stop(grace), *self._ending)
        await asyncio.gather(*stopping, return_exceptions=True)

    async def _keep(self) -> None:
        while not self._stops:
            try:
                await self._server.wait_for_termination(LOOK)
            except Exception:  # what ended it, which gRPC has logged
                try:
                    server = self._listen()
                except RuntimeError:  # the port is not free yet
                    await asyncio.sleep(LOOK)
                    continue
                ending = asyncio.create_task(self._server.stop(AGE_GRACE))
                self._ending.add(ending)
                ending.add_done_callback(self._ending.discard)
                self._server = server
                await server.start()


async def start(
    model: ServedModel,
    dataplane: DataPlane,
    *,
    address: str,
    max_receive: int,
    max_send: int,
    credentials: grpc.ServerCredentials | None = None,
) -> Server:
    """Start the gRPC server on ``address`` (host:port), over TLS with ``credentials``.

    Requests may have ``max_receive`` bytes, answers ``max_send``; gRPC itself refuses larger ones
    with RESOURCE_EXHAUSTED.
    """
    handler = _handler(Servicer(model, dataplane, max_message=max_receive))
    options = (
        ("grpc.max_send_message_length", max_send),
        ("grpc.max_receive_message_length", max_receive),
        ("grpc.max_concurrent_streams", STREAMS),
        ("grpc.max_connection_age_ms", AGE * 1000),
        ("grpc.max_connection_age_grace_ms", AGE_GRACE * 1000),
        # A second process on the port must fail, not share it.
        ("grpc.so_reuseport", 0),
        # Otherwise megabytes of a message are received before its call is accepted.
        ("grpc.http2.bdp_probe", 0),
    )

    def listen() -> grpc.aio.Server:
        server = grpc.aio.server(maximum_concurrent_rpcs=CONCURRENT, options=options)
        server.add_generic_rpc_handlers((handler,))
        if credentials:
            server.add_secure_port(address, credentials)
        else:
            server.add_insecure_port(address)
        return server

    try:
        server = Server(listen)
    except RuntimeError:
        sys.exit(f"cannot listen on {address} for gRPC; choose another port with --grpc_port")
    await server.start()
    return server
