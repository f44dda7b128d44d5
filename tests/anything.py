"""Hypothesis strategies for what a client may send: good requests, and what is nearly one."""

import copy
import json
from typing import Any
from urllib.parse import quote

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from serving.v2 import HEADER_LENGTH
from tests.digits import draw, encode
from tests.forms import b64

SEVEN = draw(7, 40)
GOOD_FILES = [
    encode(SEVEN),
    encode(SEVEN, "JPEG"),
    encode(SEVEN.convert("RGBA"), "WEBP"),
    encode(SEVEN.convert("P"), "GIF"),
    encode(SEVEN, "TIFF"),
    encode(SEVEN, "BMP"),
]

values: SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 300)
    | st.sampled_from([2**31, 2**63 - 1, -(2**63), 10**30, 1e308, -0.5])
    | st.text(max_size=6)
    | st.just("long" * 1000),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=8,
)
"""Any JSON value."""


@st.composite
def damaged(draw: DrawFn, content: bytes) -> bytes:
    """``content`` with a few bytes changed, removed or put in."""
    found = bytearray(content)
    for _ in range(draw(st.integers(0, 4))):
        place = draw(st.integers(0, max(len(found) - 1, 0)))
        kind = draw(st.sampled_from(["change", "remove", "insert", "cut"]))
        if kind == "change" and found:
            found[place] = draw(st.integers(0, 255))
        elif kind == "remove":
            del found[place : place + draw(st.integers(1, 9))]
        elif kind == "insert":
            found[place:place] = draw(st.binary(max_size=9))
        elif kind == "cut":
            del found[place:]
    return bytes(found)


files = (
    st.sampled_from(GOOD_FILES)
    | st.sampled_from(GOOD_FILES).flatmap(damaged)
    | st.binary(max_size=40)
)
"""Image files, some of them good."""


@st.composite
def altered(draw: DrawFn, document: Any) -> Any:
    """``document`` with up to three places replaced by any value, removed, or doubled."""
    document = copy.deepcopy(document)
    for _ in range(draw(st.integers(0, 3))):
        place: Any = {"root": document}
        key: Any = "root"
        while isinstance(place[key], dict | list) and place[key] and draw(st.integers(0, 3)):
            place = place[key]
            key = draw(
                st.sampled_from(list(place) if isinstance(place, dict) else range(len(place)))
            )
        if key == "root":
            continue
        kind = draw(st.sampled_from(["replace", "remove", "double"]))
        if kind == "replace":
            place[key] = draw(values)
        elif kind == "remove":
            del place[key]
        elif isinstance(place, list):
            place.append(place[key])
        else:
            place[draw(st.text(max_size=4))] = place[key]
    return document


texts = files.map(b64) | st.text(max_size=12)
v1_documents = (
    st.lists(texts, max_size=10)
    .map(lambda found: {"instances": [{"image": {"b64": text}} for text in found]})
    .flatmap(altered)
)

OUTPUTS = ["digit", "confidence", "probabilities", "status", "accepted", "colour"]
wanted = st.lists(
    st.fixed_dictionaries(
        {"name": st.sampled_from(OUTPUTS)},
        optional={"parameters": st.fixed_dictionaries({"binary_data": st.booleans() | values})},
    ),
    max_size=4,
)


@st.composite
def v2_bodies(draw: DrawFn, tensors: SearchStrategy[tuple[dict[str, Any], bytes]]) -> Any:
    """A V2 body whose lengths may lie, and the headers that go with it.

    Each of ``tensors`` is an input and the binary data that belong to it.
    """
    entries, binary = [], b""
    is_honest = draw(st.booleans())
    for entry, data in draw(st.lists(tensors, min_size=1, max_size=1 if is_honest else 2)):
        entries.append(entry)
        binary += data
    document: Any = {"inputs": entries}
    if draw(st.booleans()):
        document["outputs"] = draw(wanted)
    if draw(st.booleans()):
        document["parameters"] = {"binary_data_output": draw(st.booleans() | values)}
    if draw(st.booleans()):
        document["id"] = draw(st.text(max_size=5))
    if is_honest:
        header = json.dumps(document).encode()
        return header + binary, {HEADER_LENGTH: str(len(header))} if binary else {}
    header = json.dumps(draw(altered(document))).encode()
    length = draw(st.just(len(header)) | st.integers(-2, 2 * len(header)))
    tail = draw(st.just(binary) | st.binary(max_size=30))
    return header + tail, {HEADER_LENGTH: str(length)} if tail or length < 9 else {}


def framed(files: list[bytes]) -> bytes:
    """Each with its length in front, as in the binary data of a BYTES tensor."""
    return b"".join(len(file).to_bytes(4, "little") + file for file in files)


def v2_tensor(files: list[bytes]) -> tuple[dict[str, Any], bytes]:
    """A good input of the transformer, and its binary data."""
    data = framed(files)
    entry = {"name": "images", "datatype": "BYTES", "shape": [len(files)]}
    return {**entry, "parameters": {"binary_data_size": len(data)}}, data


