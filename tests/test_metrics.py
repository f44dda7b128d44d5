"""What the two programs count, asked for where Prometheus asks."""

import json
import socket
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import grpc
import httpx
import numpy as np
import pytest
from kserve import InferInput, InferRequest
from kserve.inference_client import InferenceGRPCClient
from prometheus_client import REGISTRY

from rollout.evidence import SLOW
from serving import metrics
from serving.scores import Images
from tests import programs
from tests.digits import draw, encode
from tests.programs import Program
from transformer.metrics import count_call

pytestmark = pytest.mark.anyio

SEVEN = (programs.ROOT / "docs/seven.png").read_bytes()
V1 = "/v1/models/mnist:predict"
V2 = "/v2/models/mnist/infer"
REQUESTS = "mnist_request_seconds_count"


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Program]:
    with programs.predictor(tmp_path, "--max_instances=4") as predictor:
        yield predictor


@pytest.fixture
def pair(alone: Program, tmp_path: Path) -> Iterator[tuple[Program, Program]]:
    with programs.transformer(tmp_path, f"127.0.0.1:{alone.http_port}") as transformer:
        yield alone, transformer


def v1(*images: Images) -> dict[str, object]:
    return {"instances": [image.tolist() for image in images]}


def v2(images: Images) -> dict[str, object]:
    data = images.ravel().tolist()
    return {
        "inputs": [
            {"name": "images", "datatype": "UINT8", "shape": list(images.shape), "data": data}
        ]
    }


def tensor(side: int) -> InferInput:
    made = InferInput("images", [1, side, side], "UINT8")
    made.set_data_from_numpy(np.zeros((1, side, side), np.uint8))
    return made


def test_what_alerts_go_by_is_there_before_it_happens(pair: tuple[Program, Program]) -> None:
    """Else `rate` would not see the first failures of a pod."""
    for program, version in zip(pair, ("1", ""), strict=True):
        page = httpx.get(f"http://127.0.0.1:{program.metrics_port}/metrics").text
        for protocol, outcome in product(("v1", "v2", "grpc", "form"), ("failed", "overloaded")):
            labels = f'model_version="{version}",outcome="{outcome}",protocol="{protocol}"'
            assert f"{REQUESTS}{{{labels}}} 0.0" in page


async def test_the_predictor_counts_calls_by_protocol_outcome_and_version(alone: Program) -> None:
    image = np.zeros((1, 28, 28), np.uint8)
    for body in (v1(image[0]), v1(), v1(*[image[0]] * 5)):
        httpx.post(alone.url + V1, json=body)
    assert httpx.post(alone.url + V2, json=v2(image)).is_success
    client = InferenceGRPCClient(alone.grpc_address, retries=0)
    await client.infer(InferRequest("mnist", [tensor(28)]))
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await client.infer(InferRequest("mnist", [tensor(27)]))
    assert dict(refusal.value.trailing_metadata())["x-model-version"] == "1"
    await client.close()

    def counted(protocol: str, outcome: str) -> float:
        return alone.metric(REQUESTS, protocol=protocol, outcome=outcome, model_version="1")

    assert {each: counted(*each.split()) for each in ("v1 ok", "v2 ok", "grpc ok")} == {
        "v1 ok": 1, "v2 ok": 1, "grpc ok": 1,
    }  # fmt: skip
    assert (counted("v1", "invalid"), counted("grpc", "invalid")) == (2, 1)
    assert alone.metric(REQUESTS) == 6
    assert alone.metric("mnist_batch_images_sum") == 3
    assert alone.metric("mnist_stage_seconds_count", stage="compute") == 3
    assert alone.metric("mnist_stage_seconds_count", stage="wait") == 3
    assert alone.metric("mnist_pending_images") == 0


