"""Where the transformer decodes: at once or in a thread, and how others fare meanwhile."""

import asyncio
import base64
import gc
import sys
import threading
from typing import Any

import pytest

from serving.errors import TimedOut
from tests import apps
from tests.digits import draw, encode
from transformer import image
from transformer import model as module
from transformer.image import Picture

pytestmark = pytest.mark.anyio


def instances(file: bytes, count: int) -> dict[str, Any]:
    """A request of so many images."""
    return {"instances": [{"image": {"b64": base64.b64encode(file).decode()}}] * count}


@pytest.mark.parametrize(
    ("size", "form", "threads", "takes_thread"),
    [
        (28, "PNG", 2, False),
        (280, "PNG", 2, True),
        (280, "PNG", 1, False),
        (400, "PNG", 1, True),
        (28, "JPEG", 1, True),  # Pillow may work for long on a small one
    ],
)
async def test_what_is_soon_decoded_takes_a_thread_only_beside_others(
    monkeypatch: pytest.MonkeyPatch, size: int, form: str, threads: int, *, takes_thread: bool
) -> None:
    def by_thread(file: bytes, **limits: int) -> Picture:
        names.append(threading.current_thread().name)
        return read(file, **limits)

    read, names = image.read, list[str]()
    monkeypatch.setattr(image, "read", by_thread)
    model = apps.transformer(apps.load(), decode_threads=threads)
    await model(encode(draw(7, size), form))
    assert [name.startswith("decode") for name in names] == [True] * takes_thread
    await model.close()


@pytest.mark.parametrize(("size", "threads"), [(28, 2), (280, 1), (280, 2)])
async def test_others_are_let_in_between_the_images_of_a_request(
    monkeypatch: pytest.MonkeyPatch, size: int, threads: int
) -> None:
    monkeypatch.setattr(module, "TURN", -1)
    model = apps.transformer(apps.load(), decode_threads=threads)
    request = asyncio.create_task(model.preprocess(instances(encode(draw(7, size)), 8)))
    turns = 0
    while not request.done():
        turns += 1
        await asyncio.sleep(0)
    assert turns > 8
    assert len(request.result().pictures) == 8
    await model.close()


async def test_what_is_given_up_before_a_thread_was_free_is_not_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else those who send large files and hang up fill the memory."""
    release = threading.Event()
    monkeypatch.setattr(image, "read", lambda *_, **__: release.wait(30))
    model = apps.transformer(apps.load(), decode_threads=1)

    busy = asyncio.create_task(model.preprocess(b"first"))
    file = bytes(1000)
    references = sys.getrefcount(file)
    waiting = asyncio.create_task(model.preprocess(file))
    for _ in range(5):  # until both are with the threads
        await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    del waiting
    await asyncio.sleep(0)  # the loop lets go of what has ended
    gc.collect()
    assert sys.getrefcount(file) == references
    busy.cancel()
    release.set()
    await model.close()


async def test_what_is_not_decoded_at_the_deadline_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "TURN", -1)
    model = apps.transformer(apps.load(), timeout=0)
    with pytest.raises(TimedOut, match=r"instance 0: the images took too long to decode"):
        await model.preprocess(instances(encode(draw(7, 28)), 2))
    await model.close()
