"""In a pod, rollout finds API server, namespace and token where Kubernetes puts them."""

import json
import shutil
import ssl
import subprocess
import threading
from collections.abc import Iterator
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
from kubernetes.config import incluster_config

import rollout.api
from rollout.api import API
from rollout.errors import Unreachable
from tests import releases

pytestmark = pytest.mark.skipif(not shutil.which("openssl"), reason="no openssl on the PATH")


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, str]]]:
    """Paths and tokens that an API server is asked with, in what looks like a pod."""
    key, certificate = tmp_path / "key.pem", tmp_path / "ca.crt"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=cluster"),
            *("-addext", "subjectAltName=IP:127.0.0.1", "-out", certificate, "-keyout", key),
        ],
        check=True,
        capture_output=True,
    )
    found: list[tuple[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found.append((self.path, self.headers["Authorization"]))
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps({"spec": {}}).encode())

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        (tmp_path / "namespace").write_text("mnist", encoding="utf-8")
        (tmp_path / "token").write_text("first", encoding="utf-8")
        monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(certificate))
        monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(tmp_path / "token"))
        monkeypatch.setattr(rollout.api, "INSIDE", tmp_path / "namespace")
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(server.server_address[1]))
        monkeypatch.delenv("KUBECONFIG", raising=False)
        yield found
        server.shutdown()


SERVICE = "/apis/serving.kserve.io/v1beta1/namespaces/mnist/inferenceservices/mnist"


def test_it_shows_the_token_of_its_account(asked: list[tuple[str, str]]) -> None:
    assert API("mnist").service() == {"spec": {}}
    assert asked == [(SERVICE, "bearer first")]


def test_it_shows_the_next_token_when_there_is_one(
    asked: list[tuple[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A token lives for an hour, a release may take longer."""
    api = API("mnist")
    api.service()
    (tmp_path / "token").write_text("second", encoding="utf-8")
    now = SimpleNamespace(now=lambda: datetime.now() + timedelta(minutes=2))
    later = SimpleNamespace(datetime=now, timedelta=timedelta)
    monkeypatch.setattr(incluster_config, "datetime", later)
    api.service()
    assert [token for _, token in asked] == ["bearer first", "bearer second"]


def test_a_server_that_never_answers_is_not_waited_for(
    asked: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even in the handshake."""
    with releases.silent(monkeypatch) as port:
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(port))
        with pytest.raises(Unreachable, match="does not answer"):
            API("mnist").service()
