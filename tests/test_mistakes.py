"""What is wrong is named, in every form of request, and the next request succeeds."""

from typing import Any

import httpx
import pytest
from PIL import Image

from tests.digits import draw, encode
from tests.forms import V1, V2, v1_json, v2_binary, v2_json

SEVEN = encode(draw(7))


def truncated() -> bytes:
    return encode(draw(7, 600))[:400]


def bomb() -> bytes:
    return encode(Image.new("1", (50_000, 50_000)))[:4000]


def animation() -> bytes:
    return encode(draw(7), "GIF", save_all=True, append_images=[draw(1), draw(4)])


FILES = [
    (b"", 400, "empty"),
    (truncated(), 400, "truncated|damaged"),
    (b"just some text", 415, "image"),
    (encode(draw(7, 1)), 400, "1×1"),
    (bomb(), 413, "pixels"),
    (animation(), 400, "several frames"),
]
IDS = ["empty", "truncated", "text", "1×1", "bomb", "animation"]


@pytest.mark.parametrize(("file", "status", "message"), FILES, ids=IDS)
def test_a_bad_file_is_named_in_every_form(
    client: httpx.Client, file: bytes, status: int, message: str
) -> None:
    answers = [
        client.post("/predict", files=[("images", ("a.png", f)) for f in (SEVEN, file)]),
        client.post(V1, json=v1_json(SEVEN, file)),
        client.post(V2, json=v2_json(SEVEN, file)),
        client.post(V2, **v2_binary(SEVEN, file)),
    ]
    for answer in answers:
        assert answer.status_code == status
        assert_names(answer.json()["error"], "instance 1", message)
    raw = client.post(V1, content=file, headers={"content-type": "image/png"})
    assert raw.status_code == status
    assert_names(raw.json()["error"], "instance 0", message)
    assert client.post(V1, content=SEVEN).status_code == 200


def assert_names(error: str, instance: str, message: str) -> None:
    assert instance in error
    assert any(part in error for part in message.split("|"))


@pytest.mark.parametrize(
    ("path", "request_", "status", "message"),
    [
        (V1, {"json": {"images": []}}, 400, "instances"),
        (V1, {"json": {"instances": [{"b64": "AA=="}]}}, 400, "instance 0"),
        (V1, {"json": {"instances": [{"image": {"b64": "*"}}]}}, 400, "base64"),
        (V1, {"json": {"instances": []}}, 400, "at least one"),
        (V1, {"json": v1_json(*[b""] * 10_000)}, 413, "10000 images"),
        (V1, {"content": bytes(33 * 2**20)}, 413, "limit"),
        (V1, {"content": b"{", "headers": {"content-type": "application/json"}}, 400, "JSON"),
        ("/predict", {"content": b"x"}, 415, "multipart"),
        ("/predict", {"data": {"a": "b"}}, 415, "multipart"),
        ("/predict", {"files": [("images", b"")] * 1001}, 413, "Too many files"),
        (
            "/predict",
            {"content": b"x", "headers": {"content-type": "multipart/form-data; boundary=x"}},
            400,
            "form",
        ),
        ("/predict", {"headers": {"content-type": "multipart/form-data"}}, 400, "form"),
        (V2, {"json": {}}, 400, "inputs"),
        (
            V2,
            {
                "json": {
                    "inputs": [{"name": "images", "datatype": "FP32", "shape": [1], "data": [0]}]
                }
            },
            400,
            "BYTES",
        ),
        (V2, {**v2_binary(SEVEN), "headers": {"Inference-Header-Content-Length": "x"}}, 400, "x"),
        ("/v1/models/none:predict", {"json": {}}, 404, "'none'"),
        ("/v2/models/mnist/versions/1/infer", {"json": v2_json(SEVEN)}, 404, "traffic split"),
    ],
)
def test_bad_requests_are_named_and_the_next_one_succeeds(
    client: httpx.Client, path: str, request_: dict[str, Any], status: int, message: str
) -> None:
    answer = client.post(path, **request_)
    assert answer.status_code == status
    assert message in answer.json()["error"]
    assert client.post(V1, content=SEVEN).status_code == 200
