"""What the transformer answers beyond the inference protocols: upload form and playground."""

from collections.abc import AsyncGenerator
from http import HTTPStatus
from pathlib import Path

from fastapi import FastAPI
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response

from serving.errors import InvalidInput, TooLarge
from serving.rest import Endpoints, v1_response
from transformer.payload import Upload

PLAYGROUND = Path(__file__).with_name("playground.html").read_text(encoding="utf-8")
# The page is one file and talks to this host alone.
POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "img-src 'self' data: blob:; connect-src 'self'; form-action 'none'; base-uri 'none'; "
    "frame-ancestors 'none'"
)


def add_routes(app: FastAPI, endpoints: Endpoints) -> None:
    """Add ``/``, ``/playground`` and ``/predict``."""

    async def predict(request: Request) -> Response:
        """Files of a form: ``curl -F images=@digit.png …/predict``."""
        async with endpoints.body(request) as body:
            show_picture = request.query_params.get("picture") == "true"
            upload = Upload(await read_form(request, body), show_picture)
            return v1_response(await endpoints.ask(request, upload))

    app.add_route("/", root, methods=["GET"])
    app.add_route("/playground", playground, methods=["GET"])
    app.add_route("/predict", predict, methods=["POST"])


async def root(request: Request) -> Response:
    """The health check; a browser is shown the way to the playground."""
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
    """Starlette's parser, with the files kept in memory: the body is there already."""

    spool_max_size = 0  # Python's SpooledTemporaryFile: never on disk


async def read_form(request: Request, body: bytes) -> list[bytes]:
    """The files of a multipart form, in order, at least one.

    Raises:
        HTTPException: 415, the body is no multipart form.
        InvalidInput: it is a broken one, or has no file.
        TooLarge: it has more files or fields than Starlette reads, a thousand each.
    """

    async def stream() -> AsyncGenerator[bytes, None]:
        yield body

    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise HTTPException(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            "expected multipart/form-data with at least one file",
        )
    try:
        form = await FormParser(request.headers, stream()).parse()
    except MultiPartException as error:
        if error.message.startswith("Too many"):
            raise TooLarge(error.message) from None
        raise InvalidInput(f"not a valid form: {error.message}") from None
    files = [await field.read() for _, field in form.multi_items() if isinstance(field, UploadFile)]
    if not files:
        raise InvalidInput("expected at least one file in the form")
    return files
