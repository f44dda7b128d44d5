"""What the README shows is what happens, and the links of all pages lead somewhere."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from predictor import artifact
from tests import programs

README = (programs.ROOT / "README.md").read_text(encoding="utf-8")
CONSOLE = re.findall(r"```console\n(.*?)```", README, re.DOTALL)
PAGES = [programs.ROOT / "README.md", programs.ROOT / "SECURITY.md"]
PAGES += sorted((programs.ROOT / "docs").rglob("*.md"))
PYTHON = re.findall(r"```python\n(.*?)```\n+```\n(.*?)```", README, re.DOTALL)


def local(text: str, service: programs.Program) -> str:
    """The text with the ports of the running service."""
    text = text.replace("127.0.0.1:8080", f"127.0.0.1:{service.http_port}")
    return text.replace("127.0.0.1:8081", f"127.0.0.1:{service.grpc_port}")


def assert_shown(output: str, shown: str) -> None:
    """``…`` stands for anything; probabilities are compared to three digits."""

    def rounded(text: str) -> str:
        return re.sub(r"\d+\.\d+(e-?\d+)?", lambda number: f"{float(number[0]):.2e}", text)

    parts = [re.escape(rounded(part)) for part in shown.strip().split("…")]
    assert re.fullmatch(".*".join(parts), rounded(output.strip()), re.DOTALL), output


@pytest.mark.parametrize("block", CONSOLE)
def test_the_commands_print_what_is_shown(service: programs.Program, block: str) -> None:
    lines = block.splitlines()
    commands = [line[2:] for line in lines if line.startswith("$ ")]
    shown = "\n".join(line for line in lines if not line.startswith("$ "))
    assert shown, "no output is shown"
    result = subprocess.run(
        ["sh", "-ec", local("\n".join(commands), service)],
        cwd=programs.ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert_shown(result.stdout, shown)


@pytest.mark.parametrize(("code", "shown"), PYTHON)
def test_the_python_code_prints_what_is_shown(
    service: programs.Program, code: str, shown: str
) -> None:
    result = subprocess.run(
        [sys.executable, "-c", local(code, service)],
        cwd=programs.ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert_shown(result.stdout, shown)


def test_it_shows_commands_and_code() -> None:
    assert len(CONSOLE) >= 7
    assert PYTHON


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_links_of_a_page_lead_somewhere(page: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)#]*)(#[^)]*)?\)", page.read_text(encoding="utf-8")):
        file = (page.parent / target).resolve() if target else page
        if target.startswith("http"):
            continue
        assert file.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            anchors = [re.sub(r"[^\w-]", "", each.lower().replace(" ", "-")) for each in headings]
            assert anchor[1:] in anchors, anchor


def test_a_network_that_was_trained_elsewhere_is_published(tmp_path: Path) -> None:
    page = (programs.ROOT / "docs/another-model.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    environment = {**os.environ, "PYTHONPATH": str(programs.ROOT)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True
    )
    _, digest = done.stdout.split()
    probabilities, accepted = artifact.load(tmp_path / "models/mnist/1", digest=digest).graph(
        np.zeros((3, 28, 28), np.uint8)
    )
    assert (probabilities.shape, accepted.shape) == ((3, 10), (3,))
