"""The ASGI app of both programs: inferences are answered and observed here, all else by KServe's.

FastAPI's layers and its routing cost an inference more than reading and writing it
(docs/decisions/speed.md).
"""

import logging
import re
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from time import perf_counter
from typing import Any, TypeAlias

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from serving import access, context, http
from serving.metrics import observe
from serving.model import ServedModel
from serving.rest import EXPECTED, VERSION_HEADER, Endpoints, error_response

log = logging.getLogger(__name__)

VERSION = VERSION_HEADER.encode()
REQUEST_ID, TRACEPARENT, TRACESTATE = (
    name.encode() for name in (context.REQUEST_ID, context.TRACEPARENT, context.TRACESTATE)
)
ONLY_POST = HTTPException(HTTPStatus.METHOD_NOT_ALLOWED, headers={"allow": "POST"})

Endpoint: TypeAlias = Callable[[Request], Awaitable[Response]]


class App:
    """Times each inference, names it and the version, and tells errors in one form."""

    def __init__(self, model: ServedModel, rest: FastAPI, *, max_body: int) -> None:
        """Serve ``model``.

        Args:
            model: what answers; its version is named on answers that name none, errors above all.
            rest: answers what is no inference.
            max_body: bytes that a body may have.
        """
        self.rest = rest
        rest.router.redirect_slashes = False  # which goes to whatever host a caller names
        self.endpoints = Endpoints(model, max_body=max_body)
        self.endpoints.add_to(rest)
        self._version = model.version or ""
        self._inferences: list[tuple[re.Pattern[str], str, Endpoint]] = []
        self.add(r"/v1/models/(?P<name>[^/]+):predict", "v1", self.endpoints.predict)
        self.add(
            r"/v2/models/(?P<name>[^/]+)(/versions/(?P<version>[^/]+))?/infer",
            "v2",
            self.endpoints.infer,
        )

    def add(self, path: str, protocol: str, endpoint: Endpoint) -> None:
        """Have ``endpoint`` answer a POST to ``path``, a regular expression, as an inference.

        What its groups find becomes the request's ``path_params``; ``protocol`` is a label of the
        metrics.
        """
        self._inferences.append((re.compile(path), protocol, endpoint))

    @property
    def overloaded(self) -> bytes:
        """The answer to a request that is one too many."""
        headers = [f"{VERSION_HEADER}: {self._version}"] if self._version else []
        status = HTTPStatus.TOO_MANY_REQUESTS
        return http.response(status, "overloaded; try again later", "retry-after: 1", *headers)

    def refused(self, path: str) -> None:
        """Count a request that was refused before it got here."""
        if found := self._find(path):
            _, protocol, _ = found
            observe(protocol, HTTPStatus.TOO_MANY_REQUESTS, self._version, 0)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        found = self._find(scope["path"]) if scope["type"] == "http" else None
        if found is None:
            await self.rest(scope, receive, send)
            return
        if scope["method"] != "POST":
            await error_response(ONLY_POST)(scope, receive, send)
            return
        scope["path_params"], protocol, endpoint = found
        headers = dict(scope["headers"])
        named = (headers.get(name, b"") for name in (REQUEST_ID, TRACEPARENT, TRACESTATE))
        request = access.begin(protocol, *(value.decode("latin-1") for value in named))
        status, version, start = 0, self._version, perf_counter()
        try:
            response = await _respond(endpoint, Request(scope, receive))
            status = response.status_code
            if answered := dict(response.raw_headers).get(VERSION):
                version = answered.decode()
            elif version:
                response.raw_headers.append((VERSION, version.encode()))
            response.raw_headers.append((REQUEST_ID, request.request_id.encode()))
            await response(scope, receive, send)
        finally:
            access.end(request, protocol, status, version, perf_counter() - start)

    def _find(self, path: str) -> tuple[dict[str, Any], str, Endpoint] | None:
        for pattern, protocol, endpoint in self._inferences:
            if match := pattern.fullmatch(path):
                return match.groupdict(), protocol, endpoint
        return None


async def _respond(endpoint: Endpoint, request: Request) -> Response:
    try:
        return await endpoint(request)
    except Exception as error:
        if not isinstance(error, EXPECTED):
            log.exception("a defect")
        return error_response(error)
