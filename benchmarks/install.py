"""Installs what ``make bench`` needs into ``build/bench``: ``python -m benchmarks.install``.

Each peer has an environment of its own, pinned in ``benchmarks/peers/requirements``; ours has the
packages of our two images. Torch is installed once, with NumPy and Pillow; a ``.pth`` file makes it
available to all environments. A peer that cannot be installed is left out, and the reason is kept
for the report. If run as root, programs that are missing are installed from Debian.
"""

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

from benchmarks.flags import flags, in_a_line
from benchmarks.servers import VENVS
from tests.programs import ROOT

PEERS = ROOT / "benchmarks/peers"
BASE = VENVS / "torch"
SHARED = ("torch==2.13.0", "numpy", "pillow")
CONSTRAINED = ("--constraint", str(ROOT / "constraints.txt"))
PROGRAMS = {"wrk": "wrk", "java": "default-jre-headless"}
"""Programs, and the Debian package of each."""


def site_packages(folder: Path) -> Path:
    """The folder of an environment's packages."""
    return folder / f"lib/python3.{sys.version_info.minor}/site-packages"


def has_python(folder: Path) -> bool:
    """Whether an environment is there: its stamp may be all that is left of it."""
    return (folder / "bin/python").exists()


def pip(folder: Path, *args: str) -> None:
    """Make a new environment in ``folder``, and install into it.

    Raises:
        subprocess.CalledProcessError: pip failed; ``stderr`` is its output.
    """
    venv.create(folder, clear=True, with_pip=True)
    if folder != BASE:
        (site_packages(folder) / "torch.pth").write_text(f"{site_packages(BASE)}\n")
    command = [str(folder / "bin/python"), "-m", "pip", "install", "--quiet", *args]
    subprocess.run(command, check=True, stderr=subprocess.PIPE, text=True)  # noqa: S603


def install(name: str, *requirements: Path, args: tuple[str, ...] = ()) -> None:
    """Make an environment, unless it is there with the same requirements."""
    wanted = "\n".join(path.read_text(encoding="utf-8") for path in requirements)
    folder = VENVS / name
    stamp, missing = (VENVS / f"{name}.{kind}" for kind in ("installed", "missing"))
    if has_python(folder) and stamp.exists() and stamp.read_text(encoding="utf-8") == wanted:
        return
    print(f"installing {name}", flush=True)
    try:
        pip(folder, *args, *[f"--requirement={path}" for path in requirements])
        if name == "torchserve":
            archive(folder)
    except subprocess.CalledProcessError as error:
        missing.write_text(f"not installed: {str(error.stderr).strip()}", encoding="utf-8")
        print(missing.read_text(encoding="utf-8"))
        return
    missing.unlink(missing_ok=True)
    stamp.write_text(wanted, encoding="utf-8")


def archive(folder: Path) -> None:
    """Make the model archive that TorchServe serves."""
    store = folder / "store"
    store.mkdir()
    command = [str(folder / "bin/torch-model-archiver"), "--model-name=mnist", "--version=1"]
    command += [f"--handler={PEERS}/torchserve_handler.py", f"--export-path={store}"]
    command += [f"--config-file={PEERS}/torchserve/model-config.yaml"]
    subprocess.run(command, check=True, stderr=subprocess.PIPE, text=True)  # noqa: S603


def main() -> None:
    """Install whatever is missing."""
    flags(__doc__).parse_args()
    packages = [package for program, package in PROGRAMS.items() if not shutil.which(program)]
    if packages and os.geteuid() == 0:
        subprocess.run(["apt-get", "update", "-qq"], check=True)  # noqa: S607
        subprocess.run(["apt-get", "install", "-y", "-qq", *packages], check=True)  # noqa: S603, S607
    VENVS.mkdir(parents=True, exist_ok=True)
    if not (has_python(BASE) and BASE.with_suffix(".installed").exists()):
        print("installing torch, a minute or two", flush=True)
        pip(BASE, *CONSTRAINED, *SHARED)
        BASE.with_suffix(".installed").touch()
    images = (ROOT / "containers/predictor.txt", ROOT / "containers/transformer.txt")
    install("ours", *images, args=CONSTRAINED)
    for requirements in sorted((PEERS / "requirements").glob("*.txt")):
        install(requirements.stem, requirements)


if __name__ == "__main__":
    with in_a_line():
        main()
