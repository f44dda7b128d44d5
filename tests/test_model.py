"""The predictor's model in process: what happens while torch works."""

import asyncio
import threading
import time
from typing import Any

import pytest
import torch

from predictor import artifact
from predictor.model import SHORT, Predictor
from serving.errors import Overloaded
from tests import programs

pytestmark = pytest.mark.anyio

BLANK = {"instances": [[[0] * 28] * 28]}


class SlowGraph:
    """A graph that computes until it is released."""

    def __init__(self) -> None:
        self.started = threading.Event()
        self.released = threading.Event()
        self.batches: list[int] = []

    def __call__(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self.batches.append(len(images))
        self.started.set()
        assert self.released.wait(30)
        return torch.full((len(images), 10), 0.1), torch.zeros(len(images), dtype=torch.bool)


@pytest.fixture
def graph() -> SlowGraph:
    return SlowGraph()


def serve(graph: artifact.Graph, max_instances: int = 5) -> Predictor:
    metadata = artifact.read_metadata(programs.ROOT / "models/mnist/1")
    version = artifact.Model(metadata, graph)
    return Predictor(
        "mnist", version, max_instances=max_instances, max_batch=2, max_pending=4, max_linger=0
    )


@pytest.fixture
def model(graph: SlowGraph) -> Predictor:
    return serve(graph)


async def ask(model: Predictor) -> Any:
    return await model(BLANK)


async def test_the_event_loop_is_free_while_torch_works(model: Predictor, graph: SlowGraph) -> None:
    request = asyncio.create_task(ask(model))
    while not graph.started.is_set():
        await asyncio.sleep(0.01)
    # Had the pass been on the loop, this line would not be reached before the graph gives up.
    graph.released.set()
    assert (await request)["model_version"] == "1"
    await model.close()


async def test_requests_that_arrive_during_a_pass_share_the_next_ones_and_a_full_queue_refuses(
    model: Predictor, graph: SlowGraph
) -> None:
    requests = [asyncio.create_task(ask(model)) for _ in range(4)]
    while not graph.started.is_set():
        await asyncio.sleep(0.01)
    with pytest.raises(Overloaded):
        await ask(model)
    graph.released.set()
    answers = await asyncio.gather(*requests)
    assert graph.batches == [1, 2, 1]
    assert all(len(answer["predictions"]) == 1 for answer in answers)
    await ask(model)
    await model.close()


@pytest.mark.parametrize(
    ("images", "size"), [(1, 1), (8, 8), (9, 12), (12, 12), (13, 16), (65, 68)]
)
async def test_large_batches_are_of_few_sizes(images: int, size: int) -> None:
    sizes = []

    def graph(batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        sizes.append(len(batch))
        sums = batch.sum((1, 2)) / 784  # says which image it is
        return sums[:, None].expand(-1, 10), sums > 0

    model = serve(graph, max_instances=images)
    answer = await model({"instances": [[[i + 1] * 28] * 28 for i in range(images)]})
    assert sizes == [size]
    assert [each["probabilities"][0] for each in answer["predictions"]] == [*range(1, images + 1)]
    assert all(each["accepted"] for each in answer["predictions"])
    await model.close()


async def test_a_short_pass_of_one_image_needs_no_thread_and_a_long_one_does() -> None:
    seconds = 0.0
    threads = []

    def graph(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        threads.append(threading.current_thread())
        time.sleep(seconds)
        return torch.full((len(images), 10), 0.1), torch.zeros(len(images), dtype=torch.bool)

    model = serve(graph)
    here = threading.current_thread()
    for _ in range(50):  # on a busy machine one may take long
        await ask(model)
        await model({"instances": BLANK["instances"] * 2})
    alone, together = threads[::2], threads[1::2]
    assert alone[0] is not here, "how long it takes is not known yet"
    assert here in alone
    assert here not in together, "there may be more to do for a second caller"
    seconds = SHORT
    await ask(model)  # to notice
    threads.clear()
    await ask(model)
    assert here not in threads
    await model.close()
