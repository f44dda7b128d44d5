"""The endpoints in front of a model: V1 and V2, JSON and binary."""

import json
from typing import Any

import httpx
import pytest

from serving import v2
from tests.echo import V1, V2, Echo

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    "content_type",
    ["application/json", "application/json; charset=utf-8", "Application/JSON", "text/x+json"],
)
async def test_v1_json_reaches_the_model_as_a_value(
    echo_client: httpx.AsyncClient, echo: Echo, content_type: str
) -> None:
    answer = await echo_client.post(V1, content=b'{"a": 1}', headers={"content-type": content_type})
    assert answer.json() == {"predictions": [0.5], "model_version": "7"}
    assert answer.headers["x-model-version"] == "7"
    assert echo.seen == [{"a": 1}]


@pytest.mark.parametrize(
    ("content", "headers", "seen"),
    [
        (b"\x89PNG", {"content-type": "image/png"}, b"\x89PNG"),
        (b'{"a": 1}', {"content-type": "application/octet-stream"}, b'{"a": 1}'),
        (b"\x89PNG", {}, b"\x89PNG"),
        (b'{"a": 1}', {}, {"a": 1}),
        (b"", {}, b""),
        (b' {"a": 1}', {"content-type": "application/x-www-form-urlencoded"}, {"a": 1}),
        (b"\x89PNG", {"content-type": "application/x-www-form-urlencoded"}, b"\x89PNG"),
    ],
)
async def test_v1_takes_any_other_body_as_it_is(
    echo_client: httpx.AsyncClient, echo: Echo, content: bytes, headers: dict[str, str], seen: Any
) -> None:
    assert (await echo_client.post(V1, content=content, headers=headers)).status_code == 200
    assert echo.seen == [seen]


async def test_v2_json_and_binary_give_the_same(echo_client: httpx.AsyncClient) -> None:
    tensor = {"name": "images", "datatype": "UINT8", "shape": [2]}
    answer = await echo_client.post(V2, json={"inputs": [{**tensor, "data": [7, 8]}]})
    assert answer.json()["outputs"][0]["data"] == [7, 8]
    assert answer.json()["model_version"] == answer.headers["x-model-version"] == "7"

    header = json.dumps({"inputs": [{**tensor, "parameters": {"binary_data_size": 2}}]}).encode()
    binary = await echo_client.post(
        V2, content=header + b"\x07\x08", headers={v2.HEADER_LENGTH: str(len(header))}
    )
    assert binary.json()["outputs"] == answer.json()["outputs"]


async def test_v2_binary_answers_say_where_the_json_ends(echo_client: httpx.AsyncClient) -> None:
    tensor = {"name": "images", "datatype": "UINT8", "shape": [2], "data": [7, 8]}
    answer = await echo_client.post(
        V2, json={"inputs": [tensor], "parameters": {"binary_data_output": True}}
    )
    assert answer.content[int(answer.headers[v2.HEADER_LENGTH]) :] == b"\x07\x08"
    assert answer.headers["content-type"] == "application/octet-stream"
