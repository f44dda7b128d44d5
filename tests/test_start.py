"""What is spared at the start is imported without it, and is there for whoever wants it later."""

import os
import signal
import subprocess
import sys

import pytest

from serving.start import BLAS_THREADS, UNUSED
from tests.programs import ROOT

IMPORTS = """
import gc, sys
from serving.start import UNUSED, quick_imports
with quick_imports({importer!r}):
    import kserve.model_server
    print(gc.isenabled())
print(gc.isenabled())
print(*[name for name in UNUSED if name in sys.modules])
"""


def run(program: str, said: dict[str, str] | None = None) -> list[str]:
    command = [sys.executable, "-c", program]
    env = {name: value for name, value in os.environ.items() if name != BLAS_THREADS}
    done = subprocess.run(
        command, cwd=ROOT, env=env | (said or {}), check=True, capture_output=True, text=True
    )
    return done.stdout.splitlines()


def test_the_programs_import_without_what_is_unused() -> None:
    assert run(IMPORTS.format(importer="__main__")) == ["False", "True", ""]


@pytest.mark.parametrize(("said", "threads"), [({}, 1), ({BLAS_THREADS: "2"}, 2)])
def test_linear_algebra_has_one_thread_unless_the_environment_says_more(
    said: dict[str, str], threads: int
) -> None:
    program = (
        "import os; from serving.start import BLAS_THREADS, quick_imports\n"
        "with quick_imports('__main__'): import numpy\n"
        "print(len(os.listdir('/proc/self/task')), os.environ.get(BLAS_THREADS))"
    )
    (line,) = run(program, said)
    found, kept = line.split()
    assert int(found) <= threads  # a machine with one processor has no second one
    assert kept == str(said.get(BLAS_THREADS))


def test_what_is_called_unused_would_be_imported() -> None:
    assert run(IMPORTS.format(importer="a test")) == ["True", "True", " ".join(UNUSED)]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_ends_the_imports_without_a_stack_trace(number: signal.Signals) -> None:
    program = (
        "import signal; from serving.start import interruptible_imports\n"
        f"with interruptible_imports('__main__'): signal.raise_signal({int(number)})"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (128 + number, "")


@pytest.mark.parametrize(
    ("use", "seen"),
    [
        ("import pandas; print(len(pandas.DataFrame([1, 2])))", "2"),
        ("from kserve.api.kserve_client import KServeClient as C; print(C.get.__name__)", "get"),
        ("from kserve.models import V1beta1Batcher as B; print(B.openapi_types)", "{"),
    ],
)
def test_whoever_wants_it_gets_it(use: str, seen: str) -> None:
    assert run(IMPORTS.format(importer="__main__") + use)[-1].startswith(seen)


def test_a_placeholder_is_no_type_of_anything() -> None:
    check = (
        "from kserve.utils.utils import get_predict_response as f, pd\n"
        "print(isinstance({}, pd.DataFrame))"
    )
    assert run(IMPORTS.format(importer="__main__") + check)[-1] == "False"
