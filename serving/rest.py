"""Our routes in KServe's app besides inferences, such as metadata, and our form of errors.

The routes replace the SDK's own on the same paths, which cannot name the model's version.
"""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from kserve.errors import ModelNotFound, ModelNotReady, ServerNotLive, ServerNotReady
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from serving.errors import NotFound, ServingError
from serving.model import ServedModel

CLOSED = (
    "/metrics",
    "/v1/models/{name}:explain",
    "/v2/repository/models/{name}/load",
    "/v2/repository/models/{name}/unload",
)
"""Paths of the SDK that are closed: metrics have a port of their own, there is no explainer, and a
caller who unloads a model takes it away from everyone else."""
ANSWERED = (
    "/v1/models/{name}:predict",
    "/v2/models/{name}/infer",
    "/v2/models/{name}/versions/{version}/infer",
)
"""The SDK's paths of inferences, closed too: ``serving.app`` answers them, but with a line break at
the end they would still reach the SDK."""


def add_routes(app: FastAPI, model: ServedModel) -> None:
    """Add our routes before the SDK's: of two with the same path, the first one answers."""

    def check_served(request: Request) -> None:
        parameters = request.path_params
        model.check_served(parameters["name"], parameters.get("version"))

    async def ready(request: Request) -> Response:
        """V2 readiness of a version; without a version the SDK answers."""
        check_served(request)
        is_ready = await model.healthy()
        status = HTTPStatus.OK if is_ready else HTTPStatus.SERVICE_UNAVAILABLE
        return JSONResponse({"name": model.name, "ready": is_ready}, status)

    async def metadata(request: Request) -> Response:
        """V2 model metadata."""
        check_served(request)
        return JSONResponse(model_metadata(model))

    version = "/v2/models/{name}/versions/{version}"
    for path in ("/v2/models/{name}", version):
        app.add_route(path, metadata, methods=["GET"])
    app.add_route(f"{version}/ready", ready, methods=["GET"])
    for path in CLOSED:
        app.add_route(path, closed, methods=["GET", "POST"])
    for path in ANSWERED:
        app.add_route(path, closed, methods=["POST"])


async def closed(_: Request) -> Response:
    """Answer 404 for a path of the SDK that is not offered here."""
    raise HTTPException(HTTPStatus.NOT_FOUND)


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


EXPECTED = (
    ServingError,
    HTTPException,
    ModelNotFound,
    ModelNotReady,
    ServerNotReady,
    ServerNotLive,
)
"""Errors whose message the caller gets; any other exception is a defect."""


def told(error: Exception) -> tuple[int, str, Mapping[str, str] | None]:
    """What a caller is told of an error: status, message, headers."""
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
            return told(NotFound(message))
        case ModelNotReady() | ServerNotReady() | ServerNotLive():
            status = HTTPStatus.SERVICE_UNAVAILABLE
        case _:
            status, message = HTTPStatus.INTERNAL_SERVER_ERROR, "internal error"
    return status, message, headers


def error_response(error: Exception) -> Response:
    """The answer to an error, in KServe's form: ``{"error": "…"}``."""
    status, message, headers = told(error)
    return JSONResponse({"error": message}, status, headers)


def tell_errors(app: FastAPI) -> None:
    """Have ``app`` answer exceptions with ``error_response``."""

    async def handle(_: Request, error: Exception) -> Response:
        return error_response(error)

    for kind in (*EXPECTED, Exception):
        app.add_exception_handler(kind, handle)
