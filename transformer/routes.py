"""Routes besides the inference protocols: the upload form and the playground."""

import re
from collections.abc import AsyncGenerator
from http import HTTPStatus
from pathlib import Path

from python_multipart.multipart import parse_options_header
from starlette.datastructures import Headers, UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response

from serving import message
from serving.app import App
from serving.errors import InvalidInput, TooLarge
from serving.inference import v1_response
from transformer.payload import Upload

PLAYGROUND = Path(__file__).with_name("playground.html").read_text(encoding="utf-8")
# The page is one file and talks only to this host.
POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "img-src 'self' data: blob:; connect-src 'self'; form-action 'none'; base-uri 'none'; "
    "frame-ancestors 'none'"
)

BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,./:=? -]{1,70}")
"""What may separate the parts of a form, by RFC 2046."""
MOST_PARAMETERS = 20
"""Most parameters of a form or of a part of it; semicolons in a file name count too. The time to
parse them grows with the square of their number."""
MOST_BOUNDARIES = 2001
"""Most boundaries behind the first: of as many parts as Starlette reads. Also counted are those in
a file, where none should be; the parser, in Python, takes 1 µs for each."""
PADDING = 100
"""Fewest blanks behind a boundary that are too many: each takes the parser 0.2 µs."""


def add_routes(app: App) -> None:
    """Add ``/``, ``/playground`` and ``/predict``."""

    async def predict(request: message.Request) -> message.Response:
        """Files of a form: ``curl -F images=@digit.png …/predict``."""
        body = await request.read()
        files = await read_form(request.headers.get("content-type", ""), body)
        show_picture = "picture=true" in request.query.split("&")
        return v1_response(await app.endpoints.ask(request, Upload(files, show_picture)))

    app.add("/predict", "form", predict)
    app.kserve.add_route("/", root, methods=["GET"])
    app.kserve.add_route("/playground", playground, methods=["GET"])


async def root(request: Request) -> Response:
    """The health check; browsers are redirected to the playground."""
    if "text/html" in request.headers.get("accept", ""):
        return RedirectResponse("playground")
    return JSONResponse({"status": "alive"})


async def playground(_: Request) -> Response:
    """The page where anyone can draw a digit."""
    return HTMLResponse(
        PLAYGROUND,
        headers={"content-security-policy": POLICY, "x-content-type-options": "nosniff"},
    )


class FormParser(MultiPartParser):
    """Starlette's parser, but files stay in memory, where the body is already."""

    spool_max_size = 0  # so Python's SpooledTemporaryFile never writes to disk
    is_complete = False

    def on_headers_finished(self) -> None:
        """A part begins."""
        if (self._current_part.content_disposition or b"").count(b";") > MOST_PARAMETERS:
            raise MultiPartException(f"a part has more than {MOST_PARAMETERS} parameters")
        super().on_headers_finished()

    def on_end(self) -> None:
        """The closing boundary has come; Starlette does not require it."""
        self.is_complete = True


async def read_form(content_type: str, body: bytes) -> list[bytes]:
    """The files of a multipart form, in order, at least one.

    Raises:
        HTTPException: 415, the body is not a multipart form.
        InvalidInput: the form is malformed, or has no file.
        TooLarge: it has more than a thousand files or fields, the most that Starlette reads, or
            more boundaries than these need.
    """

    async def stream() -> AsyncGenerator[bytes, None]:
        yield body
        if not parser.is_complete:
            raise MultiPartException("it ends before its closing boundary")

    if content_type.count(";") > MOST_PARAMETERS:
        raise InvalidInput(f"not a valid form: it has more than {MOST_PARAMETERS} parameters")
    kind, parameters = parse_options_header(content_type)
    if kind != b"multipart/form-data":
        raise HTTPException(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            "expected multipart/form-data with at least one file",
        )
    boundary = parameters.get(b"boundary", b"").decode("latin-1")
    if not BOUNDARY.fullmatch(boundary):
        raise InvalidInput("not a valid form: its boundary is missing or not as in RFC 2046")
    _check_boundaries(body, b"\r\n--" + boundary.encode())
    # Without the client's charset: the form's texts are not used, and some of Python's codecs take
    # a quarter of a minute for a megabyte.
    headers = Headers({"content-type": f'multipart/form-data; boundary="{boundary}"'})
    parser = FormParser(headers, stream())
    try:
        form = await parser.parse()
    except MultiPartException as error:
        if error.message.startswith("Too many"):
            raise TooLarge(error.message) from None
        raise InvalidInput(f"not a valid form: {error.message}") from None
    try:
        fields = [field for _, field in form.multi_items()]
        files = [await field.read() for field in fields if isinstance(field, UploadFile)]
    finally:
        await form.close()
    if not files:
        raise InvalidInput("expected at least one file in the form")
    return files


def _check_boundaries(body: bytes, boundary: bytes) -> None:
    """Check that a form does not have too many boundaries, nor too many blanks behind one.

    Raises:
        InvalidInput, TooLarge: it has.
    """
    at = body.find(boundary)
    for _ in range(MOST_BOUNDARIES):
        if at < 0:
            return
        at += len(boundary)
        padding = body[at : at + PADDING]
        if len(padding) == PADDING and not padding.strip(b" \t"):
            raise InvalidInput(f"not a valid form: {PADDING} blanks and more at a boundary")
        at = body.find(boundary, at)
    if at >= 0:
        raise TooLarge(f"the form has more than {MOST_BOUNDARIES:,} boundaries")
