"""Calls to the predictor, over real HTTP and gRPC: what comes back, and what goes wrong."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import numpy as np
import pytest
from aiohttp import web
from kserve import PredictorConfig
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import (
    GRPCInferenceServiceServicer,
    add_GRPCInferenceServiceServicer_to_server,
)

from serving.errors import Failed, Overloaded, TimedOut, Unavailable
from serving.scores import Images, Scores
from transformer.client import client_for

pytestmark = pytest.mark.anyio

IMAGES = np.arange(3 * 784, dtype=np.uint8).reshape(3, 28, 28)
PROBABILITIES = np.linspace(0, 1, 30, dtype=np.float32).reshape(3, 10)
ACCEPTED = np.array([True, False, True])
OUTPUTS = (
    ("probabilities", "FP32", [3, 10], PROBABILITIES.tobytes()),
    ("accepted", "BOOL", [3], ACCEPTED.tobytes()),
)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def config(address: str, protocol: str = "v2", *, retries: int = 0) -> Any:
    return PredictorConfig(
        address,
        predictor_protocol=protocol,
        predictor_request_retries=retries,
        predictor_request_timeout_seconds=1,
    )


def answer(outputs: Any, version: Any) -> web.Response:
    """In V2, with raw tensors: name, datatype, shape and data of each."""
    named = [{"name": n, "datatype": d, "shape": s} for n, d, s, _ in outputs]
    header = json.dumps({"model_version": version, "outputs": named}).encode()
    return web.Response(
        body=header + b"".join(data for *_, data in outputs),
        headers={"Inference-Header-Content-Length": str(len(header))},
    )


class HTTPPredictor:
    """A predictor on a real port whose next answers a test chooses."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, dict[str, Any], bytes]] = []
        self.handlers: list[Handler] = []

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        length = int(request.headers["Inference-Header-Content-Length"])
        self.requests.append((request.path, json.loads(body[:length]), body[length:]))
        if self.handlers:
            return await self.handlers.pop(0)(request)
        return answer(OUTPUTS, "2")


@pytest.fixture
async def predictor() -> AsyncIterator[tuple[HTTPPredictor, str]]:
    predictor = HTTPPredictor()
    app = web.Application()
    app.router.add_post("/{path:.*}", predictor.handle)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield predictor, f"127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


async def score(config: Any, images: Images = IMAGES) -> Scores:
    client = client_for(config, "mnist")
    try:
        return await client.score(images)
    finally:
        await client.close()


async def test_http_sends_raw_tensors_and_reads_raw_scores(
    predictor: tuple[HTTPPredictor, str],
) -> None:
    server, address = predictor
    scores = await score(config(address))
    ((path, header, binary),) = server.requests
    assert path == "/v2/models/mnist/infer"
    assert header["inputs"][0]["shape"] == [3, 28, 28]
    assert header["inputs"][0]["datatype"] == "UINT8"
    assert binary == IMAGES.tobytes()
    np.testing.assert_array_equal(scores.probabilities, PROBABILITIES)
    np.testing.assert_array_equal(scores.accepted, ACCEPTED)
    assert scores.model_version == "2"


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (429, Overloaded),
        (404, Unavailable),
        (502, Unavailable),
        (503, Unavailable),
        (504, TimedOut),
        (400, Failed),
        (500, Failed),
    ],
)
async def test_http_errors(
    predictor: tuple[HTTPPredictor, str], status: int, error: type[Exception]
) -> None:
    server, address = predictor

    async def fail(_: web.Request) -> web.Response:
        return web.json_response({"error": "secret at 10.0.0.7"}, status=status)

    server.handlers = [fail]
    with pytest.raises(error) as caught:
        await score(config(address))
    assert "10.0.0.7" not in str(caught.value)


