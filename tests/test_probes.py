"""Probes: image files of what is no single digit, the same ones each time."""

import io
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.synthetic import digits
from training import outliers, probes
from training.probes import KINDS, LETTERS, SIDE
from transformer import image

DIGITS = digits(20, seed=1).images.numpy()


def pixels(file: bytes) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(file)).convert("L"))


def several(kind: str) -> list[bytes]:
    random = np.random.default_rng(5)
    return [KINDS[kind](random, DIGITS) for _ in range(12)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_probe_is_an_image_file_that_the_transformer_reads(kind: str) -> None:
    for file in several(kind):
        assert pixels(file).shape == (SIDE, SIDE)
        assert image.read(file).status in {"ok", "no_digit", "multiple"}


@pytest.mark.parametrize("kind", KINDS)
def test_no_two_probes_of_a_kind_are_the_same(kind: str) -> None:
    assert len(set(several(kind))) == 12


def test_probes_are_the_same_each_time_and_more_of_them_begin_with_the_fewer() -> None:
    made, again, more = (probes.make(DIGITS, count) for count in (2, 2, 3))
    assert made == again
    assert {kind: files[:2] for kind, files in more.items()} == made
    assert list(made) == list(KINDS)


def test_a_pair_of_blank_pictures_is_a_page() -> None:
    page = probes.pair(np.random.default_rng(0), np.zeros((2, 28, 28), np.uint8))
    assert pixels(page).shape == (SIDE, SIDE)


def test_blank_pages_have_nothing_to_find() -> None:
    assert {image.read(file).status for file in several("blank pages")} == {"no_digit"}


def test_letters_leave_out_those_that_look_like_digits() -> None:
    assert not set(LETTERS) & set("OoQDIijJlZzySsbGTBgq")
    assert len(set(LETTERS)) == len(LETTERS)
    assert LETTERS.isalpha()


def test_letters_are_in_fonts_that_training_does_not_draw_with() -> None:
    assert all(name.startswith(("DejaVu", "STIX")) for name in probes.FONTS)
    assert all(isinstance(font, int) for font in outliers.FONTS)  # OpenCV's, of strokes


def test_outliers_to_train_on_are_the_same_for_a_seed_and_none_that_is_flagged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    blank = np.zeros((outliers.SIDE, outliers.SIDE), np.float32)
    monkeypatch.setattr(outliers, "KINDS", [lambda *_: blank, *outliers.KINDS])
    first, again, other = (outliers.outliers(DIGITS, 40, seed=seed) for seed in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()
    assert first.any(axis=(1, 2)).all()


def test_photographs_have_many_greys() -> None:
    assert np.median([len(np.unique(pixels(file))) for file in several("photographs")]) > 60


def test_two_digits_are_those_given() -> None:
    """Of bars, pairs are two bars: seen as several, or joined where they touch."""
    bars = np.zeros((1, 28, 28), np.uint8)
    bars[0, 4:24, 12:16] = 255
    random = np.random.default_rng(0)
    apart, joined = 0, 0
    for _ in range(40):
        page = pixels(KINDS["two digits"](random, bars)).astype(int)
        ink = abs(page - page[0, 0]) > 40
        strokes = np.count_nonzero(np.diff(ink[SIDE // 2].astype(int)) == 1)
        assert strokes in {1, 2}
        apart, joined = apart + (strokes == 2), joined + (strokes == 1)
    assert apart > joined > 0


@pytest.mark.parametrize("kind", sorted(KINDS.keys() - {"two digits"}))
def test_other_kinds_do_not_depend_on_the_digits(kind: str) -> None:
    make: Callable[..., bytes] = KINDS[kind]
    assert make(np.random.default_rng(2), DIGITS) == make(np.random.default_rng(2), DIGITS[:1])


def test_what_is_flagged_is_counted_by_who_flags_it() -> None:
    status = ["ok", "uncertain", "uncertain", "no_digit", "multiple", "no_digit", "ok", "ok"]
    assert probes.flagged(status) == {
        "images": 8, "flagged_by_transformer": 3, "flagged_by_model": 2, "flagged": 5,
    }  # fmt: skip
