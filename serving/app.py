"""The app of both programs: it answers inferences itself and leaves the rest to KServe's app.

FastAPI's layers and routing would cost an inference more than reading the request and writing the
answer (docs/decisions/speed.md).
"""

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable
from functools import lru_cache
from http import HTTPStatus
from time import perf_counter
from typing import NamedTuple, TypeAlias

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.types import Message, Receive, Scope, Send

from serving import access, context, rest
from serving.errors import Overloaded
from serving.gate import TOO_MANY
from serving.inference import VERSION_HEADER, Endpoints
from serving.message import Request, Response, refusal
from serving.metrics import CLIENT_GONE, export_zeros, observe
from serving.model import ServedModel

log = logging.getLogger(__name__)

ONLY_POST = HTTPException(HTTPStatus.METHOD_NOT_ALLOWED, headers={"allow": "POST"})

Endpoint: TypeAlias = Callable[[Request], Awaitable[Response]]


class Found(NamedTuple):
    """The inference that a path asks for."""

    endpoint: Endpoint
    protocol: str
    parameters: dict[str, str | None]


class App:
    """Answers inferences: measures each, adds its id and the version, turns errors into JSON."""

    def __init__(self, model: ServedModel, kserve: FastAPI) -> None:
        """Serve ``model``; ``kserve`` answers everything that is not an inference.

        Answers that name no version, such as errors, get the model's.
        """
        self.kserve = kserve
        kserve.router.redirect_slashes = False  # it would redirect to any host a caller names
        rest.add_routes(kserve, model)
        self.endpoints = Endpoints(model)
        self._version = model.version or ""
        export_zeros(self._version)
        overloaded = refusal(*rest.told(Overloaded(TOO_MANY)))
        if self._version:
            overloaded.headers[VERSION_HEADER] = self._version
        self.overloaded = overloaded.encode()
        """The answer to a request that exceeds the limit, encoded once."""
        self._inferences: list[tuple[re.Pattern[str], str, Endpoint]] = []
        self.find = lru_cache(maxsize=32)(self._find)
        self.add(r"/v1/models/(?P<name>[^/]+):predict", "v1", self.endpoints.predict)
        self.add(
            r"/v2/models/(?P<name>[^/]+)(/versions/(?P<version>[^/]+))?/infer",
            "v2",
            self.endpoints.infer,
        )

    def add(self, path: str, protocol: str, endpoint: Endpoint) -> None:
        """Let ``endpoint`` answer POSTs to ``path``, a regular expression, as inferences.

        Its named groups become the request's ``parameters``; ``protocol`` is a label of the
        metrics.
        """
        self._inferences.append((re.compile(path), protocol, endpoint))
        self.find.cache_clear()

    def _find(self, path: str) -> Found | None:
        """The inference that a POST to ``path`` asks for, if any."""
        for pattern, protocol, endpoint in self._inferences:
            if match := pattern.fullmatch(path):
                return Found(endpoint, protocol, match.groupdict())
        return None

    async def answer(self, found: Found, request: Request) -> Response:
        """Answer an inference. Errors become answers; only ``CancelledError`` is raised."""
        protocol, headers = found.protocol, request.headers
        named = (context.REQUEST_ID, context.TRACEPARENT, context.TRACESTATE)
        observed = access.begin(protocol, *[headers.get(name, "") for name in named])
        status, version = 0, self._version
        try:
            response = await _respond(found.endpoint, request)
            status = response.status
            version = response.headers.get(VERSION_HEADER, version)
            if version:
                response.headers[VERSION_HEADER] = version
            response.headers[context.REQUEST_ID] = observed.request_id
            return response
        except asyncio.CancelledError:
            status = CLIENT_GONE if request.is_gone() else 0
            raise
        finally:
            access.end(observed, protocol, status, version, perf_counter() - observed.arrived)

    def refused(self, path: str) -> None:
        """Count an inference that was refused with 429 before it got here."""
        if found := self.find(path):
            observe(found.protocol, HTTPStatus.TOO_MANY_REQUESTS, self._version, 0)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer everything that is not an inference, as an ASGI app."""

        async def send_and_drain(message: Message) -> None:
            if message["type"] == "http.response.body" and not message.get("more_body"):
                await send({**message, "more_body": True})
                # To close with part of a body unread would reset the connection; nobody reads one.
                while (await receive()).get("more_body"):
                    pass
                message = {"type": message["type"]}
            await send(message)

        # A task has the context of the one that made it, such as an inference's before it.
        context.enter(context.RequestContext())
        if scope["type"] == "http" and self.find(scope["path"]):
            await rest.error_response(ONLY_POST)(scope, receive, send_and_drain)
        else:
            await self.kserve(scope, receive, send_and_drain)


async def _respond(endpoint: Endpoint, request: Request) -> Response:
    try:
        return await endpoint(request)
    except Exception as error:
        if not isinstance(error, rest.EXPECTED):
            log.exception("a defect")
        return refusal(*rest.told(error))
