"""The transformer in front of real predictors: both protocols, two pods, and none."""

import asyncio
import io
import json
import os
import signal
import socket
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from standalone.canary import Target
from standalone.envoy import Door, bootstrap, find_envoy, write_clusters, write_routes
from tests import programs
from tests.digits import draw, encode

pytestmark = pytest.mark.anyio

V1 = "/v1/models/mnist:predict"
SEVEN = encode(draw(7))


def test_it_runs_without_torch(transformer: programs.Program) -> None:
    maps = Path(f"/proc/{transformer.process.pid}/maps")
    if not maps.exists():
        pytest.skip("needs Linux's /proc")
    assert "torch" not in maps.read_text()


@pytest.mark.parametrize("count", [1, 64])
def test_http_and_grpc_to_the_predictor_give_the_same(
    tmp_path: Path, transformer: programs.Program, predictor: programs.Program, count: int
) -> None:
    files = [("images", encode(draw(digit, 60 + i))) for i in range(count) for digit in (1, 4, 7)]
    files = files[:count]
    over_http = httpx.post(f"{transformer.url}/predict", files=files).json()
    address = f"127.0.0.1:{predictor.grpc_port}"
    with programs.transformer(tmp_path, address, "--predictor_protocol=grpc-v2") as running:
        over_grpc = httpx.post(f"{running.url}/predict", files=files).json()
    assert over_grpc == over_http


def test_one_request_may_be_larger_than_a_merged_call(transformer: programs.Program) -> None:
    files = [("images", SEVEN)] * 256
    predictions = httpx.post(f"{transformer.url}/predict", files=files).json()["predictions"]
    assert [prediction["digit"] for prediction in predictions] == [7] * 256


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_the_limit_on_pixels_is_that_of_every_format(tmp_path: Path, kind: str) -> None:
    """Plain PNGs go another way."""
    file = io.BytesIO()
    Image.open(io.BytesIO(SEVEN)).resize((60, 60)).save(file, kind)
    with programs.transformer(tmp_path, "127.0.0.1:9", "--max_pixels=3599") as transformer:
        answer = httpx.post(transformer.url + V1, content=file.getvalue())
    assert answer.status_code == 413


async def post(client: httpx.AsyncClient) -> httpx.Response:
    return await client.post(V1, content=SEVEN)


async def test_concurrent_requests_share_calls_and_both_pods_get_some(tmp_path: Path) -> None:
    envoy = find_envoy()
    if not envoy:
        pytest.skip("Envoy has no build for this machine")
    port = programs.free_port()
    with (
        programs.predictor(tmp_path) as one,
        programs.predictor(tmp_path) as two,
        programs.transformer(tmp_path, f"127.0.0.1:{port}") as transformer,
    ):
        pods = {"one": one.http_port, "two": two.http_port}
        door = Door("predictor", "127.0.0.1", port)
        write_clusters({door: pods}, tmp_path)
        write_routes({door: [Target(name, 50) for name in pods]}, tmp_path)
        config = json.dumps(bootstrap([door], tmp_path))
        flags = ("--disable-hot-restart", "--log-level", "off", "--config-yaml", config)
        proxy = await asyncio.create_subprocess_exec(envoy, *flags)
        try:
            async with httpx.AsyncClient(base_url=transformer.url, timeout=60) as client:
                while (await post(client)).status_code == 503:  # Envoy is not there yet
                    assert proxy.returncode is None
                    await asyncio.sleep(0.05)
                for _ in range(5):  # a call goes to either pod by chance
                    answers = await asyncio.gather(*(post(client) for _ in range(75)))
                    assert Counter(answer.status_code for answer in answers) == {200: 75}
            made = [pod.metric("mnist_batch_images_count") for pod in (one, two)]
            assert min(made) > 1
            assert sum(made) < 5 * 75
        finally:
            proxy.terminate()
            await proxy.wait()