@pytest.mark.parametrize(
    ("length", "body"),
    [
        (None, b"<html>It works!</html>"),
        ("x", b"{}"),
        ("2", b"{}"),
        ("2", b"[]"),
        ("9", b'{"outputs'),
        ("14", b'{"outputs":[]}'),
        ("14", b'{"outputs":{}}'),
        ("15", b'{"outputs":[7]}'),
        ("74", b'{"outputs":[{"name":"a","datatype":"FP32","shape":[9223372036854775807]}]}'),
        (None, None),  # those of other images
    ],
)
async def test_an_answer_without_the_scores_is_no_answer(
    predictor: tuple[HTTPPredictor, str], length: str | None, body: bytes | None
) -> None:
    async def refuse(_: web.Request) -> web.Response:
        headers = {} if length is None else {"Inference-Header-Content-Length": length}
        return web.Response(body=body, headers=headers)

    running, address = predictor
    if body is not None:
        running.handlers.append(refuse)
    client = client_for(config(address), "mnist")
    with pytest.raises(Unavailable):
        await client.score(IMAGES if body is not None else IMAGES[:2])
    await client.close()


NANS, TWELVE = np.full((3, 10), np.nan, np.float32), np.zeros((3, 12), np.float32)


def probabilities(datatype: str, shape: list[int], data: bytes) -> Any:
    return (("probabilities", datatype, shape, data), OUTPUTS[1])


def accepted(datatype: str, shape: list[int], data: bytes) -> Any:
    return (OUTPUTS[0], ("accepted", datatype, shape, data))


@pytest.mark.parametrize(
    ("outputs", "version"),
    [
        (probabilities("FP64", [3, 10], PROBABILITIES.astype(np.float64).tobytes()), "2"),
        (probabilities("FP32", [3, 10], NANS.tobytes()), "2"),
        (probabilities("FP32", [3, 12], TWELVE.tobytes()), "2"),
        (probabilities("FP32", [3, 0], b""), "2"),
        (probabilities("BOOL", [3, 10], bytes(30)), "2"),
        (accepted("BOOL", [3, 1], bytes(3)), "2"),
        (accepted("FP32", [3], bytes(12)), "2"),
        (accepted("BOOL", [1] * 45_000, bytes(3)), "2"),
        (OUTPUTS, ["2"]),
        (OUTPUTS, None),
        (OUTPUTS, ""),
        (OUTPUTS, "2\r\nx: y"),
        (OUTPUTS, "2" * 65),
        (OUTPUTS, "\N{FULLWIDTH DIGIT TWO}"),
    ],
)
async def test_an_answer_that_is_not_the_contracts_is_no_answer(
    predictor: tuple[HTTPPredictor, str], outputs: Any, version: Any
) -> None:
    """Taken as it is, it would be somebody's digit."""

    async def nonsense(_: web.Request) -> web.Response:
        return answer(outputs, version)

    running, address = predictor
    running.handlers = [nonsense]
    with pytest.raises(Unavailable):
        await score(config(address))


async def test_http_too_slow(predictor: tuple[HTTPPredictor, str]) -> None:
    server, address = predictor

    async def hang(_: web.Request) -> web.Response:
        await asyncio.sleep(3600)
        raise AssertionError

    server.handlers = [hang]
    with pytest.raises(TimedOut):
        await score(config(address))


async def test_a_connection_that_breaks_is_tried_again(
    predictor: tuple[HTTPPredictor, str],
) -> None:
    server, address = predictor

    async def hang_up(request: web.Request) -> web.Response:
        assert request.transport
        request.transport.close()
        return web.Response()

    server.handlers = [hang_up]
    assert (await score(config(address, retries=1))).model_version == "2"
    server.handlers = [hang_up, hang_up]
    with pytest.raises(Unavailable):
        await score(config(address, retries=1))


class GRPCPredictor(GRPCInferenceServiceServicer):  # type: ignore[misc]
    """A predictor on a real port that fails with the codes given to it, then answers."""

    def __init__(self, *codes: grpc.StatusCode) -> None:
        self.codes = list(codes)
        self.requests: list[Any] = []
        self.answer = pb.ModelInferResponse(
            model_name="mnist",
            model_version="2",
            outputs=[
                {"name": "probabilities", "datatype": "FP32", "shape": [3, 10]},
                {"name": "accepted", "datatype": "BOOL", "shape": [3]},
            ],
            raw_output_contents=[PROBABILITIES.tobytes(), ACCEPTED.tobytes()],
        )

    async def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.requests.append(request)
        if self.codes:
            await context.abort(self.codes.pop(0), "secret at 10.0.0.7")
        return self.answer