def test_a_call_is_unsure_once_however_many_of_its_images_are(alone: Program) -> None:
    sure = np.asarray(draw(7, 28, ink=255, paper=0))
    stripes = (np.indices((28, 28)).sum(0) // 4 % 2 * 255).astype(np.uint8)
    for images in ((sure,), (sure, stripes, stripes), (stripes,)):
        answer = httpx.post(alone.url + V1, json=v1(*images)).json()
        assert [each["accepted"] for each in answer["predictions"]] == [
            image is sure for image in images
        ]
    assert alone.metric("mnist_unsure_requests_total", model_version="1") == 2
    assert alone.metric("mnist_first_digits_total", model_version="1") == 3
    assert alone.metric("mnist_first_digits_total", digit="7") == 2


def test_the_predictor_says_what_was_measured_of_its_version(alone: Program) -> None:
    metadata = json.loads((programs.ROOT / "models/mnist/1/model.json").read_bytes())
    test_set = metadata["metrics"][0]
    assert alone.metric("mnist_model_info", model_version="1") == 1
    assert (
        alone.metric("mnist_model_metric", dataset=test_set["dataset"], metric="accuracy")
        == test_set["values"]["accuracy"]
    )


def test_the_transformer_counts_images_and_what_it_says_of_them(
    pair: tuple[Program, Program],
) -> None:
    _, transformer = pair
    blank = encode(draw(7, 60, ink=255))
    files = [("images", file) for file in (SEVEN, encode(draw(1, 60), "JPEG"), blank)]
    assert httpx.post(f"{transformer.url}/predict", files=files).is_success
    assert httpx.post(transformer.url + V1, content=SEVEN).is_success
    assert httpx.post(transformer.url + V1, content=b"no image").status_code == 415

    def images(**labels: str) -> float:
        return transformer.metric("mnist_images_total", **labels)

    assert (images(format="png"), images(format="jpeg"), images()) == (3, 1, 4)
    assert transformer.metric("mnist_image_bytes_count") == 4
    assert transformer.metric("mnist_picture_ink_ratio_count") == 3
    assert transformer.metric("mnist_picture_area_ratio_count") == 3
    assert transformer.metric("mnist_stage_seconds_count", stage="decode") == 5

    def said(**labels: str) -> float:
        return transformer.metric("mnist_predictions_total", model_version="1", **labels)

    assert (said(digit="7", status="ok"), said(digit="none", status="no_digit"), said()) == (
        2,
        1,
        4,
    )
    assert transformer.metric("mnist_confidence_count", model_version="1") == 3
    assert transformer.metric("mnist_unsure_requests_total", model_version="1") == 1
    assert transformer.metric("mnist_first_digits_total", digit="7") == 2
    assert transformer.metric(REQUESTS, protocol="form", outcome="ok", model_version="1") == 1
    assert transformer.metric(REQUESTS, protocol="v1", outcome="invalid") == 1


@pytest.mark.parametrize("protocol", ["v2", "grpc-v2"])
def test_the_transformer_tells_calls_that_failed_from_calls_that_were_lost(
    alone: Program, tmp_path: Path, protocol: str
) -> None:
    port = alone.http_port if protocol == "v2" else alone.grpc_port
    flags = (f"--predictor_protocol={protocol}", "--predictor_request_retries=0")
    with programs.transformer(tmp_path, f"127.0.0.1:{port}", *flags) as transformer:

        def post(*files: bytes) -> int:
            images = [("images", file) for file in files]
            return httpx.post(f"{transformer.url}/predict", files=images, timeout=60).status_code

        assert post(SEVEN) == 200
        assert post(*[SEVEN] * 5) == 500  # more than the predictor takes: a defect of the set-up
        alone.process.kill()
        alone.process.wait()
        assert post(SEVEN) == 503
        calls = "mnist_predictor_calls_total"
        assert transformer.metric(calls, model_version="1", outcome="ok") == 1
        assert transformer.metric(calls, model_version="1", outcome="failed") == 1
        assert transformer.metric(calls, model_version="", outcome="lost") == 1
        assert transformer.metric(REQUESTS, protocol="form", outcome="failed") == 2


@pytest.mark.parametrize("slow", SLOW)
def test_an_answer_is_slow_beyond_each_bound_that_a_release_may_set(slow: float) -> None:
    version, buckets = f"bound {slow}", "mnist_request_seconds_bucket"
    for seconds in (slow, slow * 1.01):
        metrics.observe("v1", 200, version, seconds)
    labels = {"protocol": "v1", "outcome": "ok", "model_version": version}
    within, all_of_them = (
        REGISTRY.get_sample_value(buckets, {**labels, "le": le})
        for le in (str(float(slow)), "+Inf")
    )
    assert (within, all_of_them) == (1, 2)


@pytest.mark.parametrize("version", ["2\r\n", "2" * 65, "\N{FULLWIDTH DIGIT TWO}"])
def test_what_can_be_no_version_makes_no_series(version: str) -> None:
    count_call(version, ok=False)
    labels = {"model_version": version, "outcome": "failed"}
    assert REGISTRY.get_sample_value("mnist_predictor_calls_total", labels) is None


def test_who_asks_for_no_metrics_is_hung_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "TIMEOUT", 0.05)
    port = programs.free_port()
    metrics.serve("127.0.0.1", port)
    with socket.create_connection(("127.0.0.1", port), 5) as silent:
        assert silent.recv(1) == b""
    assert httpx.get(f"http://127.0.0.1:{port}/metrics").is_success


def test_no_metrics_without_a_port_and_none_on_the_public_one(
    alone: Program, tmp_path: Path
) -> None:
    assert httpx.get(f"{alone.url}/metrics").status_code == 404
    assert alone.metric("mnist_model_info") == 1
    env = {"MODEL_VERSION": "1"}
    flags = ("--models_dir=models", f"--metrics_port={alone.metrics_port}")
    with programs.program("predictor", tmp_path, *flags, env=env) as second:
        deadline = time.monotonic() + programs.START_TIMEOUT
        while second.process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert "choose another port with --metrics_port" in second.output()
        assert "Traceback" not in second.output()
