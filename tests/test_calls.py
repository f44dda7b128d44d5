"""The transformer's HTTP client, against a server that says exactly what a test wants."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from transformer.http import LONGEST, Client

pytestmark = pytest.mark.anyio

CHUNK = b"1000\r\n" + bytes(4096) + b"\r\n"
OK = b"HTTP/1.1 200 OK\r\nX-A: b\r\nContent-Length: 4\r\n\r\nbody"


class Server:
    """Gives the answers it is told, one to a request, each in pieces; ``None`` hangs up."""

    def __init__(self, *answers: list[bytes] | None, close: bool = False) -> None:
        self.answers = list(answers)
        self.close = close
        self.requests: list[bytes] = []
        self.connections = 0
        self.tasks: list[asyncio.Task[None] | None] = []
        self.hung_up = asyncio.Event()

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.tasks.append(asyncio.current_task())
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
                self.requests.append(head + await reader.readexactly(length))
                answer = self.answers.pop(0)
                if answer is None:
                    break
                for piece in answer:
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(0.001)
                if self.close:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            self.hung_up.set()
        finally:
            writer.close()


@asynccontextmanager
async def running(
    *answers: list[bytes] | None, close: bool = False, patience: float = 5
) -> AsyncIterator[tuple[Server, Client]]:
    server = Server(*answers, close=close)
    listening = await asyncio.start_server(server.handle, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    client = Client(f"http://127.0.0.1:{port}/there", timeout=patience)
    yield server, client
    client.close()
    listening.close()
    await asyncio.gather(*(task for task in server.tasks if task))


async def test_a_request_has_what_http_asks_for() -> None:
    async with running([OK]) as (server, client):
        assert await client.post(b"\x00body", {"x-y": "z"}) == (
            200,
            {"x-a": "b", "content-length": "4"},
            b"body",
        )
    (request,) = server.requests
    head, _, body = request.partition(b"\r\n\r\n")
    line, *fields = head.split(b"\r\n")
    assert line == b"POST /there HTTP/1.1"
    assert {field.partition(b":")[0] for field in fields} == {b"host", b"x-y", b"content-length"}
    assert body == b"\x00body"


@pytest.mark.parametrize("value", ["a\r\nx: y", "a\nb", "a\rb"])
async def test_a_header_holds_no_other(value: str) -> None:
    async with running() as (server, client):
        with pytest.raises(ValueError, match="line break"):
            await client.post(b"", {"tracestate": value})
    assert server.connections == 0


@pytest.mark.parametrize(
    "answer",
    [
        [OK[i : i + 1] for i in range(len(OK))],
        [
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nbo\r\n",
            b"2\r\ndy\r\n0\r\n\r\n",
        ],
        [b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n", OK],
        [b"HTTP/1.1 100 Continue\r\n\r\n" + OK],
    ],
    ids=["bytes", "chunks", "hints", "continue"],
)
async def test_an_answer_may_come_in_any_pieces(answer: list[bytes]) -> None:
    async with running(answer, [OK]) as (server, client):
        for _ in range(2):
            assert (await client.post(b"", {}))[::2] == (200, b"body")
    assert server.connections == 1


async def test_a_connection_is_kept_and_a_further_one_is_made_only_if_it_is_busy() -> None:
    async with running(*[[OK]] * 5) as (server, client):
        for _ in range(3):
            await client.post(b"", {})
        assert server.connections == 1
        await asyncio.gather(client.post(b"", {}), client.post(b"", {}))
        assert server.connections == 2


@pytest.mark.parametrize(
    ("answer", "close"),
    [([OK.replace(b"X-A: b", b"Connection: close")], False), ([OK], True)],
    ids=["announced", "not announced"],
)
async def test_a_connection_that_is_closed_is_not_taken_again(
    answer: list[bytes], close: bool
) -> None:
    async with running(answer, answer, close=close) as (server, client):
        for _ in range(2):
            assert (await client.post(b"", {})).status == 200
            await asyncio.sleep(0.02)
    assert server.connections == 2


@pytest.mark.parametrize(
    "answer",
    [
        None,
        [b"SSH-2.0-OpenSSH\r\n"],
        [OK[:-1], b""],
        [b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nbody"],
        [b"HTTP/1.1 200 OK\r\n\r\nas long as the connection"],
        [b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"],
    ],
    ids=["nothing", "no HTTP", "half", "two lengths", "no length", "upgrade"],
)
async def test_what_is_no_whole_answer_is_a_connection_error(answer: list[bytes] | None) -> None:
    async with running(answer, [OK], close=True) as (server, client):
        with pytest.raises(ConnectionError):
            await client.post(b"", {})
        assert (await client.post(b"", {})).status == 200
    assert server.connections == 2


@pytest.mark.parametrize(
    "answer",
    [
        [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", CHUNK * (LONGEST // 4096)],
        [b"HTTP/1.1 200 OK\r\nX-A: ", b"b" * LONGEST],
    ],
    ids=["body", "head"],
)
async def test_an_answer_without_end_is_given_up(answer: list[bytes]) -> None:
    async with running(answer) as (_, client):
        with pytest.raises(ConnectionError, match="more than 1048576 bytes"):
            await client.post(b"", {})


@pytest.mark.parametrize("over", [0, 1])
async def test_each_answer_on_a_connection_may_be_that_long(over: int) -> None:
    body = bytes(1_000_000)
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\nX-A: "
    answer = [head + b"x" * (LONGEST + over - len(head + body) - 4) + b"\r\n\r\n", body]
    async with running(answer, answer) as (server, client):
        for _ in range(2):
            if over:
                with pytest.raises(ConnectionError, match="more than 1048576 bytes"):
                    await client.post(b"", {})
            else:
                assert (await client.post(b"", {}))[::2] == (200, body)
    assert server.connections == 1 + over


async def test_what_comes_unasked_answers_nobody() -> None:
    async with running([OK, OK.replace(b"body", b"evil")], [OK]) as (server, client):
        assert (await client.post(b"", {})).body == b"body"
        await asyncio.sleep(0.02)
        assert (await client.post(b"", {})).body == b"body"
    assert server.connections == 2


@pytest.mark.parametrize("give_up", ["timeout", "cancel"])
async def test_an_answer_that_is_given_up_answers_nobody_else(give_up: str) -> None:
    late = [OK[:20], OK[20:].replace(b"body", b"late")]
    patience = 0.05 if give_up == "timeout" else 5
    async with running(late[:1], [OK], patience=patience) as (server, client):
        request = asyncio.create_task(client.post(b"", {}))
        if give_up == "cancel":
            while not server.requests:
                await asyncio.sleep(0.001)
            request.cancel()
        with pytest.raises((TimeoutError, asyncio.CancelledError)):
            await request
        await asyncio.wait_for(server.hung_up.wait(), 5)
        assert (await client.post(b"", {})).body == b"body"
    assert server.connections == 2


@pytest.mark.parametrize("answer", [[], None], ids=["silence", "end"])
async def test_once_an_answer_does_not_come_no_connection_is_trusted(
    answer: list[bytes] | None,
) -> None:
    async with running([OK], [OK], answer, [OK], patience=0.2) as (server, client):
        await asyncio.gather(client.post(b"", {}), client.post(b"", {}))
        with pytest.raises((ConnectionError, TimeoutError)):
            await client.post(b"", {})
        await client.post(b"", {})
    assert server.connections == 3


async def test_nobody_there_is_an_os_error() -> None:
    with pytest.raises(OSError, match="refused|failed"):
        await Client("http://127.0.0.1:9", timeout=5).post(b"", {})


@given(st.binary(max_size=60), st.integers(0, len(OK)))
def test_no_answer_at_all_breaks_it(junk: bytes, cut: int) -> None:
    async def ask() -> None:
        async with running([OK[:cut] + junk], [OK], close=True) as (_, client):
            with suppress(ConnectionError):
                assert (await client.post(b"", {})).status >= 200
            await asyncio.sleep(0.005)
            try:
                response = await client.post(b"", {})
            except ConnectionError:  # the first one, of whose end it had not heard yet
                response = await client.post(b"", {})
            assert response.body == b"body"

    asyncio.run(ask())


def certificate(folder: Path) -> Path:
    """A key and its certificate for localhost, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    encoding = serialization.Encoding.PEM
    path = folder / "tls.pem"
    path.write_bytes(
        key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + signed.public_bytes(encoding)
    )
    return path


async def test_over_tls_the_host_must_have_a_certificate_of_the_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = certificate(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(path)
    server = Server([OK])
    listening = await asyncio.start_server(server.handle, "localhost", 0, ssl=context)
    url = f"https://localhost:{listening.sockets[0].getsockname()[1]}"
    with pytest.raises(ssl.SSLCertVerificationError):
        await Client(url, timeout=5).post(b"", {})
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(path))
    client = Client(url, timeout=5)
    assert (await client.post(b"", {})).status == 200
    client.close()
    listening.close()
