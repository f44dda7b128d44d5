"""What the caller is told, from what the picture says and what the model says."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from serving.json import read_json, write_json
from serving.scores import Scores
from transformer.answer import NO_DIGIT, Reading, make_answer, show, to_predictions, to_tensors
from transformer.image import Picture, Status

SEVEN = np.full(10, 0.02, np.float32)
SEVEN[7] = 0.82


def picture(status: Status) -> Picture:
    return Picture(np.zeros((28, 28), np.uint8), status)


def reading(*accepted: bool) -> Reading:
    return Reading.of(Scores(np.tile(SEVEN, (len(accepted), 1)), np.array(accepted), "2"))


@pytest.mark.parametrize(
    ("seen", "accepted", "status"),
    [
        ("ok", True, "ok"),
        ("ok", False, "uncertain"),
        ("multiple", True, "multiple"),
        ("multiple", False, "multiple"),
        ("no_digit", True, "no_digit"),
        ("no_digit", False, "no_digit"),
    ],
)
def test_the_picture_has_the_last_word_on_the_status(
    seen: Status, accepted: bool, status: str
) -> None:
    assert make_answer([picture(seen)], reading(accepted)).status == [status]


def test_a_digit_comes_with_its_probability() -> None:
    answer = make_answer([picture("ok")], reading(True))
    assert answer.digit == [7]
    assert answer.confidence == [SEVEN[7]]
    assert isinstance(answer.confidence[0], np.float32)
    assert answer.probabilities[0].dtype == np.float32
    np.testing.assert_array_equal(answer.probabilities, [SEVEN])


def test_without_a_digit_there_is_none_and_nothing_is_probable() -> None:
    answer = make_answer([picture("no_digit"), picture("ok")], reading(True, True))
    assert answer.digit == [NO_DIGIT, 7]
    assert answer.confidence == [0, SEVEN[7]]
    assert [row.dtype for row in answer.probabilities] == [np.float32, np.float32]
    np.testing.assert_array_equal(answer.probabilities, [np.zeros(10), SEVEN])


@pytest.mark.parametrize("seen", ["ok", "no_digit"])
def test_v2_has_tensors(seen: Status) -> None:
    tensors = to_tensors(make_answer([picture(seen), picture("ok")], reading(True, False)))
    assert {name: tensor.dtype.name for name, tensor in tensors.items()} == {
        "digit": "int64",
        "confidence": "float32",
        "probabilities": "float32",
        "status": "object",
    }
    assert [tensor.shape for tensor in tensors.values()] == [(2,), (2,), (2, 10), (2,)]


def test_v1_says_null_where_v2_says_minus_one() -> None:
    predictions = to_predictions(
        make_answer([picture("no_digit"), picture("ok")], reading(True, True))
    )
    assert [p["digit"] for p in read_json(write_json(predictions))] == [None, 7]
    assert list(predictions[0]) == ["digit", "confidence", "probabilities", "status"]


def test_a_picture_is_shown_as_a_png() -> None:
    pixels = np.arange(784, dtype=np.uint8).reshape(28, 28)
    png = base64.b64decode(show(Picture(pixels, "ok"))["b64"])
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(png))), pixels)
