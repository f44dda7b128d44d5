"""Runs made up for tests, and an S3 server to publish them to."""

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

from predictor.metadata import Histogram, Metrics, Provenance, Reference
from tests.versions import linear_graph
from training.run import Run, write_results

REFERENCE = Reference(
    dataset="d",
    digest="0" * 64,
    images=5,
    digits={str(digit): 0 for digit in range(10)} | {"7": 4, "none": 1},
    histograms={"confidence": Histogram(bounds=(0.5, 1.0), counts=(1, 3, 0))},
)
CARD = "# a card\n\n![Confusions](figures/confusion.png)\n"
BUCKET = "models"
MODEL = "team/mnist"


def write(directory: Path) -> Path:
    """Make a run, evaluated, without training; returns its directory."""
    run = Run(
        temperature=1.5,
        threshold=0.11,
        multiply_adds=7840,
        parameters=7850,
        provenance=Provenance(
            seed=1, configuration={"epochs": 2}, data={"d": "1" * 64}, code="2" * 64,
            libraries={"torch": "2.13.0"},
        ),
    )  # fmt: skip
    run.write(directory, graph=linear_graph())
    metrics = Metrics(dataset="d", digest="0" * 64, images=5, values={"accuracy": 0.5})
    drawn = {"confusion.png": b"a picture"}
    write_results(directory, (metrics,), REFERENCE, card=CARD, figures=drawn)
    return directory


class S3:
    """moto's server of S3 behind a gate that refuses requests."""

    def __init__(self) -> None:
        self.refused: dict[str, tuple[str, str]] = {}
        """Method and end of the path, such as ``PUT /model.json`` → HTTP status, S3's code."""
        self.lost: list[str] = []
        """The same; served once, but the client is told to try again."""
        self._served = DomainDispatcherApplication(create_backend_app)
        # One request at a time, for moto does not check a condition and write in one step.
        self._server = make_server("127.0.0.1", 0, self, threaded=False)
        self._settings = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self._server.server_port}",
            "AWS_ACCESS_KEY_ID": "made-up",
            "AWS_SECRET_ACCESS_KEY": "made-up",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        self._bucket = boto3.resource(
            "s3",
            endpoint_url=self._settings["AWS_ENDPOINT_URL"],
            aws_access_key_id="made-up",
            aws_secret_access_key="made-up",  # noqa: S106
            region_name="us-east-1",
        ).Bucket(BUCKET)

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        asked = f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}"
        for request, (status, code) in self.refused.items():
            if _matches(asked, request):
                environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
                return _error(status, code, start_response)
        for request in self.lost:
            if _matches(asked, request):
                self.lost.remove(request)
                list(self._served(environ, lambda *_: None))
                return _error("503 Slow Down", "SlowDown", start_response)
        answer: Iterable[bytes] = self._served(environ, start_response)
        return answer

    @contextmanager
    def running(self) -> Iterator["S3"]:
        thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
            thread.join()

    def use(self, monkeypatch: pytest.MonkeyPatch) -> str:
        """Have clients find it, empty it; returns the location of a model's versions."""
        for name, value in (self._settings | {"AWS_MAX_ATTEMPTS": "1"}).items():
            monkeypatch.setenv(name, value)
        self.refused.clear()
        self.lost.clear()
        self._bucket.create()
        self._bucket.objects.delete()
        return f"s3://{BUCKET}/{MODEL}"

    def files(self) -> dict[str, bytes]:
        """What is there of the model, by its name in the store."""
        return {
            entry.key.removeprefix(f"{MODEL}/"): entry.get()["Body"].read()
            for entry in self._bucket.objects.filter(Prefix=f"{MODEL}/")
        }

    def put(self, name: str, content: bytes) -> None:
        """Add a file of the model."""
        self._bucket.put_object(Key=f"{MODEL}/{name}", Body=content)


def _matches(asked: str, request: str) -> bool:
    method, _, end = request.partition(" ")
    return asked.startswith(f"{method} ") and asked.endswith(end)


def _error(status: str, code: str, start_response: Any) -> list[bytes]:
    start_response(status, [("Content-Type", "application/xml")])
    return [f"<Error><Code>{code}</Code><Message>{code}, says the test</Message></Error>".encode()]
