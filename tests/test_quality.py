"""How well the service reads real handwriting, end to end. Nothing here is chosen by the result."""

import aiohttp
import anyio
import numpy as np
import pytest
from PIL import Image

from predictor.artifact import read_metadata
from tests import programs
from tests.digits import encode, hand_drawn, mnist_test_set

pytestmark = pytest.mark.anyio

FILES = 50
"""Files in one request."""


@pytest.mark.parametrize("half", [0, 1])
async def test_digits_drawn_by_hand_through_the_upload(
    service: programs.Program, half: int
) -> None:
    files, labels = zip(*hand_drawn(half), strict=True)
    digits = []
    async with aiohttp.ClientSession(service.url) as session:
        for start in range(0, len(files), FILES):
            form = aiohttp.FormData()
            for file in files[start : start + FILES]:
                form.add_field("images", file, filename="digit.png")
            async with session.post("/predict", data=form) as response:
                digits += [p["digit"] for p in (await response.json())["predictions"]]
    accuracy = np.mean(np.array(digits) == np.array(labels))
    assert accuracy >= 0.97, f"{accuracy:.2%}"


async def test_mnist_as_png_files_through_v1_is_the_models_own_accuracy(
    service: programs.Program,
) -> None:
    images, labels = mnist_test_set()
    digits = np.full(len(images), -1)
    limit = anyio.CapacityLimiter(32)

    async def ask(session: aiohttp.ClientSession, i: int) -> None:
        async with (
            limit,
            session.post(
                "/v1/models/mnist:predict",
                data=encode(Image.fromarray(images[i])),
                headers={"content-type": "image/png"},
            ) as response,
        ):
            digits[i] = (await response.json())["predictions"][0]["digit"]

    async with aiohttp.ClientSession(service.url) as session, anyio.create_task_group() as group:
        for i in range(len(images)):
            group.start_soon(ask, session, i)
    metadata = read_metadata(programs.ROOT / "models/mnist/1")
    (own,) = [m.values["accuracy"] for m in metadata.metrics if m.dataset == "MNIST test set"]
    assert np.mean(digits == labels) == pytest.approx(own, abs=0.0005)
