"""The files of a request: the same from every form, and whatever is wrong is named."""

import base64
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kserve import InferInput, InferRequest

from serving import v2
from serving.errors import InvalidInput, NotAnImage, ServingError, TooLarge
from transformer.payload import Upload, read_files


def read(payload: Any) -> list[bytes]:
    return read_files(payload, max_instances=8)


def b64(file: bytes) -> str:
    return base64.b64encode(file).decode()


def v1_json(*texts: Any) -> dict[str, Any]:
    return {"instances": [{"image": {"b64": text}} for text in texts]}


def v2_json(data: Any, shape: list[int], datatype: str = "BYTES") -> InferRequest:
    tensor = {"name": "images", "datatype": datatype, "shape": shape, "data": data}
    return v2.read_request(json.dumps({"inputs": [tensor]}).encode(), None, "mnist")


def v2_binary(files: list[bytes]) -> InferRequest:
    tensor = InferInput("images", [len(files)], "BYTES")
    tensor.set_data_from_numpy(np.array([*files, None], object)[:-1])
    return InferRequest("mnist", [tensor])


def v2_grpc(files: list[bytes]) -> InferRequest:
    return InferRequest.from_grpc(
        InferRequest("mnist", [InferInput("images", [len(files)], "BYTES", files)]).to_grpc()
    )


@given(st.lists(st.binary(max_size=50), min_size=1, max_size=8))
def test_every_form_gives_the_same_files(files: list[bytes]) -> None:
    texts = [b64(file) for file in files]
    forms = [v1_json(*texts), Upload(files, False), v2_json(texts, [len(files)])]
    for form in (*forms, v2_binary(files), v2_grpc(files)):
        assert read(form) == files
    image = b"\x89" + files[0]
    assert read(image) == [image]


@pytest.mark.parametrize("body", [b'{"instances": []}', b"[]", b"--x\r\nContent-Disposition: x"])
def test_json_or_a_form_that_is_sent_as_an_image_is_told_what_it_lacks(body: bytes) -> None:
    with pytest.raises(NotAnImage, match="must be application/json, or a form, which goes to /pre"):
        read(body)


@pytest.mark.parametrize(
    "payload", [None, 7, "x", [], {}, {"instances": []}, {"instances": {}}, {"images": [1]}]
)
def test_v1_without_instances_is_refused(payload: Any) -> None:
    with pytest.raises(InvalidInput, match="instances"):
        read(payload)


@pytest.mark.parametrize(
    "instance",
    [None, 7, "x", [], {}, {"b64": "AA=="}, {"image": "AA=="}, {"image": {"b64": None}}, [[0]]],
)
def test_v1_names_the_instance_with_the_wrong_key(instance: Any) -> None:
    payload = v1_json("AA==", "AA==")
    payload["instances"][1] = instance
    with pytest.raises(InvalidInput, match=r'instance 1: expected \{"image".* an image file'):
        read(payload)


@pytest.mark.parametrize(
    "text",
    ["A", "AA=", "AA==AA", "A*==", "_w==", "AAAA\nAA==", "ÄÄ==", "data:image/png;base64,AA=="],
)
def test_what_is_not_base64_is_named(text: str) -> None:
    for payload in (v1_json("AA==", text), v2_json(["AA==", text], [2])):
        with pytest.raises(InvalidInput, match="instance 1: expected .* base64 .* line breaks"):
            read(payload)


@pytest.mark.parametrize(
    ("data", "shape", "message"),
    [
        (["AA=="], [2], "do not hold the 2 items"),
        (["AA==", "AA=="], [1], "do not hold the 1 items"),
        ([], [1], "do not hold the 1 items"),
        (["AA=="], [1, 1], "expected shape"),
        ([], [0], "expected shape"),
        (["AA=="], [], "expected shape"),
        ([7], [1], "instance 0: expected the file as base64"),
        ([["AA=="]], [1], "instance 0: expected the file as base64"),
    ],
)
def test_v2_json_that_does_not_fit_its_shape(data: Any, shape: list[int], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        read(v2_json(data, shape))


@pytest.mark.parametrize(
    "raw", [b"", b"\x01", b"\x05\0\0\0ab", b"\xff\xff\xff\xff", b"\x01\0\0\0ab\0\0\0"]
)
def test_v2_binary_with_lying_lengths(raw: bytes) -> None:
    request = InferRequest("mnist", [InferInput("images", [1], "BYTES")], raw_inputs=[raw])
    with pytest.raises(InvalidInput, match="do not hold the 1 items"):
        read(request)


def test_v2_other_tensors() -> None:
    with pytest.raises(InvalidInput, match="datatype BYTES"):
        read(v2_json([1], [1], datatype="UINT8"))
    with pytest.raises(InvalidInput, match="one input 'images'"):
        read(InferRequest("mnist", []))


def test_a_count_is_checked_before_the_items_are_unpacked() -> None:
    request = InferRequest("mnist", [InferInput("images", [9], "BYTES")], raw_inputs=[bytes(400)])
    with pytest.raises(TooLarge):
        read(request)


def test_too_many_images() -> None:
    for payload in (v1_json(*["AA=="] * 9), Upload([b""] * 9, False), v2_binary([b"x"] * 9)):
        with pytest.raises(TooLarge, match="9 images in one request; the limit is 8"):
            read(payload)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["instances", "image", "b64"]), inner)
    ),
    max_leaves=8,
)


@given(values)
def test_any_v1_value_is_read_or_refused(payload: Any) -> None:
    try:
        files = read(payload)
    except ServingError:
        return
    assert files


@given(st.binary(max_size=60), st.lists(st.integers(0, 4), max_size=2))
def test_any_raw_data_are_read_or_refused(raw: bytes, shape: list[int]) -> None:
    request = InferRequest("mnist", [InferInput("images", shape, "BYTES")], raw_inputs=[raw])
    try:
        files = read(request)
    except ServingError:
        return
    assert len(files) == shape[0]
