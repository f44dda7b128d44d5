"""``docs/openapi.yaml`` says what the service answers over REST, and that is what it answers.

Schemathesis makes requests of the document, right ones and wrong ones, and holds the answers
against it. ``make fuzz`` lets it make thirty times as many.
"""

import base64
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import schemathesis
import yaml
from fastapi.routing import iter_route_contexts
from hypothesis import assume
from openapi_spec_validator import OpenAPIV31SpecValidator

from serving.events import STRUCTURED
from serving.v2 import HEADER_LENGTH
from tests import anything, apps, programs
from tests.forms import v2_binary

PATH = programs.ROOT / "docs/openapi.yaml"
TEXT = PATH.read_text(encoding="utf-8")
DOCUMENT = yaml.safe_load(TEXT)
SEVEN = (programs.ROOT / "docs/seven.png").read_bytes()
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")
"""HEAD is GET without the body."""

CONFIG = {
    "checks": {
        # JSON Schema cannot say which bytes are an image, that 'shape' counts 'data', or that
        # 'ce-specversion' wants 'ce-id': what fits the document may still be wrong.
        "positive_data_acceptance": {"enabled": False},
        # 413 is what too many images get; Schemathesis's own list does not have it.
        "negative_data_rejection": {"expected-statuses": [400, 404, 405, 413, 415]},
    },
    "suppress-health-check": ["too_slow"],
}


def with_files() -> Any:
    """The document for Schemathesis, to which a file is an image, good or broken.

    Of its own it would send texts and bytes that are never one.
    """
    files = anything.files
    schemathesis.openapi.format("binary", files)
    schemathesis.openapi.format("b64", files.map(lambda file: base64.b64encode(file).decode()))
    document = yaml.safe_load(TEXT)
    document["components"]["schemas"]["File"]["format"] = "b64"
    config = schemathesis.Config.from_dict(CONFIG)
    return schemathesis.openapi.from_dict(document, config=config)


SCHEMA = with_files()


def operations() -> Iterator[tuple[str, str, Any]]:
    """Method, path and description of each operation."""
    for path, item in DOCUMENT["paths"].items():
        for method in METHODS:
            if method.lower() in item:
                yield method, path, item[method.lower()]


def fill(path: str) -> str:
    """The path of a request for this model."""
    return re.sub(r"{\w*version}", "1", re.sub(r"{\w*name}", "mnist", path))


def is_answered(client: httpx.Client, method: str, path: str) -> bool:
    """Whether there is something: a version is refused for a reason of its own."""
    answer = client.request(method, path)
    return answer.status_code not in {404, 405} or "traffic split" in answer.text


def examples() -> Iterator[Any]:
    """Method, path, media type, headers and body of the requests that the document shows."""
    for method, path, operation in operations():
        bodies = operation.get("requestBody", {"content": {None: {"examples": {"": {}}}}})
        for kind, content in bodies["content"].items():
            for name, example in content.get("examples", {}).items():
                file = example.get("externalValue")
                body = (PATH.parent / file).read_bytes() if file else example.get("value")
                if "200" in operation["responses"]:
                    yield pytest.param(method, path, kind, {}, body, id=f"{path} {name}")
    # What YAML cannot hold.
    form = {"images": [SEVEN, SEVEN]}
    yield pytest.param("POST", "/predict", "multipart/form-data", {}, form, id="form")
    binary = v2_binary(SEVEN)
    yield pytest.param(
        "POST",
        "/v2/models/{name}/infer",
        "application/octet-stream",
        binary["headers"],
        binary["content"],
        id="binary tensor",
    )


def test_it_is_a_document_of_openapi() -> None:
    OpenAPIV31SpecValidator(DOCUMENT).validate()


@pytest.mark.parametrize(
    ("program", "lacks"), [("transformer", set()), ("predictor", {"/predict", "/playground"})]
)
def test_it_lists_all_that_is_answered_and_nothing_else(
    request: pytest.FixtureRequest, program: str, lacks: set[str]
) -> None:
    running: programs.Program = request.getfixturevalue(program)
    version: Any = None  # nothing is scored
    app = apps.app(apps.transformer(version))
    routes = {fill(str(route.path)) for route in iter_route_contexts(app.kserve.routes)}
    listed = {(method, fill(path)) for method, path, _ in operations()}
    with httpx.Client(base_url=running.url) as client:
        answered = {
            (method, path)
            for path in routes | {path for _, path in listed}
            for method in METHODS
            if is_answered(client, method, path)
        }
    assert answered == {(method, path) for method, path in listed if path not in lacks}
    # What is answered in front of the routes is not among them.
    for pattern, *_ in app._inferences:
        assert any(method == "POST" and pattern.fullmatch(path) for method, path in listed)


@pytest.mark.parametrize(("method", "path", "kind", "headers", "body"), list(examples()))
def test_its_examples_get_the_answer_that_it_promises(
    transformer: programs.Program, method: str, path: str, kind: Any, headers: Any, body: Any
) -> None:
    values: Any = {} if body is None else {"body": body, "media_type": kind}
    case = SCHEMA[path][method].Case(
        path_parameters={"name": "mnist"} if "{name}" in path else {}, headers=headers, **values
    )
    answer = case.call_and_validate(base_url=transformer.url)
    assert answer.status_code == 200


def drop_lonely(headers: Any, kind: str) -> None:
    """Remove headers that say nothing in this request, or whose company is missing.

    The document cannot say that the length of the JSON goes with binary data, and the version of a
    CloudEvent with its id, in binary mode. With one of them alone no body would be read.
    """
    if kind == "application/json" and str(headers.get(HEADER_LENGTH)).isdigit():
        del headers[HEADER_LENGTH]
    version = headers.get("ce-specversion")
    is_whole = all(headers.get(name) for name in ("ce-id", "ce-source", "ce-type"))
    if kind == STRUCTURED or (version == "1.0" and not is_whole):
        headers.pop("ce-specversion", None)


@SCHEMA.parametrize()  # type: ignore[untyped-decorator]
def test_any_request(case: Any, transformer: programs.Program) -> None:
    assume("#" not in case.formatted_path)  # it ends a path: this would be another request
    drop_lonely(case.headers, case.media_type)
    case.call_and_validate(base_url=transformer.url)
