"""Both programs over TLS, where no gateway ends it."""

import asyncio
import ipaddress
import signal
import socket
import ssl
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import grpc
import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from serving import frames
from tests import programs
from tests.digits import draw, encode
from tests.forms import V1

pytestmark = pytest.mark.anyio


class Secured(NamedTuple):
    """A program, and what its clients trust."""

    program: programs.Program
    context: ssl.SSLContext
    certificate: Path


def certify(folder: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1, signed by itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    alternative = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(datetime.now(UTC) - timedelta(days=1))
        .not_valid_after(datetime.now(UTC) + timedelta(days=1))
        .add_extension(alternative, critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (folder / "cert.pem").write_bytes(made.public_bytes(pem))
    form = serialization.PrivateFormat.PKCS8
    (folder / "key.pem").write_bytes(key.private_bytes(pem, form, serialization.NoEncryption()))
    return folder / "cert.pem", folder / "key.pem"


@pytest.fixture
def secured(
    tmp_path: Path, predictor: programs.Program, request: pytest.FixtureRequest
) -> Iterator[Secured]:
    certificate, key = certify(tmp_path)
    flags = [f"--predictor_host=127.0.0.1:{predictor.http_port}", f"--ssl_certfile={certificate}"]
    if getattr(request, "param", None) == "one file":
        certificate.write_bytes(certificate.read_bytes() + key.read_bytes())
    else:
        flags.append(f"--ssl_keyfile={key}")
    with programs.program("transformer", tmp_path, *flags) as running:
        running.context = context = ssl.create_default_context(cafile=str(certificate))
        running.wait_for("/")
        yield Secured(running, context, certificate)


@pytest.mark.parametrize("secured", ["two files", "one file"], indirect=True)
async def test_it_answers_over_rest_and_grpc(secured: Secured) -> None:
    async with httpx.AsyncClient(base_url=secured.program.url, verify=secured.context) as client:
        assert (await client.get("/v2/health/live")).json() == {"live": True}
        for digit in (1, 4, 7):
            answer = await client.post(V1, content=encode(draw(digit)))
            assert answer.json()["predictions"][0]["digit"] == digit
    trusted = grpc.ssl_channel_credentials(secured.certificate.read_bytes())
    async with grpc.aio.secure_channel(secured.program.grpc_address, trusted) as channel:
        assert await channel.unary_unary("/inference.GRPCInferenceService/ServerLive")(b"")


async def test_who_speaks_no_tls_learns_nothing(secured: Secured) -> None:
    with pytest.raises(httpx.TransportError):
        httpx.get(secured.program.url.replace("https", "http"))
    with (
        grpc.insecure_channel(secured.program.grpc_address) as channel,
        pytest.raises(grpc.RpcError),
    ):
        channel.unary_unary("/inference.GRPCInferenceService/ServerLive")(b"", timeout=5)


async def test_idle_clients_do_not_hold_up_the_end(secured: Secured) -> None:
    """They never say goodbye, as TLS has it."""
    program, rest = secured.program, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    with ExitStack() as clients:
        for port, hello in ((program.http_port, rest), (program.grpc_port, frames.PREFACE)):
            plain = clients.enter_context(socket.create_connection(("127.0.0.1", port)))
            idle = secured.context.wrap_socket(plain, server_hostname="127.0.0.1")
            clients.enter_context(idle).sendall(hello)
            assert idle.recv(4096)
        program.process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(program.process.wait, 20) == 0
