"""The dashboard over the real service: every panel shows what a real Prometheus has scraped."""

import json
import math
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch

from monitoring import dashboard
from monitoring.dashboard import Panel
from monitoring.prometheus import COMPONENT
from predictor import artifact
from tests import programs, versions
from tests.digits import draw, encode
from training import evaluate
from training.data import Digits

PANELS = list(dashboard.panels("30s"))
CANARY = 3
DEADLINE = 120
"""Seconds for what takes a few; the machine may be busy."""
DIGITS = [encode(draw(digit, size)) for digit in (1, 4, 7) for size in range(40, 80, 6)]
BLANK = encode(draw(7, 60, ink=255))

needs_prometheus = pytest.mark.skipif(
    not shutil.which("prometheus"), reason="no prometheus: see docs/monitoring.md"
)


class Monitored:
    """The service, with a canary and users, and the Prometheus over it."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "monitoring.log"
        self.port, self.api_port, self.http_port, grpc_port = (
            programs.free_port() for _ in range(4)
        )
        flags = [f"--port={self.port}", f"--api_port={self.api_port}", "--interval=1s", "--"]
        flags += [f"--port={self.http_port}", f"--grpc_port={grpc_port}"]
        self.command = [*flags, f"--models_dir={folder / 'models'}"]
        self.over = threading.Event()

    def get(self, path: str, **parameters: str) -> Any:
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}"
        return httpx.get(url, params=parameters).raise_for_status().json()["data"]

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Labels and number of all that it finds, what is no number left out."""
        found: list[dict[str, Any]] = self.get("query", query=expression)["result"]
        return [
            {**each["metric"], "value": float(each["value"][1])}
            for each in found
            if not math.isnan(float(each["value"][1]))
        ]

    def wait(self, for_: Callable[[], object], what: str) -> None:
        deadline = time.monotonic() + DEADLINE
        while time.monotonic() < deadline:
            try:
                if for_():
                    return
            except (httpx.HTTPError, KeyError):
                pass  # not yet
            time.sleep(0.2)
        raise TimeoutError(f"{what}\n{self.log.read_text(encoding='utf-8')[-2000:]}")

    def start_canary(self) -> None:
        """Half of the traffic to another version, with a reference."""
        path = "/apis/serving.kserve.io/v1beta1/namespaces/default/inferenceservices/mnist"
        url = f"http://127.0.0.1:{self.api_port}{path}"

        def latest_ready() -> Any:
            status = httpx.get(url).raise_for_status().json()["status"]
            return status["components"]["predictor"]["latestReadyRevision"]

        self.wait(lambda: latest_ready() == "mnist-predictor-00001", "the service is not ready")
        patch = [
            {
                "op": "replace",
                "path": "/spec/predictor/containers/0/env/0/value",
                "value": str(CANARY),
            },
            {"op": "add", "path": "/spec/predictor/canaryTrafficPercent", "value": 50},
        ]
        headers = {"Content-Type": "application/json-patch+json"}
        httpx.patch(url, content=json.dumps(patch), headers=headers).raise_for_status()
        self.wait(lambda: latest_ready() == "mnist-predictor-00002", "the canary is not ready")

    def use(self) -> None:
        """Send requests until it is over: digits, a blank page among digits, and no image."""
        url = f"http://127.0.0.1:{self.http_port}"
        with httpx.Client(base_url=url, timeout=60) as client:
            while not self.over.is_set():
                for files in (DIGITS, [*DIGITS, BLANK]):
                    client.post("/predict", files=[("images", file) for file in files])
                client.post("/v1/models/mnist:predict", content=b"no image")
                time.sleep(0.05)


