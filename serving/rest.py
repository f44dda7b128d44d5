"""The REST endpoints that both programs answer themselves.

They stand in for the SDK's own on the same paths, because those have no limits, take
malformed input for a failure of the server, and cannot name the model's version. What they
call is the same: the ``kserve.Model``, with its preprocess, predict and postprocess.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any, TypeAlias

import httpx
from fastapi import FastAPI
from kserve import InferResponse
from kserve.errors import ModelNotFound
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from serving import events, v2
from serving.errors import NotFound, Overloaded, ServingError, TooLarge
from serving.json import is_json, read_json, write_json
from serving.metrics import CLIENT_GONE
from serving.model import ServedModel

VERSION_HEADER = "x-model-version"
CLOSED = (
    "/metrics",
    "/v1/models/{name}:explain",
    "/v2/repository/models/{name}/load",
    "/v2/repository/models/{name}/unload",
)
"""Paths of the SDK that no caller shall reach: metrics have a port of their own, there is no
explainer, and whoever may unload a model takes it away from everyone else."""
ANSWERED = (
    "/v1/models/{name}:predict",
    "/v2/models/{name}/infer",
    "/v2/models/{name}/versions/{version}/infer",
)
"""And those that are answered before the SDK is asked, see ``serving.app``."""
BODIES = 4
"""Bodies of the largest size that may be held at a time; smaller ones as many as fit. Each is in
memory up to three times: as it came, its tensors, and their items."""
PATIENCE = 0.05
"""Seconds after which an unanswered request is watched for a client that hangs up: quick
answers cost a timer and no task."""

Answer: TypeAlias = Any
"""What a model answers: a dictionary to V1, an ``InferResponse`` to V2."""


class Endpoints:
    """V1 and V2 inference and V2 metadata of one model."""

    def __init__(self, model: ServedModel, *, max_body: int) -> None:
        """Answer for ``model``; a body of more than ``max_body`` bytes is refused with 413."""
        self._model = model
        self._max_body = max_body
        self._held = 0  # bytes of bodies, of all requests

    def add_to(self, app: FastAPI) -> None:
        """Add what is no inference; of two routes with one path, the one added first answers."""
        version = "/v2/models/{name}/versions/{version}"
        for path in ("/v2/models/{name}", version):
            app.add_route(path, self.metadata, methods=["GET"])
        app.add_route(f"{version}/ready", self.ready, methods=["GET"])
        for path in CLOSED:
            app.add_route(path, closed, methods=["GET", "POST"])
        for path in ANSWERED:
            app.add_route(path, closed, methods=["POST"])

    async def predict(self, request: Request) -> Response:
        """V1: JSON, any other body as it is, or a CloudEvent with either in it."""
        self._check_served(request)
        async with self.body(request) as body:
            event = events.read(request.headers, body)
            if event is None:
                content_type = request.headers.get("content-type", "")
                payload = read_json(body) if is_json(content_type, body) else body
                return v1_response(await self.ask(request, payload))
            answer = await self.ask(request, events.payload(event))
            headers, content = events.reply(
                event,
                write_json(answer),
                self._model.name,
                structured=events.is_structured(request.headers),
            )
            return Response(content, headers={**headers, **version_header(answer)})

    async def infer(self, request: Request) -> Response:
        """V2: JSON, with or without binary tensor data."""
        self._check_served(request)
        async with self.body(request) as body:
            header_length = request.headers.get(v2.HEADER_LENGTH)
            payload = v2.read_request(body, header_length, self._model.name)
            answer = await self.ask(request, payload)
        content, json_length = v2.write_response(answer, payload)
        headers = version_header(answer)
        if json_length is None:
            return Response(content, media_type="application/json", headers=headers)
        headers[v2.HEADER_LENGTH] = str(json_length)
        return Response(content, media_type="application/octet-stream", headers=headers)

    async def ready(self, request: Request) -> Response:
        """V2 readiness of a version; without a version the SDK answers."""
        self._check_served(request)
        ready = await self._model.healthy()
        status = HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE
        return JSONResponse({"name": self._model.name, "ready": ready}, status)

    async def metadata(self, request: Request) -> Response:
        """V2 model metadata."""
        self._check_served(request)
        return JSONResponse(model_metadata(self._model))

    @asynccontextmanager
    async def body(self, request: Request) -> AsyncIterator[bytes]:
        """The whole body, counted as held until the end of the block.

        Raises:
            TooLarge: it is over the limit; reading stops there.
            Overloaded: the bodies of all requests are too much.
        """
        self._check_size(int(request.headers.get("content-length", 0)))
        chunks = []
        size = 0
        try:
            async for chunk in request.stream():
                chunks.append(chunk)
                size += len(chunk)
                self._held += len(chunk)
                self._check_size(size)
                if self._held > BODIES * self._max_body:
                    raise Overloaded("too many bodies are being read; try again later")
            body = b"".join(chunks)
            chunks.clear()
            yield body
        finally:
            self._held -= size

    async def ask(self, request: Request, payload: Any) -> Answer:
        """What the model answers; given up when the client hangs up."""
        async with _CancelWhenGone(request):
            answer, _ = await self._model(payload, request.headers)
        return answer

    def _check_size(self, size: int) -> None:
        if size > self._max_body:
            raise TooLarge(f"the body is over the limit of {self._max_body} bytes")

    def _check_served(self, request: Request) -> None:
        parameters = request.path_params
        self._model.check_served(parameters["name"], parameters.get("version"))


async def closed(_: Request) -> Response:
    """What an endpoint of the SDK answers that is not offered here."""
    raise HTTPException(HTTPStatus.NOT_FOUND)


class _CancelWhenGone:
    """Cancels what the enclosing task awaits when the client has hung up."""

    def __init__(self, request: Request) -> None:
        self._receive = request.receive
        self._watch: asyncio.Task[None] | None = None
        self._gone = False

    async def __aenter__(self) -> None:
        self._task = asyncio.current_task()
        self._timer = asyncio.get_running_loop().call_later(PATIENCE, self._start)

    def _start(self) -> None:
        self._watch = asyncio.ensure_future(self._wait())

    async def _wait(self) -> None:
        # The body has been read: the next message can only be the disconnection.
        await self._receive()
        if self._task:
            self._gone = True
            self._task.cancel()

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._timer.cancel()
        if self._watch is not None:
            self._watch.cancel()
        if self._gone and kind is asyncio.CancelledError:
            raise ClientDisconnect


def v1_response(answer: Answer) -> Response:
    """A V1 answer as a response."""
    return Response(
        write_json(answer), media_type="application/json", headers=version_header(answer)
    )


def version_header(answer: Answer) -> dict[str, str]:
    """The header that names the version that answered."""
    if isinstance(answer, InferResponse):
        return {VERSION_HEADER: answer.model_version}
    return {VERSION_HEADER: answer["model_version"]}


def model_metadata(model: ServedModel) -> dict[str, Any]:
    """V2 metadata of ``model``; ``versions`` only where the program knows its version."""
    versions = {} if model.version is None else {"versions": [model.version]}
    return {
        "name": model.name,
        **versions,
        "platform": model.platform,
        "inputs": model.get_input_types(),
        "outputs": model.get_output_types(),
    }


EXPECTED = ServingError, HTTPException, ClientDisconnect, ModelNotFound, httpx.HTTPError
"""What is raised to be told to the caller; anything else is a defect."""


def error_response(error: Exception) -> Response:
    """What a caller is told of an error: ``{"error": "…"}``, as by KServe."""
    headers: Mapping[str, str] | None = None
    message = str(error)
    match error:
        case ServingError():
            status: int = error.http_status
            if error.retry_after is not None:
                headers = {"retry-after": str(error.retry_after)}
        case HTTPException():
            status, message, headers = error.status_code, error.detail, error.headers
        case ModelNotFound():  # the SDK's repeats all of the name
            return error_response(NotFound(message))
        case httpx.HTTPError():  # the SDK's health check, --enable_predictor_health_check
            status, message = HTTPStatus.SERVICE_UNAVAILABLE, "the predictor is away"
        case ClientDisconnect():
            status, message = CLIENT_GONE, "the client hung up"  # nobody reads it
        case _:
            status, message = HTTPStatus.INTERNAL_SERVER_ERROR, "internal error"
    return JSONResponse({"error": message}, status, headers)


def tell_errors(app: FastAPI) -> None:
    """Have ``app`` answer what is raised in it by ``error_response``."""

    async def handle(_: Request, error: Exception) -> Response:
        return error_response(error)

    for kind in (*EXPECTED, Exception):
        app.add_exception_handler(kind, handle)
