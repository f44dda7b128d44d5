"""V2 bodies: what is read is what was sent; what does not add up is refused."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kserve import InferRequest

from serving import v2
from serving.errors import InvalidInput, TooLarge
from serving.json import LONGEST_NAME


def tensor(**changes: Any) -> dict[str, Any]:
    return {"name": "images", "datatype": "UINT8", "shape": [2], **changes}


def body(*inputs: dict[str, Any], binary: bytes = b"", **rest: Any) -> tuple[bytes, str]:
    header = json.dumps({"inputs": inputs, **rest}).encode()
    return header + binary, str(len(header))


def read(content: bytes, header_length: str | None = None) -> InferRequest:
    return v2.read_request(content, header_length, "mnist")


def test_json_is_read() -> None:
    request = read(body(tensor(data=[7, 8]), id="42", outputs=[{"name": "digit"}])[0])
    assert request.id == "42"
    assert request.inputs[0].as_numpy().tolist() == [7, 8]
    assert [output.name for output in request.request_outputs] == ["digit"]


def test_binary_data_are_read_without_a_detour() -> None:
    request = read(*body(tensor(parameters={"binary_data_size": 2}), binary=b"\x07\xff"))
    assert request.inputs[0].as_numpy().tolist() == [7, 255]
    assert request.inputs[0].data is None


def test_binary_and_json_inputs_may_stand_side_by_side() -> None:
    request = read(
        *body(
            tensor(name="a", parameters={"binary_data_size": 2}),
            tensor(name="b", data=[3, 4]),
            tensor(name="c", parameters={"binary_data_size": 2}),
            binary=b"\x01\x02\x05\x06",
        )
    )
    assert [i.as_numpy().tolist() for i in request.inputs] == [[1, 2], [3, 4], [5, 6]]


@pytest.mark.parametrize(
    ("content", "header_length", "message"),
    [
        (b"", None, "not valid JSON"),
        (b"{", None, "not valid JSON"),
        (b'{"inputs": NaN}', None, "not valid JSON"),
        (b"[]", None, "not a JSON object"),
        (b"{}", None, "'inputs'"),
        (b'{"inputs": []}', None, "'inputs'"),
        (b'{"inputs": [1]}', None, "'inputs'"),
        (b'{"inputs": [{}]}', None, "'name'"),
        (body(tensor(name=1, data=[]))[0], None, "'name'"),
        (body(tensor(shape=2, data=[]))[0], None, "'shape'"),
        (body(tensor(shape=[-1], data=[]))[0], None, "'shape'"),
        (body(tensor(shape=[True], data=[]))[0], None, "'shape'"),
        (body(tensor(shape=[1.5], data=[]))[0], None, "'shape'"),
        (body(tensor(datatype=8, data=[]))[0], None, "'datatype'"),
        (body(tensor())[0], None, "'data' or 'binary_data_size'"),
        (body(tensor(data=7))[0], None, "'data' or 'binary_data_size'"),
        (body(tensor(data=[1], parameters=[]))[0], None, "'parameters'"),
        (body(tensor(data=[1]), id=7)[0], None, "'id'"),
        (body(tensor(data=[1]), parameters={"binary_data_output": 1})[0], None, "JSON boolean"),
        (body(tensor(data=[1]), outputs=[{}])[0], None, "'name'"),
        (
            body(tensor(data=[1]), outputs=[{"name": "x", "parameters": {"binary_data": "false"}}])[
                0
            ],
            None,
            "'binary_data' to be a JSON boolean",
        ),
        (body(tensor(data=[1]), outputs={})[0], None, "'outputs'"),
        (body(tensor(data=[1]), outputs=[{"name": "x"}] * 17)[0], None, "0 to 16 objects"),
        (body(*[tensor(data=[1])] * 17)[0], None, "1 to 16 objects"),
        (b"{}", "3", "the body has 2 bytes"),
        (b"{}", "-1", "expected a number of bytes"),
        (b"{}", "two", "expected a number of bytes"),
        (b"{}", "9" * 5000, "expected a number of bytes"),
        (b"{}", "٣", "expected a number of bytes"),
        (*body(tensor(parameters={"binary_data_size": 3}), binary=b"12"), "2 bytes are left"),
        (*body(tensor(parameters={"binary_data_size": 1}), binary=b"12"), "belong to no input"),
        (*body(tensor(parameters={"binary_data_size": -1}), binary=b"12"), "no number of bytes"),
        (*body(tensor(parameters={"binary_data_size": "2"}), binary=b"12"), "no number of bytes"),
        (*body(tensor(data=[1, 2], parameters={"binary_data_size": 2}), binary=b"12"), "both"),
    ],
)
def test_what_does_not_add_up_is_refused(
    content: bytes, header_length: str | None, message: str
) -> None:
    with pytest.raises(InvalidInput, match=message):
        read(content, header_length)


@pytest.mark.parametrize("key", ["id", "name", "datatype", "outputs"])
def test_a_name_that_would_be_repeated_for_megabytes_is_refused(key: str) -> None:
    def content(name: str) -> bytes:
        rest: dict[str, Any] = {"id": {"id": name}, "outputs": {"outputs": [{"name": name}]}}
        own = {key: name} if key in ("name", "datatype") else {}
        return body(tensor(data=[1, 2], **own), **rest.get(key, {}))[0]

    read(content("ä" * LONGEST_NAME))
    with pytest.raises(InvalidInput, match="has more than 4096 characters"):
        read(content("ä" * (LONGEST_NAME + 1)))


OUTPUTS = {
    "digit": np.array([3, -1]),
    "confidence": np.array([0.5, 0], np.float32),
    "status": np.array(["ok", "no_digit"], object),
    "accepted": np.array([True, False]),
}


def answer(content: bytes, header_length: str | None = None) -> tuple[bytes, int | None]:
    request = read(content, header_length)
    response = v2.make_response(request, OUTPUTS, model_name="mnist", model_version="2")
    return v2.write_response(response, request)


def test_an_answer_in_json() -> None:
    content, json_length = answer(body(tensor(data=[1]), id="x")[0])
    assert json_length is None
    assert json.loads(content) == {
        "model_name": "mnist",
        "model_version": "2",
        "id": "x",
        "outputs": [
            {"name": "digit", "shape": [2], "datatype": "INT64", "data": [3, -1]},
            {"name": "confidence", "shape": [2], "datatype": "FP32", "data": [0.5, 0.0]},
            {"name": "status", "shape": [2], "datatype": "BYTES", "data": ["ok", "no_digit"]},
            {"name": "accepted", "shape": [2], "datatype": "BOOL", "data": [True, False]},
        ],
    }


def test_an_answer_in_binary() -> None:
    content, json_length = answer(
        body(tensor(data=[1]), parameters={"binary_data_output": True})[0]
    )
    assert json_length is not None
    outputs = json.loads(content[:json_length])["outputs"]
    sizes = [output["parameters"]["binary_data_size"] for output in outputs]
    assert sizes == [16, 8, 4 + 2 + 4 + 8, 2]
    assert content[json_length:] == (
        OUTPUTS["digit"].tobytes()
        + OUTPUTS["confidence"].tobytes()
        + b"\x02\0\0\0ok\x08\0\0\0no_digit"
        + b"\x01\x00"
    )


def test_only_the_outputs_asked_for_each_in_its_own_form() -> None:
    wanted = [{"name": "accepted", "parameters": {"binary_data": True}}, {"name": "digit"}]
    content, json_length = answer(body(tensor(data=[1]), outputs=wanted)[0])
    assert json_length is not None
    outputs = json.loads(content[:json_length])["outputs"]
    assert [output["name"] for output in outputs] == ["accepted", "digit"]
    assert outputs[1]["data"] == [3, -1]
    assert content[json_length:] == b"\x01\x00"


def test_what_is_said_of_one_output_goes_before_what_is_said_of_all() -> None:
    wanted = [{"name": "digit", "parameters": {"binary_data": False}}, {"name": "accepted"}]
    everything = {"binary_data_output": True}
    content, json_length = answer(body(tensor(data=[1]), outputs=wanted, parameters=everything)[0])
    assert json.loads(content[:json_length])["outputs"][0]["data"] == [3, -1]
    assert content[json_length:] == b"\x01\x00"


def test_an_output_asked_for_twice_is_refused() -> None:
    with pytest.raises(InvalidInput, match="twice"):
        answer(body(tensor(data=[1]), outputs=[{"name": "digit"}] * 2)[0])


def test_null_stands_for_nothing() -> None:
    content, _ = answer(body(tensor(data=[1]), outputs=None, id=None, parameters=None)[0])
    assert len(json.loads(content)["outputs"]) == len(OUTPUTS)


def test_json_that_would_fill_the_memory_is_refused() -> None:
    with pytest.raises(TooLarge, match="values"):
        read(b'{"inputs": [' + b"[]," * 600_000 + b"[]]}")


def test_an_output_that_does_not_exist_is_refused() -> None:
    with pytest.raises(InvalidInput, match="'colour'"):
        answer(body(tensor(data=[1]), outputs=[{"name": "colour"}])[0])


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=10,
)
keys = ["name", "shape", "datatype", "data", "parameters"]


@given(
    inputs=st.lists(
        st.dictionaries(st.sampled_from(keys), json_values)
        | st.builds(
            lambda **entry: entry,
            name=st.just("images"),
            datatype=st.sampled_from(["UINT8", "BYTES", "FP16", "x"]),
            shape=st.lists(st.integers(-2, 9), max_size=3),
            parameters=st.fixed_dictionaries({"binary_data_size": st.integers(-2, 99)}),
        ),
        max_size=3,
    ),
    rest=st.dictionaries(st.sampled_from(["id", "outputs", "parameters"]), json_values),
    binary=st.binary(max_size=50),
    offset=st.integers(-9, 9),
)
def test_any_body_is_read_or_refused(
    inputs: list[dict[str, Any]], rest: dict[str, Any], binary: bytes, offset: int
) -> None:
    content, header_length = body(*inputs, binary=binary, **rest)
    try:
        request = read(content, str(int(header_length) + offset))
    except InvalidInput:
        return
    assert request.inputs


@given(st.binary(max_size=200), st.none() | st.text(max_size=8))
def test_any_bytes_are_refused(content: bytes, header_length: str | None) -> None:
    with pytest.raises(InvalidInput):
        read(content, header_length)
