"""Sees every request over HTTP from outside of the app: times it, names it and the version."""

import logging
from http import HTTPStatus
from time import perf_counter
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving import access, context, http
from serving.metrics import observe
from serving.rest import VERSION_HEADER

log = logging.getLogger(__name__)

VERSION = VERSION_HEADER.encode()
REQUEST_ID, TRACEPARENT, TRACESTATE = (
    name.encode() for name in (context.REQUEST_ID, context.TRACEPARENT, context.TRACESTATE)
)


class Observer:
    """An ASGI app around the one that answers.

    It is no middleware of that app, since the answer to a defect is made outside of those.
    """

    def __init__(self, app: ASGIApp, version: str | None) -> None:
        """Observe ``app``; ``version`` is named on answers that name none, errors above all."""
        self._app = app
        self._version = version or ""

    @property
    def overloaded(self) -> bytes:
        """The answer to a request that is one too many."""
        headers = [f"{VERSION_HEADER}: {self._version}"] if self._version else []
        status = HTTPStatus.TOO_MANY_REQUESTS
        return http.response(status, "overloaded; try again later", "retry-after: 1", *headers)

    def refused(self, path: str) -> None:
        """Count a request that was refused before it got here."""
        protocol = _protocol({"type": "http", "method": "POST", "path": path})
        if protocol is not None:
            observe(protocol, HTTPStatus.TOO_MANY_REQUESTS, self._version, 0)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, and observe it if it is for an inference."""
        protocol = _protocol(scope)
        if protocol is None:
            await self._app(scope, receive, send)
            return
        status, version, is_complete = 0, self._version, False
        headers = dict(scope["headers"])
        named = (headers.get(name, b"") for name in (REQUEST_ID, TRACEPARENT, TRACESTATE))
        request = access.begin(protocol, *(value.decode("latin-1") for value in named))

        async def pass_on(message: Message) -> None:
            nonlocal status, version, is_complete
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = list(message["headers"])
                named = dict(headers).get(VERSION)
                if named is not None:
                    version = named.decode()
                elif version:
                    headers.append((VERSION, version.encode()))
                headers.append((REQUEST_ID, request.request_id.encode()))
                message["headers"] = headers
            await send(message)
            is_complete = message["type"] == "http.response.body" and not message.get("more_body")

        start = perf_counter()
        try:
            await self._app(scope, receive, pass_on)
        except Exception:
            if not is_complete:
                raise
            # Starlette raises what it has answered with 500. For uvicorn that would be a reason to
            # close the connection, on which a proxy may be sending the next request already.
            log.exception("a defect")
        finally:
            access.end(request, protocol, status, version, perf_counter() - start)


def _protocol(scope: Any) -> str | None:
    """The protocol of an inference; ``None`` for whatever else is asked."""
    if scope["type"] != "http" or scope["method"] != "POST":
        return None
    path: str = scope["path"]
    if path.startswith("/v1/models/") and path.endswith(":predict"):
        return "v1"
    if path.startswith("/v2/models/") and path.endswith("/infer"):
        return "v2"
    return "form" if path == "/predict" else None