@pytest.fixture(scope="module")
def monitored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Monitored]:
    folder = tmp_path_factory.mktemp("monitored")
    shipped = programs.ROOT / "models/mnist/1"
    shutil.copytree(shipped, folder / "models/mnist/1")
    model = artifact.load(shipped)
    drawn = np.stack([np.asarray(draw(digit, 28, ink=255, paper=0)) for digit in (1, 4, 7)] * 20)
    images = Digits("drawn", torch.from_numpy(drawn), torch.zeros(len(drawn), dtype=torch.long))
    versions.write(
        folder / f"models/mnist/{CANARY}",
        (shipped / artifact.GRAPH_FILE).read_bytes(),
        version=CANARY,
        reference=evaluate._reference(model.graph, images),
    )
    found = Monitored(folder)
    with found.log.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "monitoring", *found.command],
            cwd=programs.ROOT,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    users = threading.Thread(target=found.use)
    try:
        found.start_canary()
        users.start()
        yield found
    finally:
        found.over.set()
        if users.ident:
            users.join()
        process.send_signal(signal.SIGTERM)
        process.wait(30)


@needs_prometheus
@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel.title)
def test_a_panel_shows_data(monitored: Monitored, panel: Panel) -> None:
    for name, expression in panel.queries.items():
        monitored.wait(partial(monitored.query, expression), f"nothing for {name}")


@needs_prometheus
def test_the_versions_are_side_by_side(monitored: Monitored) -> None:
    def versions_in(expression: str) -> bool:
        found = monitored.query(expression)
        return {each["model_version"] for each in found} == {"1", str(CANARY)}

    for panel in PANELS:
        if panel.row == "Versions":
            (expression,) = panel.queries.values()
            monitored.wait(partial(versions_in, expression), panel.title)


@needs_prometheus
def test_only_the_version_with_a_reference_has_drift(monitored: Monitored) -> None:
    query = partial(monitored.query, "namespace_version_feature:mnist_drift:distance6h")
    monitored.wait(lambda: len(query()) == 4, "no drift of four features")
    found = query()
    assert {(each["model_version"], each["feature"]) for each in found} == {
        (str(CANARY), feature) for feature in ("area", "confidence", "digit", "ink")
    }
    assert all(0 <= each["value"] <= 1 for each in found)


@needs_prometheus
def test_each_pod_is_a_target_under_the_labels_that_the_rules_use(monitored: Monitored) -> None:
    targets = monitored.get("targets")["activeTargets"]
    found = {
        (
            target["labels"]["job"],
            target["labels"]["component"],
            target["labels"]["serving_knative_dev_revision"],
            target["health"],
        )
        for target in targets
    }
    assert found == {
        ("mnist", "predictor", "mnist-predictor-00001", "up"),
        ("mnist", "predictor", "mnist-predictor-00002", "up"),
        ("mnist", "transformer", "mnist-transformer-00001", "up"),
    }


@needs_prometheus
def test_every_rule_is_evaluated(monitored: Monitored) -> None:
    groups = monitored.get("rules")["groups"]
    assert len(groups) == len(list((programs.ROOT / COMPONENT / "rules").iterdir()))
    rules = [rule for group in groups for rule in group["rules"]]
    assert {rule["name"]: rule["health"] for rule in rules if rule["health"] != "ok"} == {}


@needs_prometheus
def test_prometheus_serves_the_panels_as_a_page(monitored: Monitored) -> None:
    page = httpx.get(f"http://127.0.0.1:{monitored.port}/consoles/index.html").text
    assert all(f"<h2>{panel.title}</h2>" in page for panel in PANELS)


def test_without_prometheus_it_says_where_to_read(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "monitoring"],
        cwd=programs.ROOT,
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert result.stderr.startswith("monitoring: there is no `prometheus` here")


def test_the_panels_lie_side_by_side_and_ask_the_chosen_prometheus() -> None:
    whole = json.loads((programs.ROOT / COMPONENT / "dashboard.json").read_text(encoding="utf-8"))
    taken: set[tuple[int, int]] = set()
    for panel in whole["panels"]:
        at = panel["gridPos"]
        cells = {(at["x"] + i, at["y"] + j) for i in range(at["w"]) for j in range(at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells
        if panel["type"] != "row":
            assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
            assert all('namespace="$namespace"' in each["expr"] for each in panel["targets"])
    assert len({panel["id"] for panel in whole["panels"]}) == len(whole["panels"])
