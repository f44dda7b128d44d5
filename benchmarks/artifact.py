"""Compares the forms in which a graph can be published: ``python -m benchmarks.artifact``.

Uses one thread. Images per second are medians over rounds in which the forms take turns, so that
whatever else the machine does affects all of them alike. "Alone", import, load and memory are
medians over fresh processes that load one form only: there, no other form can have left the heap
in a better state. The weights are random, which does not change the times. Prints a Markdown
table. Needs a C++ compiler, which AOTInductor and torch.compile use.
"""

from __future__ import annotations

import argparse
import importlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import psutil
from numpy.typing import NDArray

from benchmarks.flags import flags, in_a_line
from serving.numbers import positive

# torch is imported inside the functions: `start` measures how long that takes.
if TYPE_CHECKING:
    import torch

BATCHES = (1, 8, 32, 64)
Module = Callable[["torch.Tensor"], Any]
Graph = Callable[[NDArray[np.uint8]], Any]


class Variant(NamedTuple):
    """How the graph is prepared."""

    folded: bool
    channels_last: bool


TRAINED = Variant(folded=False, channels_last=False)
FOLDED = Variant(folded=True, channels_last=False)
PREPARED = Variant(folded=True, channels_last=True)


def served(variant: Variant) -> torch.nn.Module:
    """The graph that would be published, prepared as ``variant`` says, with random weights."""
    import torch

    from training.network import Served, fold, network

    body = fold(network("plain")) if variant.folded else network("plain")
    layout = torch.channels_last if variant.channels_last else torch.contiguous_format
    body.to(memory_format=layout)  # type: ignore[call-overload]
    return Served(body, temperature=1.0, threshold=0.5)


def save_state(path: Path, variant: Variant) -> None:
    """Write the graph's state dict."""
    import torch

    torch.save(served(variant).state_dict(), path)


def load_state(path: Path, variant: Variant) -> Module:
    """Build the module with the training code, and load its weights."""
    import torch

    module = served(variant)
    module.load_state_dict(torch.load(path, weights_only=True))
    return module


def save_program(path: Path, variant: Variant) -> None:
    """Write the ``torch.export`` program."""
    from training.network import export

    path.write_bytes(export(served(variant)))


def load_program(path: Path) -> Module:
    """Load the program as the documentation of ``torch.export`` does."""
    import torch

    return torch.export.load(path).module()


def read_program(path: Path) -> Module:
    """Read the program as the predictor does where ONNX Runtime cannot."""
    from predictor.graph import read_graph

    return read_graph(path.read_bytes())


def compile_program(path: Path) -> Module:
    """Compile the program at start; the compiler's cache on disk is not cleared."""
    import torch

    module = torch.compile(torch.export.load(path).module(check_guards=False), dynamic=True)
    module(torch.zeros(2, 28, 28, dtype=torch.uint8))
    return module


def save_package(path: Path) -> None:
    """Compile for this machine with AOTInductor, and write the package."""
    import torch
    import torch._inductor

    save_program(path, PREPARED)
    torch._inductor.aoti_compile_and_package(torch.export.load(path), package_path=str(path))


def load_package(path: Path) -> Module:
    """Load the shared library in the package."""
    import torch._inductor

    return torch._inductor.aoti_load_package(str(path))


def open_in_onnx_runtime(path: Path) -> Graph:
    """Open the program as the predictor does."""
    from predictor.runtime import open_graph

    return open_graph(path.read_bytes(), threads=1)


def in_torch(load: Callable[[Path], Module]) -> Callable[[Path], Graph]:
    """Have torch run what ``load`` returns, on one thread."""

    def loaded(path: Path) -> Graph:
        import torch

        torch.set_num_threads(1)
        module = load(path)

        def run(images: NDArray[np.uint8]) -> Any:
            with torch.inference_mode():
                return module(torch.from_numpy(images))

        return run

    return loaded


class Form(NamedTuple):
    """How a graph is written, and how it is loaded with the help of ``library``."""

    save: Callable[[Path], None]
    load: Callable[[Path], Graph]
    library: str = "torch"


