"""The way of an image through the real processes: every form of request, every format."""

import asyncio
import base64
import io
from typing import Any

import aiohttp
import httpx
import numpy as np
import pytest
from cloudevents.conversion import to_binary, to_structured
from cloudevents.http import CloudEvent, from_http
from kserve import InferInput, InferRequest
from kserve.inference_client import InferenceGRPCClient
from PIL import Image

from tests import programs
from tests.digits import draw, draw_strokes, encode
from tests.forms import V1, V2, v1_json, v2_binary, v2_json

pytestmark = pytest.mark.anyio

SEVEN = encode(draw(7))


def as_predictions(answer: dict[str, Any]) -> list[dict[str, Any]]:
    """A V2 answer in V1's words."""
    tensors = {output["name"]: output["data"] for output in answer["outputs"]}
    return [
        {
            "digit": None if digit == -1 else digit,
            "confidence": confidence,
            "probabilities": tensors["probabilities"][10 * i : 10 * i + 10],
            "status": status,
        }
        for i, (digit, confidence, status) in enumerate(
            zip(tensors["digit"], tensors["confidence"], tensors["status"], strict=True)
        )
    ]


def close_to(expected: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same predictions, the last digits of probabilities aside: they depend on the batch."""
    return [
        {
            **prediction,
            "confidence": pytest.approx(prediction["confidence"], abs=1e-5),
            "probabilities": pytest.approx(prediction["probabilities"], abs=1e-5),
        }
        for prediction in expected
    ]


@pytest.mark.parametrize("count", [1, 2, 3, 17, 64])
async def test_every_form_of_request_gives_the_same_answer(
    service: programs.Program, client: httpx.Client, count: int
) -> None:
    digits = ([7, 1, 4] * 22)[:count]
    files = [encode(draw(digit, 40 + i)) for i, digit in enumerate(digits)]
    answer = client.post(V1, json=v1_json(*files)).json()
    predictions = answer["predictions"]
    assert [p["digit"] for p in predictions] == digits
    assert {p["status"] for p in predictions} == {"ok"}
    for prediction in predictions:
        assert prediction["confidence"] == max(prediction["probabilities"])
        assert sum(prediction["probabilities"]) == pytest.approx(1, abs=1e-5)
    assert (answer["model_name"], answer["model_version"]) == ("mnist", "1")
    same = close_to(predictions)

    for i, file in enumerate(files[:3]):
        raw = client.post(V1, content=file, headers={"content-type": "image/png"})
        assert raw.json()["predictions"] == same[i : i + 1]
        assert raw.headers["x-model-version"] == "1"

    form = client.post("/predict", files=[("images", (f"{i}.png", f)) for i, f in enumerate(files)])
    assert form.json()["predictions"] == same
    assert form.headers["x-model-version"] == "1"

    for request in ({"json": v2_json(*files)}, v2_binary(*files)):
        v2 = client.post(V2, **request)
        assert as_predictions(v2.json()) == same
        assert v2.json()["model_version"] == v2.headers["x-model-version"] == "1"

    for encode_event in (to_binary, to_structured):
        event = CloudEvent({"type": "digits", "source": "test"}, v1_json(*files))
        headers, content = encode_event(event)
        reply = client.post(V1, content=content, headers=headers)
        assert from_http(reply.headers, reply.content).get_data()["predictions"] == same
        assert reply.headers["x-model-version"] == "1"

    async with InferenceGRPCClient(service.grpc_address) as grpc_client:
        as_contents = InferInput("images", [count], "BYTES", files)
        raw_tensor = InferInput("images", [count], "BYTES")
        raw_tensor.set_data_from_numpy(np.array([*files, None], object)[:-1])
        for tensor in (as_contents, raw_tensor):
            response = await grpc_client.infer(InferRequest("mnist", [tensor]))
            outputs = {output.name: output.as_numpy() for output in response.outputs}
            assert [p["digit"] for p in predictions] == outputs["digit"].tolist()
            assert [p["status"].encode() for p in predictions] == outputs["status"].tolist()
            found = outputs["probabilities"]
            np.testing.assert_allclose(found, [p["probabilities"] for p in predictions], atol=1e-5)
            assert response.model_version == "1"


FORMATS = [
    *(("PNG", mode) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")),
    *(("JPEG", mode) for mode in ("L", "RGB", "CMYK")),
    *(("WEBP", mode) for mode in ("RGB", "RGBA")),
    *(("BMP", mode) for mode in ("1", "L", "P", "RGB")),
    *(("GIF", mode) for mode in ("L", "P")),
    *(("TIFF", mode) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "F")),
]


@pytest.mark.parametrize(("form", "mode"), FORMATS)
@pytest.mark.parametrize("dark", [False, True], ids=["ink on paper", "light on dark"])
def test_every_format_and_mode(client: httpx.Client, form: str, mode: str, dark: bool) -> None:
    grey = draw(7, ink=255 if dark else 0, paper=0 if dark else 255)
    if mode == "I;16":
        image = Image.fromarray(np.asarray(grey, np.uint16) * 257)
    elif mode == "F":
        image = Image.fromarray(np.asarray(grey, np.float32) / 255)
    else:
        image = grey.convert("RGB").convert(mode) if mode in ("P", "CMYK") else grey.convert(mode)
    answer = client.post(V1, content=encode(image, form)).json()
    assert [(p["digit"], p["status"]) for p in answer["predictions"]] == [(7, "ok")]


def test_orientation_from_exif_is_honoured(client: httpx.Client) -> None:
    image = draw(7).transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90° clockwise to display
    answer = client.post(V1, content=encode(image, "JPEG", exif=exif)).json()
    assert answer["predictions"][0]["digit"] == 7


def test_what_is_no_digit_says_so(client: httpx.Client) -> None:
    blank = encode(Image.new("L", (100, 100), 255))
    two = Image.new("L", (560, 280), 255)
    two.paste(draw(7), (0, 0))
    two.paste(draw(4), (280, 0))
    v1 = client.post(V1, json=v1_json(blank, encode(two), SEVEN)).json()["predictions"]
    assert v1[0] == {
        "digit": None,
        "confidence": 0.0,
        "probabilities": [0.0] * 10,
        "status": "no_digit",
    }
    assert [p["status"] for p in v1] == ["no_digit", "multiple", "ok"]
    tensors = {
        output["name"]: output["data"]
        for output in client.post(V2, json=v2_json(blank)).json()["outputs"]
    }
    assert (tensors["digit"], tensors["status"]) == ([-1], ["no_digit"])


def test_an_upload_may_ask_what_the_model_saw(client: httpx.Client) -> None:
    answer = client.post("/predict?picture=true", files={"images": SEVEN}).json()
    png = base64.b64decode(answer["predictions"][0]["picture"]["b64"])
    picture = Image.open(io.BytesIO(png))
    assert (picture.size, picture.mode) == ((28, 28), "L")
    # In MNIST's own format already: it passes unchanged, and is answered in the same way.
    again = client.post("/predict?picture=true", files={"images": png}).json()
    assert again["predictions"] == close_to(answer["predictions"])


def test_metadata_describe_the_public_tensors(client: httpx.Client) -> None:
    metadata = client.get("/v2/models/mnist").json()
    assert metadata["inputs"] == [{"name": "images", "datatype": "BYTES", "shape": [-1]}]
    assert [output["name"] for output in metadata["outputs"]] == [
        "digit",
        "confidence",
        "probabilities",
        "status",
    ]


def test_the_root_is_a_health_check_and_leads_browsers_to_the_playground(
    client: httpx.Client,
) -> None:
    assert client.get("/").json() == {"status": "alive"}
    answer = client.get("/", headers={"accept": "text/html,*/*"}, follow_redirects=True)
    assert answer.url.path == "/playground"
    assert "default-src 'none'" in answer.headers["content-security-policy"]


async def test_ten_thousand_requests_each_get_their_own_answer(service: programs.Program) -> None:
    """32 clients with scribbles, whose probabilities tell them apart."""
    random = np.random.default_rng(0)
    scribbles = [[tuple(point) for point in random.uniform(0.1, 0.9, (5, 2))] for _ in range(150)]
    files = [encode(draw_strokes([scribble], 56)) for scribble in scribbles]
    connector = aiohttp.TCPConnector(limit=32)
    async with aiohttp.ClientSession(service.url, connector=connector) as session:

        async def ask(i: int) -> Any:
            async with session.post(V1, data=files[i]) as response:
                (prediction,) = (await response.json())["predictions"]
                return np.array(prediction["probabilities"])

        alone = [await ask(i) for i in range(len(files))]
        apart = [np.abs(a - b).max() for i, a in enumerate(alone) for b in alone[:i]]
        assert np.mean(np.array(apart) > 1e-4) > 0.9
        numbers = iter(range(10_000))

        async def one_client() -> int:
            right = 0
            for number in numbers:
                i = number * 7 % len(files)
                right += bool(np.abs(await ask(i) - alone[i]).max() < 1e-5)
            return right

        assert sum(await asyncio.gather(*(one_client() for _ in range(32)))) == 10_000
