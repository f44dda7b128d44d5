"""A quick start: nearly all of it is imports (docs/decisions/coldstart.md)."""

import gc
import importlib
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

UNUSED = (
    "fastapi.openapi.models",  # for FastAPI's description of endpoints
    "kserve.api.kserve_client",  # for who talks to Kubernetes
    "kserve.models",  # what it would talk about
    "pandas",  # for who wants requests as data frames
    "torch._higher_order_ops",  # for compilers: control flow
    "torch._meta_registrations",  # for compilers: operators on tensors without data
    "torch.ao",  # for quantization
    "torch.distributions",
    "torch.export",  # for the compiler's front end
    "torch.fx.passes",  # for compilers
    "torch.masked",  # for tensors with masked values
    "torch.nn.parallel",  # for training
    "torch.optim",  # for training
    "torch.profiler",
    "torch.utils.data",  # for training
    "torchgen",  # for who builds torch
    "unittest",
    "urllib3",  # for who talks to Kubernetes
)
"""Modules that the SDK and torch import, and that no request needs."""
BLAS_THREADS = "OPENBLAS_NUM_THREADS"


class _StandIn(ModuleType):
    """Has a class of every name: enough to annotate with, and nothing is an instance of it."""

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


class _StandIns(MetaPathFinder, Loader):
    """Finds one for each of ``UNUSED`` that is not there yet, and for what is in it."""

    def __init__(self) -> None:
        self.made: list[str] = []

    def find_spec(self, fullname: str, *_: object) -> ModuleSpec | None:
        if any(f"{fullname}.".startswith(f"{name}.") for name in UNUSED):
            return ModuleSpec(fullname, self, is_package=True)
        return None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        self.made.append(spec.name)
        return _StandIn(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Nothing is in it."""

    def forget(self) -> None:
        """Take them all away again."""
        for name in self.made:
            module = sys.modules.pop(name)
            package, _, attribute = name.rpartition(".")
            parent = sys.modules.get(package)
            if parent and vars(parent).get(attribute) is module:
                delattr(parent, attribute)


@contextmanager
def quick_imports(importer: str) -> Iterator[None]:
    """Import what is in the block without ``UNUSED``, and without garbage collection.

    After the block whoever imports one of ``UNUSED`` gets it. SIGTERM ends the program at once,
    until the server handles it.

    Args:
        importer: ``__name__`` of the caller. Unless it is run as a program, nothing is left out.
    """
    if importer != "__main__":
        yield
        return
    # Process 1, as in a container, gets only those signals that it handles.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(128 + signal.SIGTERM))
    gc.disable()
    if BLAS_THREADS not in os.environ:
        # NumPy's threads for linear algebra spin while they have nothing to do, and no request
        # has work for them. Torch, where it has an OpenBLAS of its own, is not told.
        os.environ[BLAS_THREADS] = "1"
        importlib.import_module("numpy")
        del os.environ[BLAS_THREADS]
    stand_ins = _StandIns()
    sys.meta_path.insert(0, stand_ins)
    yield
    sys.meta_path.remove(stand_ins)
    stand_ins.forget()
    # What the imports left is there to stay: no collection need look through it. What a request
    # leaves is seldom a cycle.
    gc.freeze()
    gc.set_threshold(10_000)
    gc.enable()