FORMS = {
    "state dict, module as trained": Form(
        lambda path: save_state(path, TRAINED),
        in_torch(lambda path: load_state(path, TRAINED)),
    ),
    "state dict, module folded": Form(
        lambda path: save_state(path, FOLDED),
        in_torch(lambda path: load_state(path, FOLDED)),
    ),
    "state dict, module folded, channels-last": Form(
        lambda path: save_state(path, PREPARED),
        in_torch(lambda path: load_state(path, PREPARED)),
    ),
    "program, as trained": Form(lambda path: save_program(path, TRAINED), in_torch(load_program)),
    "program, folded": Form(lambda path: save_program(path, FOLDED), in_torch(load_program)),
    "program, folded, channels-last": Form(
        lambda path: save_program(path, PREPARED), in_torch(load_program)
    ),
    "the same, read by `predictor.graph`": Form(
        lambda path: save_program(path, PREPARED), in_torch(read_program)
    ),
    "the same, `torch.compile` at start": Form(
        lambda path: save_program(path, PREPARED), in_torch(compile_program)
    ),
    "the same, AOTInductor package": Form(save_package, in_torch(load_package)),
    "**the same, in ONNX Runtime**": Form(
        lambda path: save_program(path, PREPARED), open_in_onnx_runtime, "predictor.session"
    ),
}


def start(name: str, path: Path) -> dict[str, float]:
    """The figures of a process that loads this form only."""
    form = FORMS[name]
    begin = time.perf_counter()
    importlib.import_module(form.library)
    imported = time.perf_counter()
    graph = form.load(path)
    loaded = time.perf_counter()
    return {
        "batch 32, alone": images_per_second({name: graph}, 32, rounds=20)[name],
        "import, s": imported - begin,
        "load, s": loaded - imported,
        "memory, MB": psutil.Process().memory_info().rss / 1e6,
    }


def start_fresh(name: str, path: Path) -> dict[str, float]:
    """Medians of ``start`` over three fresh processes."""
    command = [sys.executable, "-m", "benchmarks.artifact", "--start", name, str(path)]
    runs = [
        json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)  # noqa: S603
        for _ in range(3)
    ]
    return {key: statistics.median(run[key] for run in runs) for key in runs[0]}


def images_per_second(graphs: dict[str, Graph], batch: int, rounds: int) -> dict[str, float]:
    """The median images per second of each form, over ``rounds`` in which they take turns."""
    images = np.random.default_rng(0).integers(0, 256, (batch, 28, 28), np.uint8)
    calls = max(4, 256 // batch)
    rates: dict[str, list[float]] = {name: [] for name in graphs}
    for _ in range(rounds):
        for name, graph in graphs.items():
            graph(images)  # the processor's caches still hold the previous form
            begin = time.perf_counter()
            for _ in range(calls):
                graph(images)
            rates[name].append(batch * calls / (time.perf_counter() - begin))
    return {name: statistics.median(of_form) for name, of_form in rates.items()}


def measure(directory: Path, rounds: int) -> list[dict[str, str]]:
    """Build, load and run all forms; return a row of the table for each."""
    rows: dict[str, dict[str, str]] = {}
    graphs: dict[str, Graph] = {}
    for number, (name, form) in enumerate(FORMS.items()):
        path = directory / f"{number}.pt2"
        begin = time.perf_counter()
        form.save(path)
        rows[name] = {"form": name, "build, s": f"{time.perf_counter() - begin:.1f}"}
        for key, value in start_fresh(name, path).items():
            rows[name][key] = f"{value:.2f}" if key.endswith(", s") else f"{value:,.0f}"
        graphs[name] = form.load(path)
    for batch in BATCHES:
        for name, rate in images_per_second(graphs, batch, rounds).items():
            rows[name][f"batch {batch}"] = f"{rate:,.0f}"
    return list(rows.values())


def main() -> None:
    """Measure, and print the table."""
    parser = flags(__doc__)
    parser.add_argument(
        "--rounds", type=positive, default=60, help="rounds per batch size (default 60)"
    )
    parser.add_argument("--start", nargs=2, metavar=("FORM", "PATH"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.start:
        name, path = arguments.start
        print(json.dumps(start(name, Path(path))))
        return
    with tempfile.TemporaryDirectory() as directory:
        rows = measure(Path(directory), arguments.rounds)
    columns = ["form", *(f"batch {batch}" for batch in BATCHES)]
    columns += ["batch 32, alone", "import, s", "load, s", "memory, MB", "build, s"]
    print("| " + " | ".join(columns) + " |")
    print("| --- |" + " ---: |" * (len(columns) - 1))
    for row in rows:
        print("| " + " | ".join(row[column] for column in columns) + " |")


if __name__ == "__main__":
    with in_a_line():
        main()
