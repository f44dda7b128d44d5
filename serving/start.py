"""A quick start: nearly all of its time goes into imports (docs/decisions/coldstart.md)."""

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
    "dateutil",  # for the client of Kubernetes, and for time series
    "fastapi.openapi.models",  # for FastAPI's description of endpoints
    "kserve.api.kserve_client",  # a client of Kubernetes
    "kserve.api_client",  # what that client calls
    "kserve.models",  # that client's objects
    "pandas",  # for requests as data frames
    "psutil",  # for counting processors
    "urllib3",  # for the client of Kubernetes
)
"""Modules that the SDK imports, and that no request needs."""
BLAS_THREADS = "OPENBLAS_NUM_THREADS"


class _StandIn(ModuleType):
    """A module with a class of any name: enough for annotations; nothing is an instance of it."""

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


class _StandIns(MetaPathFinder, Loader):
    """Provides stand-ins for the modules of ``UNUSED``, and those in them, not yet imported."""

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
        """Remove all stand-ins from the imported modules."""
        for name in self.made:
            module = sys.modules.pop(name)
            package, _, attribute = name.rpartition(".")
            parent = sys.modules.get(package)
            if parent and vars(parent).get(attribute) is module:
                delattr(parent, attribute)


@contextmanager
def interruptible_imports(importer: str) -> Iterator[None]:
    """Run the imports in the block; on SIGTERM or Ctrl-C end the program, with nothing to read.

    SIGTERM does so until something else handles it.

    Args:
        importer: ``__name__`` of the caller; if it is not run as a program, nothing is changed.
    """
    if importer != "__main__":
        yield
        return
    # In a container we are process 1, which gets only the signals that it handles.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(128 + signal.SIGTERM))
    try:
        yield
    except KeyboardInterrupt:
        os._exit(128 + signal.SIGINT)


@contextmanager
def quick_imports(importer: str) -> Iterator[None]:
    """Run the imports in the block without the modules of ``UNUSED`` and garbage collection.

    After the block these modules can be imported as usual.

    Args:
        importer: as for ``interruptible_imports``.
    """
    if importer != "__main__":
        yield
        return
    stand_ins = _StandIns()
    with interruptible_imports(importer):
        gc.disable()
        if BLAS_THREADS not in os.environ:
            # NumPy's threads for linear algebra spin while idle, and no request uses them.
            os.environ[BLAS_THREADS] = "1"
            importlib.import_module("numpy")
            del os.environ[BLAS_THREADS]
        sys.meta_path.insert(0, stand_ins)
        yield
    sys.meta_path.remove(stand_ins)
    stand_ins.forget()
    # The imported objects stay, so no collection need look through them; and collections may be
    # rare, since requests seldom leave cycles.
    gc.freeze()
    gc.set_threshold(10_000)
    gc.enable()