async def test_a_predictor_that_dies_is_503_and_one_that_returns_is_used_again(
    tmp_path: Path,
) -> None:
    with programs.predictor(tmp_path) as predictor:
        address = f"127.0.0.1:{predictor.http_port}"
        with programs.transformer(tmp_path, address) as transformer:
            async with httpx.AsyncClient(base_url=transformer.url, timeout=60) as client:
                assert (await post(client)).status_code == 200
                predictor.process.kill()
                predictor.process.wait()
                answer = await post(client)
                assert answer.status_code == 503
                assert answer.headers["retry-after"] == "1"
                assert "127.0.0.1" not in answer.text
                with programs.program(
                    "predictor",
                    tmp_path,
                    "--models_dir=models",
                    env={"MODEL_VERSION": "1"},
                    http_port=predictor.http_port,
                ) as again:
                    again.wait_for("/v2/models/mnist/ready")
                    assert (await post(client)).status_code == 200


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="needs SIGSTOP")
async def test_a_predictor_that_hangs_is_504_for_all_who_wait(tmp_path: Path) -> None:
    with programs.predictor(tmp_path) as predictor:
        address = f"127.0.0.1:{predictor.http_port}"
        flags = ("--predictor_request_timeout_seconds=1", "--max_calls=1", "--max_batch=1")
        with programs.transformer(tmp_path, address, *flags) as transformer:
            async with httpx.AsyncClient(base_url=transformer.url, timeout=60) as client:
                os.kill(predictor.process.pid, signal.SIGSTOP)
                try:
                    answers = await asyncio.gather(*(post(client) for _ in range(4)))
                finally:
                    os.kill(predictor.process.pid, signal.SIGCONT)
                assert [answer.status_code for answer in answers] == [504] * 4
                assert (await post(client)).status_code == 200


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="needs SIGSTOP")
async def test_too_many_waiting_images_are_429(tmp_path: Path) -> None:
    with programs.predictor(tmp_path) as predictor:
        address = f"127.0.0.1:{predictor.http_port}"
        with programs.transformer(tmp_path, address, "--max_pending=4") as transformer:
            async with httpx.AsyncClient(base_url=transformer.url, timeout=60) as client:
                os.kill(predictor.process.pid, signal.SIGSTOP)
                waiting = [asyncio.create_task(post(client)) for _ in range(6)]
                try:
                    done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                    refused = done.pop().result()
                finally:
                    os.kill(predictor.process.pid, signal.SIGCONT)
                assert (refused.status_code, refused.headers["retry-after"]) == (429, "2")
                statuses = Counter([(await request).status_code for request in waiting])
                assert statuses == {200: 4, 429: 2}


async def test_one_clients_huge_images_do_not_hold_up_the_others(
    transformer: programs.Program,
) -> None:
    huge = encode(Image.new("RGBA", (7000, 7000)), "WEBP", lossless=True, quality=0, method=0)
    files: Any = [("images", huge)] * 12
    before = transformer.metric("mnist_images_total", format="webp")
    async with httpx.AsyncClient(base_url=transformer.url, timeout=60) as client:
        load = asyncio.create_task(client.post("/predict", files=files))
        assert (await client.get("/v2/health/live")).status_code == 200
        assert (await post(client)).status_code == 200
        assert not load.done()
        load.cancel()  # the client hangs up
        answer = await client.post(V1, content=huge)
        assert answer.json()["predictions"][0]["status"] == "no_digit"
    decoded = transformer.metric("mnist_images_total", format="webp") - before
    assert decoded < 1 + 12  # what was left of its images was not decoded


@pytest.mark.parametrize("protocol", ["v2", "grpc-v2"])
async def test_readiness_can_include_the_predictors(tmp_path: Path, protocol: str) -> None:
    with programs.program(
        "transformer",
        tmp_path,
        "--predictor_host=127.0.0.1:9",
        f"--predictor_protocol={protocol}",
        "--enable_predictor_health_check",
    ) as running:
        running.wait_for("/")
        assert httpx.get(f"{running.url}/v2/health/ready").status_code == 503
        assert httpx.get(f"{running.url}/v2/models/mnist/ready").status_code == 503
        assert "Traceback" not in running.output()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "--predictor_host is missing"),
        (["--predictor_host=x", "--predictor_protocol=v1"], "v2 or grpc-v2"),
        (["--predictor_host=x", "--workers=2"], "--workers"),
        (["--predictor_host=x", "--max_calls=0"], "at least 1"),
        (["--predictor_host=x", "--ssl_certfile=nowhere.pem"], "--ssl_certfile=nowhere.pem"),
        (["--predictor_host=x", "--ssl_keyfile=key.pem"], "needs --ssl_certfile"),
    ],
)
def test_flags_that_cannot_work_end_the_start(
    tmp_path: Path, flags: list[str], message: str
) -> None:
    with programs.program("transformer", tmp_path, *flags) as running:
        assert running.process.wait(60) in (1, 2)
        assert message in running.output()
        assert "Traceback" not in running.output()


@pytest.mark.parametrize("flag", ["--http_port", "--grpc_port"])
def test_a_port_that_is_taken_ends_the_start(tmp_path: Path, flag: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        flags = ("--predictor_host=x", f"{flag}={port}")
        with programs.program("transformer", tmp_path, *flags) as running:
            assert running.process.wait(60) == 1
            assert f"127.0.0.1:{port} (Address already in use)" in running.output()
            assert f"choose another port with {flag}" in running.output()
            assert "Traceback" not in running.output()
