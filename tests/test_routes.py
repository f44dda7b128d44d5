"""The transformer's own routes: what a form may be."""

import httpx
import pytest

from serving.app import App
from serving.errors import InvalidInput, TooLarge
from transformer.routes import MOST_BOUNDARIES, PADDING, add_routes, read_form

pytestmark = pytest.mark.anyio


def part(name: str, content: bytes, boundary: str = "x") -> bytes:
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="images"; filename="{name}"'
    return head.encode() + b"\r\n\r\n" + content + b"\r\n"


@pytest.mark.parametrize(
    "boundary",
    ["x", "----WebKitFormBoundaryZyQ", "=_a'(b)+c,d/e:f?", '"quoted one"', "0" * 70],
)
async def test_the_files_of_a_form(boundary: str) -> None:
    separator = boundary.strip('"')
    body = part("a", b"1", separator) + part("b", b"", separator) + f"--{separator}--".encode()
    kind = boundary if " " in boundary or "=" not in boundary else f'"{boundary}"'
    assert await read_form(f"Multipart/Form-Data; boundary={kind}", body) == [b"1", b""]


@pytest.mark.parametrize("boundary", ["", "0" * 71, "a\x00b", "ä", '""', "a@b"])
async def test_a_boundary_that_can_be_none_is_refused(boundary: str) -> None:
    with pytest.raises(InvalidInput, match="boundary"):
        await read_form(f"multipart/form-data; boundary={boundary}", part("a", b"1"))


@pytest.mark.parametrize("end", [b"", b"--x\r\n", b"--x", part("b", b"2")[:-9]])
async def test_a_form_that_was_cut_off_is_not_taken_for_a_shorter_one(end: bytes) -> None:
    with pytest.raises(InvalidInput, match="before its closing boundary"):
        await read_form("multipart/form-data; boundary=x", part("a", b"1") + end)


async def test_a_part_of_too_many_parameters_is_refused() -> None:
    """To take them apart takes their number squared."""
    assert await read_form("multipart/form-data; boundary=x", part(";" * 18, b"1") + b"--x--")
    with pytest.raises(InvalidInput, match="a part has more than 20 parameters"):
        await read_form("multipart/form-data; boundary=x", part(";" * 19, b"1") + b"--x--")


async def test_a_form_of_too_many_parameters_is_refused() -> None:
    body = part("a", b"1") + b"--x--"
    assert await read_form("multipart/form-data; boundary=x" + ";" * 19, body) == [b"1"]
    with pytest.raises(InvalidInput, match="more than 20 parameters"):
        await read_form("multipart/form-data; boundary=x" + ";" * 20, body)


async def test_a_form_of_too_many_boundaries_is_refused() -> None:
    """In a file too: they are none, since no line ends there, but the parser stops at each."""
    kind, end = "multipart/form-data; boundary=x", b"--x--"
    file = b"\r\n--x." * (MOST_BOUNDARIES - 1)
    assert await read_form(kind, part("a", file) + end) == [file]
    with pytest.raises(TooLarge, match="more than 2,001 boundaries"):
        await read_form(kind, part("a", file + b"\r\n--x.") + end)


async def test_as_many_parts_as_are_read_have_few_enough_boundaries() -> None:
    kind, end = "multipart/form-data; boundary=x", b"--x--\r\n"
    field = part("b", b"").replace(b"filename", b"else")
    form = b"\r\n" + (part("a", b"1") + field) * 1000 + end
    assert await read_form(kind, form) == [b"1"] * 1000


@pytest.mark.parametrize("blank", [b" ", b"\t", b" \t"])
async def test_a_boundary_of_too_many_blanks_is_refused(blank: bytes) -> None:
    kind, end = "multipart/form-data; boundary=x", part("b", b"2")[3:] + b"--x--"
    blanks = (blank * PADDING)[: PADDING - 1]
    assert await read_form(kind, part("a", b"1") + b"--x" + blanks + end) == [b"1", b"2"]
    with pytest.raises(InvalidInput, match="100 blanks and more"):
        await read_form(kind, part("a", b"1") + b"--x" + blanks + blank + end)


@pytest.mark.parametrize("charset", ["undefined", "punycode", "idna", "zlib", "utf-16"])
async def test_the_client_chooses_no_codec(charset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "starlette.formparsers._user_safe_decode",
        lambda content, codec: content.decode({"utf-8": "utf-8"}[codec]),
    )
    for parameter in (f"charset={charset}", f"charset*=''{charset}", f'Charset="{charset}"'):
        kind = f"multipart/form-data; {parameter}; boundary=x; {parameter}"
        assert await read_form(kind, part("a", b"1") + b"--x--") == [b"1"]


@pytest.mark.parametrize("method", ["GET", "PUT", "OPTIONS"])
async def test_a_form_by_another_method_is_405(
    echo_app: App, echo_client: httpx.AsyncClient, method: str
) -> None:
    add_routes(echo_app)
    answer = await echo_client.request(method, "/predict")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
