"""The tensor of a request: taken as it was meant, or refused with what was expected."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from kserve import InferInput, InferRequest

from predictor import tensors
from predictor.tensors import read_images
from serving import v2
from serving.errors import InvalidInput, ServingError, TooLarge
from serving.scores import Images

pictures = hnp.arrays(np.uint8, st.tuples(st.integers(1, 4), st.just(28), st.just(28)))


def read(payload: Any, max_instances: int = 8) -> Images:
    return read_images(payload, max_instances=max_instances)


def v2_json(data: Any, shape: list[int], **changes: str) -> InferRequest:
    tensor = {"name": "images", "datatype": "UINT8", "shape": shape, "data": data, **changes}
    return v2.read_request(json.dumps({"inputs": [tensor]}).encode(), None, "mnist")


def v2_raw(data: bytes, shape: list[int]) -> InferRequest:
    return InferRequest("mnist", [InferInput("images", shape, "UINT8")], raw_inputs=[data])


@given(pictures)
def test_every_form_gives_the_same_images(images: Images) -> None:
    n = len(images)
    forms = [
        {"instances": images.tolist()},
        v2_json(images.ravel().tolist(), [n, 28, 28]),
        v2_json(images.tolist(), [n, 28, 28]),
        v2_json(images[:, None].tolist(), [n, 1, 28, 28]),
        v2_raw(images.tobytes(), [n, 28, 28]),
        v2_raw(images.tobytes(), [n, 1, 28, 28]),
    ]
    for form in forms:
        result = read(form)
        assert result.dtype == np.uint8
        np.testing.assert_array_equal(result, images)


BLANK = [[0] * 28] * 28


def spoilt(value: Any) -> list[Any]:
    return [*BLANK[:-1], [*BLANK[0][:-1], value]]


def test_pictures_of_another_shape_are_read_as_that_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensors, "SHAPE", [2, 2, 3])
    numbers = list(range(24))
    colours = np.array(numbers, np.uint8).reshape(2, 2, 2, 3)
    for payload in (
        {"instances": colours.tolist()},
        v2_json(numbers, [2, 2, 2, 3]),
        v2_raw(colours.tobytes(), [2, 2, 2, 3]),
    ):
        np.testing.assert_array_equal(read(payload), colours)


@pytest.mark.parametrize(
    "payload",
    [
        *(None, [], "x", b"\x89PNG", {}, {"x": [BLANK]}),
        *({"instances": []}, {"instances": {}}, {"instances": 7}),
    ],
)
def test_v1_without_instances_is_refused(payload: Any) -> None:
    with pytest.raises(InvalidInput, match="instances"):
        read(payload)


@pytest.mark.parametrize(
    "image",
    [
        *map(spoilt, [256, -1, 0.5, None, True, False, "0", [0], {}, 10**30]),
        *(None, 7, "x", [], {}, BLANK[:-1], [*BLANK, BLANK[0]], [0] * 784, [BLANK]),
        [*BLANK[:-1], [0] * 27],
        [*BLANK[:-1], 28],
        [*BLANK[:-1], "x" * 28],
    ],
)
def test_v1_names_the_instance_that_is_wrong(image: Any) -> None:
    with pytest.raises(InvalidInput, match="instance 1: expected 28×28 integers from 0"):
        read({"instances": [BLANK, image, BLANK]})


@pytest.mark.parametrize("value", [256, -1, 0.5, None, True, "0", float("nan"), 10**30, {}])
def test_v2_json_refuses_what_is_no_uint8(value: Any) -> None:
    request = v2_json([0] * 784, [1, 28, 28])
    request.inputs[0].data = [*[0] * 783, value]
    with pytest.raises(InvalidInput, match="integers from 0"):
        read(request)


@pytest.mark.parametrize("shape", [[], [784], [28, 28], [0, 28, 28], [1, 28, 27], [1, 2, 28, 28]])
def test_v2_refuses_other_shapes(shape: list[int]) -> None:
    with pytest.raises(InvalidInput, match="expected shape"):
        read(v2_raw(bytes(784), shape))


@pytest.mark.parametrize("size", [0, 783, 785, 1568])
def test_v2_refuses_data_that_do_not_fill_the_shape(size: int) -> None:
    with pytest.raises(InvalidInput, match="784"):
        read(v2_raw(bytes(size), [1, 28, 28]))
    with pytest.raises(InvalidInput, match=f"got a list of {size} and not 784"):
        read(v2_json([0] * size, [1, 28, 28]))


@pytest.mark.parametrize(
    "data",
    [
        [[0] * 784, [0] * 784],
        [[[0] * 14] * 56] * 2,
        [[[0] * 28] * 27, [[0] * 28] * 29],
        [[0] * 28] * 56,
        [[[[0] * 28] * 28] * 2],
        [*[[[0] * 28] * 28], 0],
        [0, [[0] * 28] * 28],
    ],
    ids=["rows", "halves", "unequal", "no images", "another axis", "half flat", "half nested"],
)
def test_v2_refuses_lists_that_are_nested_otherwise_than_the_shape_says(data: Any) -> None:
    with pytest.raises(InvalidInput, match="expected 28×28 integers"):
        read(v2_json(data, [2, 28, 28]))


@pytest.mark.parametrize("changes", [{"datatype": "FP32"}, {"datatype": "?"}, {"name": "x"}])
def test_v2_refuses_other_tensors(changes: dict[str, str]) -> None:
    with pytest.raises(InvalidInput, match="expected"):
        read(v2_json([0] * 784, [1, 28, 28], **changes))


def test_v2_refuses_a_second_input() -> None:
    tensor = InferInput("images", [1, 28, 28], "UINT8")
    request = InferRequest("mnist", [tensor, tensor], raw_inputs=[bytes(784)] * 2)
    with pytest.raises(InvalidInput, match="one input"):
        read(request)


def test_too_many_images_are_refused_before_they_are_looked_at() -> None:
    assert len(read({"instances": [BLANK] * 8})) == len(read(v2_raw(bytes(6272), [8, 28, 28]))) == 8
    with pytest.raises(TooLarge, match="9 images in one request; the limit is 8"):
        read({"instances": ["nonsense"] * 9})
    for count in (9, 10**12):
        with pytest.raises(TooLarge, match=f"{count} images"):
            read(v2_raw(b"", [count, 28, 28]))


def test_very_deep_nesting_is_refused() -> None:
    data: Any = 0
    for _ in range(900):
        data = [data]
    with pytest.raises(InvalidInput):
        read(v2_json(data, [1, 28, 28]))


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)


@given(values | st.fixed_dictionaries({"instances": st.lists(values | st.just(BLANK))}))
def test_any_v1_value_is_read_or_refused(payload: Any) -> None:
    try:
        images = read(payload)
    except ServingError:
        return
    assert images.shape[1:] == (28, 28)


@given(
    values | st.lists(values),
    st.lists(st.integers(0, 28), max_size=4) | st.sampled_from([[1, 28, 28], [2, 1, 28, 28]]),
)
def test_any_v2_data_are_read_or_refused(data: Any, shape: list[int]) -> None:
    try:
        images = read(v2_json(data, shape))
    except ServingError:
        return
    assert images.shape[1:] == (28, 28)