@st.composite
def files_tensors(draw: DrawFn) -> tuple[dict[str, Any], bytes]:
    """The input of the transformer, in JSON or as binary data with lengths that may lie."""
    if draw(st.booleans()):
        return v2_tensor(draw(st.lists(st.sampled_from(GOOD_FILES), min_size=1, max_size=3)))
    found = draw(st.lists(files, max_size=3))
    count = draw(st.just(len(found)) | st.integers(-1, 9))
    entry: dict[str, Any] = {"name": "images", "datatype": "BYTES", "shape": [count]}
    if draw(st.booleans()):
        return {**entry, "data": [b64(file) for file in found]}, b""
    lengths = [draw(st.just(len(file)) | st.integers(0, 2**32 - 1)) for file in found]
    data = b"".join(
        length.to_bytes(4, "little") + file for length, file in zip(lengths, found, strict=True)
    )
    size = draw(st.just(len(data)) | st.integers(-1, 2**40))
    return {**entry, "parameters": {"binary_data_size": size}}, data


@st.composite
def pixel_tensors(draw: DrawFn) -> tuple[dict[str, Any], bytes]:
    """The input of the predictor, in JSON or as binary data with lengths that may lie."""
    count = draw(st.integers(1, 3))
    entry: dict[str, Any] = {"name": "images", "datatype": "UINT8", "shape": [count, 28, 28]}
    if draw(st.booleans()):
        size = count * 784
        return {**entry, "parameters": {"binary_data_size": size}}, bytes(size)
    shape = draw(
        st.sampled_from([[count, 28, 28], [count, 1, 28, 28], [count, 784], [28, 28], [-1, 28, 28]])
        | st.lists(st.integers(-1, 2**40), max_size=5)
    )
    entry["shape"] = shape
    numbers = count * 784 + draw(st.sampled_from([0, 0, 0, -1, 1]))
    if draw(st.booleans()):
        return {**entry, "data": [draw(st.integers(0, 255))] * numbers}, b""
    size = draw(st.just(max(numbers, 0)) | st.integers(-1, 2**40))
    return {**entry, "parameters": {"binary_data_size": size}}, bytes(max(numbers, 0))


BOUNDARY = b"xyz"
names = st.sampled_from(["images", "", "a\x00b"]) | st.text(max_size=5)


@st.composite
def forms(draw: DrawFn) -> bytes:
    """A multipart form, often broken."""
    body = b""
    for file in draw(st.lists(files, max_size=4)):
        disposition = f'form-data; name="{draw(names)}"'
        if draw(st.integers(0, 4)):
            disposition += f'; filename="{draw(names)}"'
        head = f"Content-Disposition: {disposition}\r\n".encode()
        if draw(st.booleans()):
            head += b"Content-Type: " + draw(st.binary(max_size=12)) + b"\r\n"
        body += b"--" + BOUNDARY + b"\r\n" + head + b"\r\n" + file + b"\r\n"
    body += b"--" + BOUNDARY + b"--\r\n"
    return draw(st.just(body) | damaged(body))


charsets = st.sampled_from(["", "utf-8", "utf-16", "idna", "zlib", "rot13", "undefined", "none"])
"""Of a form; Python knows all but the last, and not all of them are text encodings."""

header_values = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20)


@st.composite
def events(draw: DrawFn) -> Any:
    """A CloudEvent in either mode, often broken: body and headers."""
    content = draw(v1_documents.map(lambda document: json.dumps(document).encode()) | files)
    attributes: Any = {"specversion": "1.0", "id": "1", "source": "camera", "type": "digit"}
    attributes |= draw(
        st.dictionaries(
            st.sampled_from(
                ["specversion", "id", "source", "type", "subject", "time", "datacontenttype",
                 "dataschema", "correlationid", "partitionkey"]
            ),
            header_values,
            max_size=2,
        )
    )  # fmt: skip
    if draw(st.booleans()):
        headers = {f"ce-{name}": value for name, value in attributes.items()}
        kinds = ["application/json", "image/png", ""]
        return content, {**headers, "content-type": draw(st.sampled_from(kinds))}
    data = draw(
        st.fixed_dictionaries({"data": v1_documents})
        | st.fixed_dictionaries({"data_base64": st.just(b64(content)) | header_values})
    )
    document = draw(st.just({**attributes, **data}) | altered({**attributes, **data}))
    return json.dumps(document).encode(), {"content-type": "application/cloudevents+json"}


pixels = st.integers(1, 2).map(lambda count: {"instances": [[[7] * 28] * 28] * count})
"""V1 of the predictor."""

parts = st.sampled_from(
    ["v1", "v2", "models", "mnist", "mnist:predict", "mnist:explain", "other", "infer", "ready",
     "versions", "1", "repository", "load", "unload", "health", "live", "metrics", "predict",
     "playground", "docs", "openapi.json", "..", "%2e%2e", "%00", "%ff", "a b", ""]
)  # fmt: skip
paths = st.lists(parts | st.text(max_size=3).map(quote), max_size=7).map(
    lambda found: "/" + "/".join(found)
)
"""Paths, most of them nearly one that exists."""
header_names = st.sampled_from(
    ["accept", "authorization", "content-type", "host", "x-request-id", "x-forwarded-for",
     "x-forwarded-host", "traceparent", "expect", "content-encoding", "ce-specversion", "ce-id",
     "inference-header-content-length", "accept-encoding", "cookie"]
)  # fmt: skip
