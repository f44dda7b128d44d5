"""Whatever a client sends gets an answer of its own, and the next one gets the right answer.

``make fuzz`` tries thirty times as many inputs. The properties of single modules are in their own
files: images in test_image.py and test_refusal.py, V2 framing in test_v2.py, the artifact in
test_artifact.py.
"""

import asyncio
import json
from collections.abc import Iterator
from itertools import cycle
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from hypothesis import event, given
from hypothesis import strategies as st

from predictor import artifact
from serving.errors import LONGEST
from tests import anything, apps
from tests.digits import draw, encode
from tests.forms import V1, V2

JSON = {"content-type": "application/json"}
REFUSALS = {400, 404, 405, 413, 415}
LEAKS = ("Traceback", 'File "', "site-packages", "127.0.0.1", "localhost", " at 0x")
LONGEST_ERROR = LONGEST + 1
"""Characters: who is told what was wrong need not get back all that was sent."""


def dumps(document: Any) -> bytes:
    return json.dumps(document).encode()


class Service:
    """A program in this process that is asked good questions between the others."""

    def __init__(self, app: Any, questions: list[bytes], headers: dict[str, str]) -> None:
        """``questions`` are V1 bodies, and all have these ``headers``."""
        self._runner = asyncio.Runner()
        self._client = apps.client(app)
        self._headers = headers
        self.answers = [self._runner.run(self._question(body)) for body in questions]
        self._questions = cycle(zip(questions, self.answers, strict=True))

    def ask(self, method: str, path: str, content: bytes, headers: Any = None) -> httpx.Response:
        """Send a request: its answer keeps the rules, and the next one gets its own."""
        request = self._client.request(
            method, f"http://service{path}", content=content, headers=headers
        )
        answer = self._runner.run(request)
        event(f"answered with {answer.status_code}")
        if method == "HEAD":
            assert answer.status_code < 500
        elif answer.status_code in REFUSALS:
            error = answer.json()["error"]
            assert 0 < len(error) <= LONGEST_ERROR
            assert not [leak for leak in LEAKS if leak in error], error
        else:
            assert answer.status_code < 400, answer.text
        question, right = next(self._questions)
        assert self._runner.run(self._question(question)) == right
        return answer

    def close(self) -> None:
        self._runner.run(self._client.aclose())
        self._runner.close()

    async def _question(self, body: bytes) -> Any:
        answer = await self._client.post(V1, content=body, headers=self._headers)
        assert answer.status_code == 200, answer.text
        return answer.json()


@pytest.fixture(scope="module")
def version() -> Iterator[artifact.Model]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # several would wait for one another at each of the small passes
    yield apps.load()
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def transformer(version: artifact.Model) -> Iterator[Service]:
    digits = [7, 1, 4]
    app = apps.app(apps.transformer(version))
    service = Service(app, [encode(draw(digit, 40)) for digit in digits], {})
    assert [each["predictions"][0]["digit"] for each in service.answers] == digits
    yield service
    service.close()


@pytest.fixture(scope="module")
def predictor(version: artifact.Model) -> Iterator[Service]:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 28, 28), np.uint8)
    bodies = [json.dumps({"instances": [image.tolist()]}).encode() for image in pixels]
    service = Service(apps.app(apps.predictor(version)), bodies, JSON)
    assert service.answers[0] != service.answers[1] != service.answers[2]
    yield service
    service.close()


def length(answer: httpx.Response) -> int:
    """Images that a V2 answer is about, by each of its outputs."""
    header = int(answer.headers.get("inference-header-content-length", len(answer.content)))
    (found,) = {output["shape"][0] for output in json.loads(answer.content[:header])["outputs"]}
    return int(found)


kinds = st.sampled_from(
    ["", "image/png", "application/json", "application/json; charset=x", "text/plain", "*/*"]
)


@given(content=anything.files | anything.v1_documents.map(dumps), kind=kinds)
def test_v1_of_the_transformer(transformer: Service, content: bytes, kind: str) -> None:
    answer = transformer.ask("POST", V1, content, {"content-type": kind})
    if answer.status_code == 200:
        assert answer.json()["predictions"]


@given(anything.events())
def test_cloudevents(transformer: Service, event: Any) -> None:
    answer = transformer.ask("POST", V1, *event)
    if answer.status_code == 200:
        assert b"io.kserve.inference.response" in answer.content + dumps(dict(answer.headers))


@given(anything.v2_bodies(anything.files_tensors()))
def test_v2_of_the_transformer(transformer: Service, body: Any) -> None:
    answer = transformer.ask("POST", V2, *body)
    if answer.status_code == 200:
        assert length(answer) > 0


@given(
    body=anything.forms(),
    charset=anything.charsets,
    query=st.sampled_from(["", "?picture=true", "?picture=%00&picture"]),
)
def test_forms(transformer: Service, body: bytes, charset: str, query: str) -> None:
    boundary = anything.BOUNDARY.decode()
    kind = {"content-type": f"multipart/form-data; boundary={boundary}; charset={charset}"}
    answer = transformer.ask("POST", f"/predict{query}", body, kind)
    if answer.status_code == 200:
        assert answer.json()["predictions"]


@given(anything.pixels.flatmap(anything.altered).map(dumps), kinds)
def test_v1_of_the_predictor(predictor: Service, content: bytes, kind: str) -> None:
    answer = predictor.ask("POST", V1, content, {"content-type": kind})
    if answer.status_code == 200:
        assert answer.json()["predictions"]


@given(anything.v2_bodies(anything.pixel_tensors()))
def test_v2_of_the_predictor(predictor: Service, body: Any) -> None:
    answer = predictor.ask("POST", V2, *body)
    if answer.status_code == 200:
        assert length(answer) > 0


@given(
    method=st.sampled_from(["GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD", "PATCH", "X"]),
    path=anything.paths,
    content=st.binary(max_size=20),
    headers=st.dictionaries(anything.header_names, anything.header_values, max_size=3),
)
def test_any_path(
    transformer: Service, predictor: Service, method: str, path: str, content: bytes, headers: Any
) -> None:
    for program in (transformer, predictor):
        program.ask(method, path, content, headers)
