"""What is logged of an inference, and which ones; then the real programs, over REST and gRPC."""

import json
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from kserve import InferInput, InferRequest
from kserve.inference_client import InferenceGRPCClient

from serving import access
from serving.context import RequestContext
from tests import programs
from tests.programs import Program

SEVEN = (programs.ROOT / "docs/seven.png").read_bytes()
V1 = "/v1/models/mnist:predict"
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
IDS = {"x-request-id": "42", "traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}
JSON = ("--log_format=json", "--access_log=all")

Line = dict[str, Any]


@pytest.mark.parametrize(
    ("status", "seconds", "lines"),
    [
        (200, 0.01, {"all"}),
        (200, 1.5, {"all", "errors"}),
        (400, 0.01, {"all", "errors"}),
        (429, 0.01, {"all", "errors"}),
        (500, 0.01, {"all", "errors"}),
        (0, 0.01, {"all", "errors"}),
    ],
)
@pytest.mark.parametrize("choice", access.CHOICES)
def test_which_inferences_are_logged(
    caplog: pytest.LogCaptureFixture, choice: str, status: int, seconds: float, lines: set[str]
) -> None:
    with caplog.at_level(access.CHOICES[choice], access.log.name):
        access.end(RequestContext("42"), "v1", status, "1", seconds)
    assert len(caplog.records) == (choice in lines)


def test_what_is_not_known_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, access.log.name):
        access.end(RequestContext("42", images=3), "grpc", 200, "1", 0.0123456789)
        access.end(RequestContext("43"), "v1", 0, "", 2)
    first, second = (vars(record)["fields"] for record in caplog.records)
    assert first == {
        "protocol": "grpc",
        "status": 200,
        "outcome": "ok",
        "duration": 0.012346,
        "model_version": "1",
        "images": 3,
    }
    assert second == {"protocol": "v1", "outcome": "cancelled", "duration": 2}


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Program, Program]]:
    folder = tmp_path_factory.mktemp("pair")
    with (
        programs.predictor(folder, *JSON) as predictor,
        programs.transformer(folder, f"127.0.0.1:{predictor.http_port}", *JSON) as transformer,
    ):
        yield predictor, transformer


def lines(program: Program, message: str, request_id: str) -> list[Line]:
    """What ``program`` has logged of a request, which may be a moment after its answer."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        found = [json.loads(line) for line in program.output().split("\n")[:-1]]
        found = [line for line in found if line.get("request_id") == request_id]
        if any(message in line["message"] for line in found):
            return [line for line in found if message in line["message"]]
        time.sleep(0.05)
    raise TimeoutError(program.output())


def inference(program: Program, request_id: str) -> Line:
    """The one line of an inference, less what differs from run to run."""
    (line,) = lines(program, "inference", request_id)
    assert 0 < line.pop("duration") < 60
    assert line.pop("time").endswith("Z")
    return line


def test_a_request_has_a_line_in_both_programs(pair: tuple[Program, Program]) -> None:
    predictor, transformer = pair
    answer = httpx.post(transformer.url + V1, content=SEVEN, headers=IDS)
    assert answer.headers["x-request-id"] == "42"
    line = {
        "level": "INFO",
        "logger": "serving.access",
        "message": "inference",
        "request_id": "42",
        "trace_id": TRACE,
        "status": 200,
        "outcome": "ok",
        "model_version": "1",
        "images": 1,
    }
    assert inference(transformer, "42") == line | {"protocol": "v1"}
    assert inference(predictor, "42") == line | {"protocol": "v2"}


def test_a_refused_request_has_a_line_and_a_new_id(pair: tuple[Program, Program]) -> None:
    _, transformer = pair
    answer = httpx.post(transformer.url + V1, content=b"no image", headers={"x-request-id": "a b"})
    assert inference(transformer, answer.headers["x-request-id"]) == {
        "level": "WARNING",
        "logger": "serving.access",
        "message": "inference",
        "request_id": answer.headers["x-request-id"],
        "protocol": "v1",
        "status": 415,
        "outcome": "invalid",
        "images": 1,
    }


def test_the_time_that_a_client_takes_to_send_is_not_counted(
    pair: tuple[Program, Program],
) -> None:
    _, transformer = pair
    sending = 1

    def body() -> Iterator[bytes]:
        yield SEVEN[:-1]
        time.sleep(sending)
        yield SEVEN[-1:]

    length = str(len(SEVEN))
    headers = {"x-request-id": "slow", "content-length": length, "content-type": "image/png"}
    assert httpx.post(transformer.url + V1, content=body(), headers=headers).is_success
    (line,) = lines(transformer, "inference", "slow")
    assert 0 < line["duration"] < sending


def test_no_image_no_file_name_and_no_address_is_logged(pair: tuple[Program, Program]) -> None:
    _, transformer = pair
    files = [("images", ("alice.png", SEVEN, "image/png"))] * 2
    headers = {"x-request-id": "form", "user-agent": "alices-telephone"}
    assert httpx.post(f"{transformer.url}/predict", files=files, headers=headers).is_success
    assert inference(transformer, "form")["images"] == 2
    for program in pair:
        assert "alice" not in program.output()
        assert "127.0.0.1" not in "".join(
            each for each in program.output().splitlines() if '"inference"' in each
        )
        assert max(map(len, program.output().splitlines())) < 500


@pytest.mark.anyio
async def test_grpc_has_the_same_line(pair: tuple[Program, Program]) -> None:
    predictor, _ = pair
    client = InferenceGRPCClient(predictor.grpc_address, retries=0)

    async def infer(side: int, request_id: str) -> None:
        tensor = InferInput("images", [1, side, side], "UINT8")
        tensor.set_data_from_numpy(np.zeros((1, side, side), np.uint8))
        metadata = tuple((IDS | {"x-request-id": request_id}).items())
        await client.infer(InferRequest("mnist", [tensor]), headers=metadata)

    await infer(28, "good")
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await infer(27, "bad")
    await client.close()
    assert dict(refusal.value.trailing_metadata())["x-request-id"] == "bad"
    good, bad = inference(predictor, "good"), inference(predictor, "bad")
    assert good["trace_id"] == bad["trace_id"] == TRACE
    assert [(each["protocol"], each["status"], each["outcome"]) for each in (good, bad)] == [
        ("grpc", 200, "ok"),
        ("grpc", 400, "invalid"),
    ]
    assert (good["images"], bad["model_version"]) == (1, "1")


@pytest.mark.parametrize("protocol", ["v2", "grpc-v2"])
def test_what_goes_wrong_is_logged_with_the_id_of_whose_it_is(
    tmp_path: Path, protocol: str
) -> None:
    flags = (f"--predictor_protocol={protocol}", "--log_format=json")
    with programs.transformer(tmp_path, "127.0.0.1:9", *flags) as transformer:
        assert httpx.post(transformer.url + V1, content=SEVEN, headers=IDS).status_code == 503
        line = inference(transformer, "42")
        assert (line["trace_id"], line["status"], line["outcome"]) == (TRACE, 503, "failed")
        if protocol == "v2":
            attempts = lines(transformer, "call", "42")
            assert [line["trace_id"] for line in attempts] == [TRACE, TRACE]
