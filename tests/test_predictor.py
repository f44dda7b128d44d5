"""The predictor as a process: every protocol gives the same scores, bad input a clear error."""

import asyncio
import hashlib
import json
import signal
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from kserve import InferInput, InferRequest
from kserve.inference_client import InferenceGRPCClient
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb

from predictor import artifact
from predictor.runtime import Graph
from serving.scores import Images
from tests import programs

pytestmark = pytest.mark.anyio

V1 = "/v1/models/mnist:predict"
V2 = "/v2/models/mnist/infer"
RANDOM = np.random.default_rng(0)


def random_images(count: int) -> Images:
    return RANDOM.integers(0, 256, (count, 28, 28), np.uint8)


@pytest.fixture(scope="module")
def graph() -> Graph:
    """The model itself, without a server."""
    return artifact.load(programs.ROOT / "models/mnist/1").graph


def expected(graph: Graph, images: Images) -> tuple[np.ndarray[Any, Any], list[bool]]:
    probabilities, accepted = graph(images)
    return probabilities, accepted.tolist()


def tensor(shape: list[int], **rest: Any) -> dict[str, Any]:
    return {"name": "images", "datatype": "UINT8", "shape": shape, **rest}


def binary_body(images: Images, **rest: Any) -> dict[str, Any]:
    entry = tensor(list(images.shape), parameters={"binary_data_size": images.nbytes})
    header = json.dumps({"inputs": [entry], **rest}).encode()
    return {
        "content": header + images.tobytes(),
        "headers": {"Inference-Header-Content-Length": str(len(header))},
    }


@pytest.mark.parametrize("count", [1, 2, 63, 64, 65, 256])
async def test_every_protocol_gives_the_models_own_scores(
    predictor: programs.Program, graph: Graph, count: int
) -> None:
    images = random_images(count)
    probabilities, accepted = expected(graph, images)

    def same(found_probabilities: Any, found_accepted: Any) -> None:
        # The order of additions depends on the batch, so the last digits do.
        found = np.reshape(np.array(found_probabilities, np.float32), (count, 10))
        np.testing.assert_allclose(found, probabilities, atol=1e-5)
        assert list(found_accepted) == accepted

    async with httpx.AsyncClient(base_url=predictor.url) as client:
        v1 = (await client.post(V1, json={"instances": images.tolist()})).json()
        rows = v1["predictions"]
        same([row["probabilities"] for row in rows], [row["accepted"] for row in rows])
        assert (v1["model_name"], v1["model_version"]) == ("mnist", "1")

        data = tensor([count, 28, 28], data=images.ravel().tolist())
        v2_json = (await client.post(V2, json={"inputs": [data]})).json()
        same(*(output["data"] for output in v2_json["outputs"]))
        assert v2_json["model_version"] == "1"

        raw = await client.post(V2, **binary_body(images, parameters={"binary_data_output": True}))
        content = raw.content[int(raw.headers["Inference-Header-Content-Length"]) :]
        same(
            np.frombuffer(content[: 40 * count], np.float32),
            np.frombuffer(content[40 * count :], np.bool_).tolist(),
        )
        assert raw.headers["x-model-version"] == "1"

    async with InferenceGRPCClient(predictor.grpc_address) as grpc_client:
        for as_list in (False, True):
            numbers = images.ravel().tolist() if as_list else None
            entry = InferInput("images", [count, 1, 28, 28], "UINT8", numbers)
            if not as_list:
                entry.set_data_from_numpy(images[:, None])
            answer = await grpc_client.infer(InferRequest("mnist", [entry], request_id="7"))
            outputs = {output.name: output.as_numpy() for output in answer.outputs}
            same(outputs["probabilities"], outputs["accepted"].tolist())
            assert (answer.id, answer.model_version) == ("7", "1")


async def test_metadata_are_complete_over_rest_and_grpc(predictor: programs.Program) -> None:
    inputs = [{"name": "images", "datatype": "UINT8", "shape": [-1, 28, 28]}]
    outputs = [
        {"name": "probabilities", "datatype": "FP32", "shape": [-1, 10]},
        {"name": "accepted", "datatype": "BOOL", "shape": [-1]},
    ]
    metadata = httpx.get(f"{predictor.url}/v2/models/mnist").json()
    assert metadata == {
        "name": "mnist",
        "versions": ["1"],
        "platform": "pytorch_export",
        "inputs": inputs,
        "outputs": outputs,
    }
    async with grpc.aio.insecure_channel(predictor.grpc_address) as channel:
        call = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelMetadata",
            pb.ModelMetadataRequest.SerializeToString,
            pb.ModelMetadataResponse.FromString,
        )
        found = await call(pb.ModelMetadataRequest(name="mnist"))
    assert (found.name, list(found.versions), found.platform) == ("mnist", ["1"], "pytorch_export")
    for tensors, wanted in ((found.inputs, inputs), (found.outputs, outputs)):
        assert [
            {"name": t.name, "datatype": t.datatype, "shape": list(t.shape)} for t in tensors
        ] == wanted


@pytest.mark.parametrize(
    "path",
    ["/", "/v1/models/mnist", "/v2/health/live", "/v2/health/ready", "/v2/models/mnist/ready"],
)
def test_it_is_live_and_ready(predictor: programs.Program, path: str) -> None:
    assert httpx.get(predictor.url + path).status_code == 200


