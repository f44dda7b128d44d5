"""The rules are right by ``promtool``, which plays the series of ``tests/rules`` to them."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import programs

COMPONENT = programs.ROOT / "manifests/components/monitoring"
FILES = sorted(path.name for path in (COMPONENT / "rules").glob("*.yaml"))
TESTS = Path(__file__).parent / "rules"

needs_promtool = pytest.mark.skipif(
    not shutil.which("promtool"), reason="no promtool: see docs/monitoring.md"
)


def groups(file: str) -> dict[str, Any]:
    """What Prometheus reads of a PrometheusRule."""
    found: dict[str, Any] = yaml.safe_load((COMPONENT / "rules" / file).read_text("utf-8"))["spec"]
    return found


ALERTS = {
    rule["alert"]: rule
    for file in FILES
    for group in groups(file)["groups"]
    for rule in group["rules"]
    if "alert" in rule
}


def promtool(*arguments: str) -> str:
    """What it objects to; nothing if all is well."""
    result = subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False)
    return "" if result.returncode == 0 else result.stdout + result.stderr


@needs_promtool
@pytest.mark.parametrize("file", FILES)
def test_the_rules_do_what_their_examples_say(tmp_path: Path, file: str) -> None:
    rules = tmp_path / "rules" / file
    rules.parent.mkdir()
    rules.write_text(yaml.safe_dump(groups(file)), encoding="utf-8")
    assert promtool("check", "rules", "--lint-fatal", str(rules)) == ""
    shutil.copytree(TESTS, tmp_path / "tests")
    assert promtool("test", "rules", str(tmp_path / "tests" / file)) == ""


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_fires_in_an_example(alert: str) -> None:
    examples = "".join(path.read_text(encoding="utf-8") for path in TESTS.glob("*.yaml"))
    assert re.search(rf'alertname="{alert}",[^}}]*alertstate="firing"', examples)


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_says_what_is_wrong_and_what_to_do(alert: str) -> None:
    rule = ALERTS[alert]
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert rule["annotations"].keys() == {"summary", "description", "runbook"}
    assert rule["annotations"]["runbook"] == f"docs/runbook.md#{alert.lower()}"
    assert "$labels.namespace" in rule["annotations"]["summary"]


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_has_its_section_in_the_runbook(alert: str) -> None:
    page = (programs.ROOT / "docs/runbook.md").read_text(encoding="utf-8")
    section = page.split(f"\n## {alert}\n")[1].split("\n## ")[0]
    assert re.findall(r"\*\*(.+?)\*\*", section)[:3] == ["Means.", "Look at.", "Do."]


def test_the_runbook_has_no_section_of_an_alert_that_is_gone() -> None:
    page = (programs.ROOT / "docs/runbook.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^## (Mnist\w+)$", page, re.MULTILINE)) == set(ALERTS)
