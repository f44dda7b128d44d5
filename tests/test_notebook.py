"""The notebook runs from top to bottom, on small data; it is committed without outputs."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests import programs

NOTEBOOK = programs.ROOT / "notebooks/explore.ipynb"
SMALL = """
import sys
sys.path.insert(0, {root!r})
from tests.synthetic import digits
from training import data

data.load_training = lambda *_, **__: (digits(256, seed=1), digits(64, seed=2))
data.load_test = lambda _: digits(64, seed=3)
RUN, SERVICE, EPOCHS = Path({run!r}), {service!r}, 1
"""
"""What the test runs after the cell tagged ``parameters``, as papermill would."""


@pytest.fixture
def notebook() -> nbformat.NotebookNode:
    return nbformat.read(NOTEBOOK, as_version=4)


def test_it_is_committed_without_outputs(notebook: nbformat.NotebookNode) -> None:
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [(cell.outputs, cell.execution_count) for cell in code] == [([], None)] * len(code)


def test_it_trains_evaluates_and_asks_the_service(
    tmp_path: Path, service: programs.Program, notebook: nbformat.NotebookNode
) -> None:
    small = SMALL.format(root=str(programs.ROOT), run=str(tmp_path / "run"), service=service.url)
    tags = [cell.metadata.get("tags") for cell in notebook.cells]
    notebook.cells.insert(tags.index(["parameters"]) + 1, nbformat.v4.new_code_cell(small))
    NotebookClient(
        notebook, timeout=300, resources={"metadata": {"path": NOTEBOOK.parent}}
    ).execute()
    *_, asked = notebook.cells
    pictures = [output for output in asked.outputs if "image/png" in output.get("data", {})]
    said = [output.text for output in asked.outputs if output.output_type == "stream"]
    assert len(pictures) == 1
    assert said == ["version 1\n"]
    assert (tmp_path / "run/MODEL.md").exists()
