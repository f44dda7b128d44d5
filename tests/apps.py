"""Both programs as apps in this process: thousands of requests take seconds.

They have all routes and error handlers of the real ones. What is missing is the HTTP server, with
its limits, the call from the transformer to the predictor, which is a call of the graph here, and
Envoy.
"""

from typing import Any

import httpx
from fastapi import FastAPI
from kserve import ModelRepository
from kserve.protocol.model_repository_extension import ModelRepositoryExtension
from kserve.protocol.rest.server import RESTServer

from predictor import artifact
from predictor.model import Predictor
from serving.app import App
from serving.message import Request
from serving.model import ServedModel
from serving.rest import tell_errors
from serving.scores import Images, Scores
from serving.server import DataPlane
from tests import programs
from transformer.model import Transformer
from transformer.routes import add_routes

MAX_INSTANCES = 8
MAX_PIXELS = 1_000_000


class Graph:
    """Scores as the predictor does, with no predictor between."""

    def __init__(self, version: artifact.Model) -> None:
        self._version = version

    async def score(self, images: Images) -> Scores:
        probabilities, accepted = self._version.graph(images)
        version = str(self._version.metadata.version)
        return Scores(probabilities, accepted, version)

    async def close(self) -> None:
        pass


def load() -> artifact.Model:
    return artifact.load(programs.ROOT / "models/mnist/1")


def predictor(version: artifact.Model) -> Predictor:
    return Predictor(
        "mnist", version, max_instances=MAX_INSTANCES, max_batch=64, max_pending=1024, max_linger=0
    )


def transformer(
    version: artifact.Model, *, decode_threads: int = 2, timeout: float = 60
) -> Transformer:
    return Transformer(
        "mnist",
        Graph(version),
        max_instances=MAX_INSTANCES,
        max_pixels=MAX_PIXELS,
        max_pending=1024,
        max_batch=64,
        max_wait=0,
        max_linger=0,
        max_calls=4,
        timeout=timeout,
        decode_threads=decode_threads,
    )


def dataplane(model: ServedModel) -> DataPlane:
    models: Any = ModelRepository()
    models.update(model)
    model.start()
    return DataPlane(models)


def app(model: ServedModel) -> App:
    """The app of the program that serves ``model``."""
    rest = FastAPI(docs_url=None, redoc_url=None)
    app = App(model, rest)
    if isinstance(model, Transformer):
        add_routes(app)
    plane = dataplane(model)
    server = RESTServer(rest, plane, ModelRepositoryExtension(plane.model_registry), 0)
    server._register_endpoints(rest)
    server._add_exception_handlers(rest)
    tell_errors(rest)
    return app


class Transport(httpx.AsyncBaseTransport):
    """To an app in this process."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._asgi = httpx.ASGITransport(app, raise_app_exceptions=False)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        found = self._app.find(request.url.path) if request.method == "POST" else None
        if found is None:
            return await self._asgi.handle_async_request(request)
        query = request.url.query.decode()
        asked = Request(
            found.parameters, query, dict(request.headers), request.aread, lambda: False
        )
        answer = await self._app.answer(found, asked)
        return httpx.Response(answer.status, headers=answer.headers, content=answer.body)


def client(app: App) -> httpx.AsyncClient:
    """A client of an app in this process."""
    return httpx.AsyncClient(transport=Transport(app), base_url="http://service")
