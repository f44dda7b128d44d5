"""Nobody gets in where nothing is offered, and nobody sends the programs anywhere."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import grpc
import httpx
import pytest
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb

from tests import programs
from tests.digits import draw, encode
from tests.forms import V1

pytestmark = pytest.mark.anyio

SEVEN = encode(draw(7, 40))
CLOSED = (
    "/docs",
    "/metrics",
    "/openapi.json",
    "/redoc",
    "/v1/models/mnist:explain",
    "/v2/repository/index",
    "/v2/repository/models/mnist/load",
    "/v2/repository/models/mnist/unload",
)


class Stranger:
    """A server where the predictor should be; it remembers what it was sent, and is not ready."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, dict[str, str]]] = []
        requests = self.requests

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                headers = {name.lower(): value for name, value in self.headers.items()}
                requests.append((self.path, headers))
                self.send_response(503, "at 10.0.0.7")
                self.send_header("Content-Length", "10")
                self.end_headers()
                self.wfile.write(b"Traceback ")

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture(scope="module")
def stranger() -> Iterator[Stranger]:
    running = Stranger()
    yield running
    running.server.shutdown()
    running.server.server_close()


@pytest.fixture(scope="module")
def transformer(
    tmp_path_factory: pytest.TempPathFactory, stranger: Stranger
) -> Iterator[programs.Program]:
    folder: Path = tmp_path_factory.mktemp("closed")
    with programs.transformer(folder, stranger.address, "--enable_docs_url=true") as running:
        yield running


@pytest.mark.parametrize("path", CLOSED)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_what_is_not_offered_is_not_there(
    transformer: programs.Program, predictor: programs.Program, method: str, path: str
) -> None:
    for program in (transformer, predictor):
        answer = httpx.request(method, program.url + path)
        assert (answer.status_code, answer.json()) == (404, {"error": "Not Found"})
        assert httpx.get(f"{program.url}/v2/models/mnist/ready").status_code == 200


@pytest.mark.parametrize("path", ["/v1/models/mnist:predict", "/v2/models/mnist/infer"])
def test_the_sdks_inference_cannot_be_reached_behind_ours(
    predictor: programs.Program, path: str
) -> None:
    """Its patterns end with ``$``, which a line feed may follow."""
    answer = httpx.post(predictor.url + path + "%0A", json={"instances": []})
    assert answer.status_code == 404


@pytest.mark.parametrize("method", ["RepositoryModelLoad", "RepositoryModelUnload"])
async def test_nobody_manages_models_by_grpc(
    transformer: programs.Program, predictor: programs.Program, method: str
) -> None:
    message = pb.RepositoryModelLoadRequest(model_name="mnist").SerializeToString()
    for program in (transformer, predictor):
        async with grpc.aio.insecure_channel(program.grpc_address) as channel:
            call = channel.unary_unary(f"/inference.GRPCInferenceService/{method}")(message)
            assert await call.code() == grpc.StatusCode.UNIMPLEMENTED


def test_a_caller_does_not_choose_where_the_transformer_calls(
    transformer: programs.Program, stranger: Stranger
) -> None:
    """Neither address, path nor headers, but for the ids of the request."""
    chosen = {
        "host": "evil.example",
        "forwarded": "host=evil.example",
        "x-forwarded-host": "evil.example",
        "x-original-url": "/evil.example",
        "authorization": "Bearer evil",
        "cookie": "evil=1",
        "inference-header-content-length": "3",
        "ce-specversion": "1.0",
        "ce-id": "1",
        "ce-type": "t",
        "ce-source": "http://evil.example",
        "ce-dataschema": "http://evil.example",
        "content-type": "image/evil",
    }
    stranger.requests.clear()
    answer = httpx.post(
        f"{transformer.url}{V1}?url=http://evil.example", content=SEVEN, headers=chosen
    )
    assert answer.status_code == 503
    (path, headers) = stranger.requests[0]
    assert path == "/v2/models/mnist/infer"
    assert headers["host"] == stranger.address
    assert not [name for name, value in headers.items() if "evil" in value]


@pytest.mark.parametrize(
    "image", [{"url": "http://127.0.0.1:9"}, {"b64": "http://127.0.0.1:9"}, "http://127.0.0.1:9"]
)
def test_an_image_that_is_somewhere_else_is_not_fetched(
    transformer: programs.Program, image: object
) -> None:
    answer = httpx.post(transformer.url + V1, json={"instances": [{"image": image}]})
    assert answer.status_code == 400
    assert answer.json()["error"].startswith("instance 0: expected")


def test_an_error_of_the_predictor_shows_nothing_of_it(
    transformer: programs.Program, stranger: Stranger
) -> None:
    answer = httpx.post(transformer.url + V1, content=SEVEN)
    assert answer.status_code == 503
    for detail in ("10.0.0.7", "Traceback", stranger.address, "127.0.0.1"):
        assert detail not in answer.text + str(answer.headers)
