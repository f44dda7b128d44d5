"""The predictor's model in process: what happens while a graph is computed."""

import asyncio
import threading
import time
from typing import Any

import numpy as np
import pytest

from predictor import artifact
from predictor.model import SHORT, Predictor
from predictor.runtime import Graph
from serving.errors import Overloaded
from serving.scores import Images
from tests import programs

pytestmark = pytest.mark.anyio

BLANK = {"instances": [[[0] * 28] * 28]}


def answers(images: Images) -> Any:
    """Ten equal probabilities, and not sure."""
    return np.full((len(images), 10), 0.1, np.float32), np.zeros(len(images), np.bool_)


class SlowGraph:
    """A graph that computes until it is released."""

    def __init__(self) -> None:
        self.started = threading.Event()
        self.released = threading.Event()
        self.batches: list[int] = []

    def __call__(self, images: Images) -> Any:
        self.batches.append(len(images))
        self.started.set()
        assert self.released.wait(30)
        return answers(images)


@pytest.fixture
def graph() -> SlowGraph:
    return SlowGraph()


def serve(graph: Graph, max_instances: int = 5) -> Predictor:
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


async def test_the_event_loop_is_free_during_a_pass(model: Predictor, graph: SlowGraph) -> None:
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


async def test_a_short_pass_of_one_image_needs_no_thread_and_a_long_one_does() -> None:
    seconds = 0.0
    threads = []

    def graph(images: Images) -> Any:
        threads.append(threading.current_thread())
        time.sleep(seconds)
        return answers(images)

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
