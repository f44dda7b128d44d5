"""HTTP requests and answers, as our endpoints and our calls see them."""

import json
from collections.abc import Awaitable, Callable, Iterable, Mapping
from http import HTTPStatus
from typing import NamedTuple

_STATUS_LINE = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n" for status in HTTPStatus
}


class Request(NamedTuple):
    """A POST to the path of an inference."""

    parameters: Mapping[str, str | None]
    """The variable parts of the path, by name."""
    query: str
    """The query string, without the question mark."""
    headers: Mapping[str, str]
    """Names are in lower case; of several with the same name, the last counts."""
    read: Callable[[], Awaitable[bytes]]
    """Returns the body; may be called once.

    Raises:
        HTTPException: 415, it has a Content-Encoding.
        TooLarge: it is over the limit.
        Overloaded: the bodies of all requests take too much room.
    """
    is_gone: Callable[[], bool]
    """Whether the client has hung up; then the answer is cancelled."""


class Response(NamedTuple):
    """An answer, whatever its status."""

    status: int
    headers: dict[str, str]
    """Names are in lower case; of several with the same name, the last counts."""
    body: bytes

    def encode(
        self, fixed: Iterable[tuple[bytes, bytes]] = (), *, keep_alive: bool = True
    ) -> bytes:
        """The whole answer as it is sent. ``content-length`` is added here, and not in ``headers``.

        Args:
            fixed: headers that every answer has.
            keep_alive: whether the connection stays open.

        Raises:
            ValueError: a header has a line break in it.
        """
        close = "" if keep_alive else "connection: close\r\n"
        fields = f"{write_headers(self.headers)}content-length: {len(self.body)}\r\n{close}"
        head = _STATUS_LINE[self.status] + fields
        always = b"".join([b"%b: %b\r\n" % header for header in fixed])
        return b"%b%b\r\n%b" % (head.encode("latin-1"), always, self.body)


def write_headers(headers: Mapping[str, str]) -> str:
    """The headers, each on a line.

    Raises:
        ValueError: one has a line break in it.
    """
    fields = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    if not fields.count("\r") == fields.count("\n") == len(headers):
        raise ValueError("a line break in a header")
    return fields


def refusal(status: int, error: str, headers: Mapping[str, str] | None = None) -> Response:
    """An error in KServe's form: ``{"error": "…"}``."""
    text = json.dumps({"error": error}, ensure_ascii=False, separators=(",", ":"))
    # A lone surrogate, which UTF-8 cannot encode, becomes its JSON escape.
    body = text.encode(errors="backslashreplace")
    return Response(status, {"content-type": "application/json", **(headers or {})}, body)
