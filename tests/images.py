"""The built images, started as a cluster does: as the numeric user, on a read-only root.

buildah has no containers to run them in, so the namespaces are made here.
"""

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from containers.__main__ import Images, ask
from tests.programs import Program, free_port

# The program is process 1, as it is in a pod.
START = """
set -eu
if [ -n "$VOLUME" ]; then mkdir -p "$0/work"; fi
mount --bind "$0" "$0"
mount -o remount,bind,ro "$0"
mount -t proc proc "$0/proc"
mount --rbind /dev "$0/dev"
mount -t tmpfs tmpfs "$0/tmp"
if [ -n "$VOLUME" ]; then mount --bind "$VOLUME" "$0/work"; fi
exec chroot --userspec="$OWNER" --groups= "$0" env --ignore-environment --chdir="$WORKDIR" "$@"
"""


def reference(name: str) -> str:
    """The image of that name, as ``make images`` made it with the same variables."""
    return Images({**os.environ, "ENGINE": "buildah"}).reference(name)


def config(name: str) -> dict[str, Any]:
    """User, entrypoint, environment and labels."""
    described = json.loads(ask("buildah", "inspect", "--type=image", reference(name)))
    return dict(described["OCIv1"]["config"])


@contextmanager
def started(
    name: str, log: Path, *args: str, env: tuple[str, ...] = (), volume: Path | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """The program of an image until the end of the block, with ``volume`` as its ``/work``."""
    image = config(name)
    settings = {
        "OWNER": image["User"],
        "VOLUME": str(volume or ""),
        "WORKDIR": image.get("WorkingDir") or "/",
    }
    start = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", START)
    container = ask("buildah", "from", "--pull-never", reference(name))
    try:
        root = ask("buildah", "mount", container)
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*start, root, *image["Env"], *env, *image["Entrypoint"], *args],
                env={**os.environ, **settings},
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        try:
            yield process
        finally:
            # Killing unshare would not do: the program has changed its user, and then Linux does
            # not kill it with its parent. With it ends the namespace, and with that unshare.
            if process.poll() is None:
                for child in psutil.Process(process.pid).children():
                    child.kill()
                process.wait()
    finally:
        ask("buildah", "rm", container)


@contextmanager
def served(name: str, folder: Path, *args: str, env: tuple[str, ...] = ()) -> Iterator[Program]:
    """A program that serves, until the end of the block."""
    http_port, grpc_port = free_port(), free_port()
    log = folder / f"{http_port}.log"
    ports = (f"--http_port={http_port}", f"--grpc_port={grpc_port}")
    with started(name, log, *args, *ports, env=env) as process:
        yield Program(process, log, http_port, grpc_port)