BLANK = np.zeros((1, 28, 28), np.uint8)


@pytest.mark.parametrize(
    ("path", "request_", "status", "message"),
    [
        (V1, {"content": b"", "headers": {"content-type": "application/json"}}, 400, "JSON"),
        (V1, {"content": b"\x89PNG"}, 400, "instances"),
        (V1, {"json": {"images": []}}, 400, "instances"),
        (V1, {"json": {"instances": []}}, 400, "at least one"),
        (V1, {"json": {"instances": [BLANK[0].tolist(), [[0]]]}}, 400, "instance 1"),
        (V1, {"json": {"instances": [[]] * 10_000}}, 413, "10000 images"),
        (V1, {"content": b'{"instances": [[[NaN]]]}'}, 400, "JSON"),
        (V1, {"content": bytes(40 * 2**20)}, 413, "limit"),
        (V2, {"json": {"inputs": [tensor([1, 28, 27], data=[0] * 756)]}}, 400, "[1, 28, 27]"),
        (V2, {"json": {"inputs": [tensor([1, 28, 28], data=[0] * 783)]}}, 400, "a list of 783"),
        (V2, {"json": {"inputs": [tensor([1, 28, 28], data=[0.5] * 784)]}}, 400, "integers"),
        (V2, {"json": {"inputs": [tensor([2000, 28, 28], data=[0])]}}, 413, "2000 images"),
        (V2, {**binary_body(BLANK), "headers": {}}, 400, "JSON"),
        (
            V2,
            {**binary_body(BLANK), "headers": {"Inference-Header-Content-Length": "9999"}},
            400,
            "9999",
        ),
        ("/v1/models/none:predict", {"json": {}}, 404, "'none'"),
        ("/v2/models/none/infer", {"json": {}}, 404, "'none'"),
    ],
)
def test_bad_input_is_named_and_the_next_request_succeeds(
    predictor: programs.Program, path: str, request_: dict[str, Any], status: int, message: str
) -> None:
    with httpx.Client(base_url=predictor.url) as client:
        answer = client.post(path, **request_)
        assert answer.status_code == status
        assert message in answer.json()["error"]
        assert client.post(V2, **binary_body(BLANK)).status_code == 200


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (pb.ModelInferRequest(model_name="none"), grpc.StatusCode.NOT_FOUND),
        (pb.ModelInferRequest(model_name="mnist"), grpc.StatusCode.INVALID_ARGUMENT),
        (
            pb.ModelInferRequest(model_name="mnist", model_version="9"),
            grpc.StatusCode.NOT_FOUND,
        ),
        (
            pb.ModelInferRequest(model_name="mnist", raw_input_contents=[b"x"]),
            grpc.StatusCode.INVALID_ARGUMENT,
        ),
        (
            pb.ModelInferRequest(
                model_name="mnist", inputs=[tensor([1, 28, 28])], raw_input_contents=[b"x"]
            ),
            grpc.StatusCode.INVALID_ARGUMENT,
        ),
    ],
)
async def test_bad_grpc_requests(
    predictor: programs.Program, request_: Any, code: grpc.StatusCode
) -> None:
    async with grpc.aio.insecure_channel(predictor.grpc_address) as channel:
        call = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer", pb.ModelInferRequest.SerializeToString
        )
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(request_)
    assert caught.value.code() == code


async def test_sigterm_lets_requests_finish(tmp_path: Path) -> None:
    with programs.predictor(tmp_path) as running:
        body = binary_body(random_images(256))
        async with httpx.AsyncClient(base_url=running.url, timeout=60) as client:
            requests = [asyncio.create_task(client.post(V2, **body)) for _ in range(4)]
            await asyncio.wait(requests, return_when=asyncio.FIRST_COMPLETED)
            running.process.send_signal(signal.SIGTERM)
            assert [(await request).status_code for request in requests] == [200] * 4
        assert running.process.wait(30) == 0


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ({}, "set MODEL_VERSION"),
        ({"MODEL_VERSION": "latest"}, "positive integer"),
        ({"MODEL_VERSION": "99"}, "cannot be read"),
        ({"MODEL_VERSION": "1", "MODEL_DIGEST": "0" * 64}, "MODEL_DIGEST"),
        ({"STORAGE_URI": "s3://bucket/mnist/1"}, "cannot be read"),
    ],
)
def test_a_version_that_cannot_be_served_ends_the_start_and_says_why(
    tmp_path: Path, env: dict[str, str], message: str
) -> None:
    flags = ("--models_dir=models", f"--mount_dir={tmp_path / 'empty'}")
    with programs.program("predictor", tmp_path, *flags, env=env) as running:
        assert running.process.wait(60) == 1
        assert message in running.output()
        assert "Traceback" not in running.output()


def test_storage_uri_serves_what_is_mounted(tmp_path: Path) -> None:
    version = programs.ROOT / "models/mnist/1"
    digest = hashlib.sha256((version / "model.json").read_bytes()).hexdigest()
    env = {"STORAGE_URI": "s3://bucket/mnist/1", "MODEL_VERSION": "99", "MODEL_DIGEST": digest}
    with programs.program("predictor", tmp_path, f"--mount_dir={version}", env=env) as running:
        running.wait_for("/v2/models/mnist/versions/1/ready")
