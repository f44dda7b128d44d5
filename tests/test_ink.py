"""Finding the digit: in uneven light, on a sheet, and where there is none."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from tests.digits import hand_drawn, mnist_test_set
from tests.drawings import Grey, drawn, is_like, placed
from transformer.image import picture, read


def uneven_light(page: Grey, *, edge: float) -> Grey:
    """A shadow on the right that halves the light, with a soft edge, and noise."""
    across = np.linspace(-0.5, 0.5, page.shape[1])
    light = 0.9 - 0.45 / (1 + np.exp(-across / edge))
    noise = np.random.default_rng(0).normal(0, 3, page.shape)
    return np.clip((40 + page * 0.8) * light + noise, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("edge", [0.2, 0.05, 0.005])
@pytest.mark.parametrize("digit", [1, 4, 7])
def test_shadows_and_noise_do_not_matter(digit: int, edge: float) -> None:
    page = placed(drawn(digit, 250))
    assert is_like(picture(uneven_light(page, edge=edge)), page, within=10)
    assert is_like(picture(255 - uneven_light(page, edge=edge)), page, within=10)


@pytest.mark.parametrize("turned", [0, 7])
@pytest.mark.parametrize("table", [20, 90])
def test_a_sheet_may_lie_on_a_table(table: int, turned: int) -> None:
    sheet = Image.fromarray(placed(drawn(), size=(420, 310), at=(70, 15)) // 5 * 4)
    scene = Image.new("L", (640, 640), table)
    mask = Image.new("L", sheet.size, 255).rotate(turned, expand=True)
    scene.paste(sheet.rotate(turned, Image.Resampling.BICUBIC, expand=True), (110, 100), mask)
    expected = Image.fromarray(drawn()).rotate(turned, Image.Resampling.BICUBIC, fillcolor=255)
    assert is_like(picture(np.asarray(scene)), np.asarray(expected), within=10)


def noise(size: tuple[int, int], low: int, high: int) -> Grey:
    return np.random.default_rng(0).integers(low, high, size, np.uint8)


def lines(*ends: tuple[float, float]) -> Grey:
    image = Image.new("L", (280, 280), 255)
    ImageDraw.Draw(image).line([(x * 280, y * 280) for x, y in ends], fill=0, width=5)
    return np.asarray(image)


def disc(radius: int) -> Grey:
    image = Image.new("L", (280, 280), 255)
    ImageDraw.Draw(image).circle((140, 140), radius, fill=0)
    return np.asarray(image)


NO_DIGIT: dict[str, NDArray[Any]] = {
    "black": np.zeros((28, 28), np.uint8),
    "white": np.full((280, 280), 255, np.uint8),
    "grey": np.full((90, 400), 77, np.uint8),
    "nearly even": noise((280, 280), 120, 130),
    "noise": noise((280, 280), 0, 256),
    "blank paper": uneven_light(np.full((480, 640), 255, np.uint8), edge=0.2),
    "blank paper in a shadow": uneven_light(np.full((480, 640), 255, np.uint8), edge=0.05),
    "blank ruled paper": np.where(np.arange(400)[:, None] % 40, 255, 190) * np.ones((1, 500)),
    "a line across": lines((0, 0.5), (1, 0.52)),
    "a dash": lines((0.3, 0.5), (0.7, 0.52)),
    "a speck": lines((0.5, 0.5), (0.51, 0.51)),
    "a square": np.pad(np.zeros((90, 90), np.uint8), 60, constant_values=255),
    "a dot": disc(20),
    "ink all over": disc(130),
    "a ramp": np.linspace(0, 255, 280)[None] * np.ones((280, 1)),
    "too low": drawn()[:1, :],
    "too faint": 245 + drawn() // 26,
}


@pytest.mark.parametrize("name", NO_DIGIT)
def test_where_there_is_no_digit_the_picture_is_empty(name: str) -> None:
    pixels, status = picture(NO_DIGIT[name].astype(np.uint8))
    assert status == "no_digit"
    assert not pixels.any()


@pytest.mark.parametrize(("height", "status"), [(5, "no_digit"), (6, "ok")])
def test_what_is_smaller_than_six_pixels_is_a_speck(height: int, status: str) -> None:
    page = np.full((200, 200), 255, np.uint8)
    page[90 : 90 + height, 90:92] = 0
    assert picture(page).status == status


def test_mnists_digits_are_one_digit_each_by_the_recipe_too() -> None:
    # Shifted and inverted, so that they do not pass unchanged.
    images = mnist_test_set()[0][:3000]
    pages = (np.pad(255 - image, (2, 6), constant_values=255) for image in images)
    statuses = [picture(page).status for page in pages]
    assert statuses.count("ok") >= 0.995 * len(images)


def test_digits_drawn_by_hand_are_one_digit_each() -> None:
    # Of the half that the recipe was developed on.
    statuses = [read(file).status for file, _ in hand_drawn(0)]
    assert statuses.count("ok") >= 0.995 * len(statuses)
