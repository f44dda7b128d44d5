"""The scripts of the pipelines: the tools they install, the cluster they let a job into."""

import base64
import os
import shutil
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from tests import programs

TOOLS = programs.ROOT / ".ci/tools"
CLUSTER = programs.ROOT / ".ci/github-cluster"


def fake(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    path.chmod(0o755)


def tools(tmp_path: Path, *names: str) -> subprocess.CompletedProcess[str]:
    """Run .ci/tools where curl brings something else, and nothing can be installed."""
    fake(tmp_path, "curl", 'while [ "$1" != --output ]; do shift; done; echo other > "$2"')
    fake(tmp_path, "install", f"touch {tmp_path}/installed")
    fake(tmp_path, "uname", "echo Linux x86_64")
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    return subprocess.run([TOOLS, *names], env=env, capture_output=True, text=True)


@pytest.mark.parametrize("name", ["cosign", "kind", "kubectl", "trivy"])
def test_a_tool_with_another_checksum_is_not_installed(tmp_path: Path, name: str) -> None:
    done = tools(tmp_path, name)
    assert done.returncode == 1
    assert "checksum did NOT match" in done.stderr
    assert not (tmp_path / "installed").exists()


def test_a_tool_that_is_not_pinned_is_refused(tmp_path: Path) -> None:
    done = tools(tmp_path, "helm")
    assert (done.returncode, "there are cosign" in done.stderr) == (2, True)


@contextmanager
def serve(requests: list[tuple[str, str]], certificate: Path | None = None) -> Iterator[str]:
    """A server that stands for GitHub's provider of tokens and for the cluster."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            requests.append((self.path, self.headers["Authorization"]))
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(b'{"value": "vouched"}')

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        scheme = "http"
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            server.socket = context.wrap_socket(server.socket, server_side=True)
            scheme = "https"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"{scheme}://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.mark.skipif(
    not all(map(shutil.which, ("jq", "kubectl", "openssl"))),
    reason="jq, kubectl and openssl are not all on the PATH",
)
def test_a_job_of_github_shows_the_cluster_the_token_that_github_gives_it(tmp_path: Path) -> None:
    certificate = tmp_path / "certificate.pem"
    made: list[str | Path] = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-subj",
        "/CN=cluster",
    ]
    made += ["-addext", "subjectAltName=IP:127.0.0.1", "-out", certificate, "-keyout", certificate]
    subprocess.run(made, check=True, capture_output=True)
    requests: list[tuple[str, str]] = []
    with serve(requests) as provider, serve(requests, certificate) as cluster:
        env = {
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path),
            "KUBECONFIG": str(tmp_path / "config"),
            "KUBE_SERVER": cluster,
            "KUBE_CA": base64.b64encode(certificate.read_bytes()).decode(),
            "ACTIONS_ID_TOKEN_REQUEST_URL": f"{provider}/token?job=1",
            "ACTIONS_ID_TOKEN_REQUEST_TOKEN": "the job's",
        }
        for command in ([CLUSTER], ["kubectl", "get", "--raw", "/healthz"]):
            subprocess.run(command, env=env, check=True, capture_output=True)
    (asked, identity) = next(each for each in requests if each[0].startswith("/token"))
    assert parse_qs(urlsplit(asked).query) == {"job": ["1"], "audience": [cluster]}
    assert identity == "Bearer the job's"
    assert requests[-1] == ("/healthz", "Bearer vouched")


def test_a_job_of_github_without_a_cluster_says_what_to_set() -> None:
    env = {"PATH": os.environ["PATH"], "KUBE_SERVER": "", "KUBE_CA": ""}
    done = subprocess.run([CLUSTER], env=env, capture_output=True, text=True)
    assert done.returncode == 1
    assert "KUBE_SERVER and KUBE_CA" in done.stderr