async def over_grpc(servicer: GRPCPredictor, *, retries: int = 0) -> Scores:
    server = grpc.aio.server()
    add_GRPCInferenceServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        return await score(config(f"127.0.0.1:{port}", "grpc-v2", retries=retries))
    finally:
        await server.stop(None)
        await asyncio.sleep(0.01)  # gRPC may have an event left for this loop, which is closed next


async def test_grpc_sends_raw_tensors_and_reads_raw_scores() -> None:
    servicer = GRPCPredictor()
    scores = await over_grpc(servicer)
    (request,) = servicer.requests
    assert request.model_name == "mnist"
    assert list(request.inputs[0].shape) == [3, 28, 28]
    assert list(request.raw_input_contents) == [IMAGES.tobytes()]
    np.testing.assert_array_equal(scores.probabilities, PROBABILITIES)
    np.testing.assert_array_equal(scores.accepted, ACCEPTED)
    assert scores.model_version == "2"


async def test_grpc_too_slow() -> None:
    class Hanging(GRPCPredictor):
        async def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802
            await asyncio.sleep(3600)

    with pytest.raises(TimedOut):
        await over_grpc(Hanging())


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (grpc.StatusCode.NOT_FOUND, Unavailable),
        (grpc.StatusCode.UNIMPLEMENTED, Unavailable),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, Overloaded),
        (grpc.StatusCode.UNAVAILABLE, Unavailable),
        (grpc.StatusCode.DEADLINE_EXCEEDED, TimedOut),
        (grpc.StatusCode.INVALID_ARGUMENT, Failed),
        (grpc.StatusCode.INTERNAL, Failed),
    ],
)
async def test_grpc_errors(code: grpc.StatusCode, error: type[Exception]) -> None:
    with pytest.raises(error) as caught:
        await over_grpc(GRPCPredictor(code))
    assert "10.0.0.7" not in str(caught.value)


@pytest.mark.parametrize(
    "change", ["name", "rows", "rank", "bytes", "type", "text", "contents", "accepted", "version"]
)
async def test_an_answer_without_the_scores_is_no_answer_by_grpc(change: str) -> None:
    servicer = GRPCPredictor()
    probabilities, accepted = servicer.answer.outputs
    match change:
        case "name":
            probabilities.name = "logits"
        case "rows":
            probabilities.shape[:] = [2, 15]
        case "rank":
            probabilities.shape[:] = [30]
        case "bytes":
            servicer.answer.raw_output_contents[0] = b"\0" * 7
        case "type":
            probabilities.datatype = "FP31"
        case "text":
            probabilities.datatype = "BYTES"
        case "contents":
            servicer.answer.raw_output_contents.append(b"")
        case "accepted":
            accepted.shape[:] = []
        case "version":
            servicer.answer.model_version = "2\n"
    with pytest.raises(Unavailable):
        await over_grpc(servicer)


async def test_grpc_tries_again_where_the_predictor_is_away() -> None:
    servicer = GRPCPredictor(grpc.StatusCode.UNAVAILABLE)
    assert (await over_grpc(servicer, retries=1)).model_version == "2"
    assert len(servicer.requests) == 2


@pytest.mark.parametrize("protocol", ["v2", "grpc-v2"])
async def test_nobody_there(protocol: str) -> None:
    with pytest.raises(Unavailable):
        await score(config("127.0.0.1:9", protocol))


def test_v1_has_no_raw_tensors() -> None:
    with pytest.raises(ValueError, match="v2 or grpc-v2"):
        client_for(config("127.0.0.1:9", "v1"), "mnist")


def test_a_url_is_not_taken_for_the_host_of_the_predictor() -> None:
    with pytest.raises(ValueError, match="must be no URL"):
        client_for(config("http://127.0.0.1:9"), "mnist")
