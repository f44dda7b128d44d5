"""The Dockerfile and the tool that builds them, checked without an engine."""

import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from importlib.metadata import packages_distributions
from pathlib import Path

import httpx
import pytest
from docker.utils.build import exclude_paths  # type: ignore[import-untyped]

from containers.__main__ import BASE, DOCKERFILE, NAMES, PINNED
from tests import programs, releases, versions
from tests.distributions import closure, named
from tests.programs import ROOT
from training.network import export

FOLDER = ROOT / "containers"
_, *_found = re.split(r"^FROM (\S+) AS (\S+)$", (ROOT / DOCKERFILE).read_text(), flags=re.M)
STAGES = dict(zip(_found[1::3], zip(_found[::3], _found[2::3], strict=True), strict=True))
"""By the name of each stage, what it is from, and what it does."""
PACKAGES = ("predictor", "rollout", "serving", "standalone", "training", "transformer")
REMOVED_MODULES = {"kubernetes.aio", "onnx.backend", "torch.test"}
"""By ``install.sh``, out of distributions that stay; and every folder called ``tests``."""


def instructions(stage: str, name: str) -> list[str]:
    """The arguments of every instruction of that name."""
    joined = STAGES[stage][1].replace("\\\n", " ")
    return [line.partition(" ")[2] for line in joined.splitlines() if line.startswith(f"{name} ")]


def copied(stage: str) -> list[str]:
    """What comes from the repository."""
    lines = [line.split() for line in instructions(stage, "COPY")]
    return [path for line in lines if not line[0].startswith("--from") for path in line[:-1]]


def requirements(name: str) -> set[str]:
    lines = (FOLDER / f"{name}.txt").read_text().splitlines()
    return named([line for line in lines if not line.startswith("#")])


def taken_out(name: str) -> set[str]:
    """What the image does without, though what it asks for would bring it."""
    [line] = [run for run in instructions(f"{name}-build", "RUN") if "install.sh" in run]
    return named(line.split()[2:]) | {"pip", "setuptools"}


def left_out(name: str) -> set[str]:
    """The modules of the repository that the image does without."""
    places = {Path(path) for path in copied(f"{name}-build")}
    paths = [path for package in PACKAGES for path in (ROOT / package).glob("*.py")]
    return {
        ".".join(path.with_suffix("").parts).removesuffix(".__init__")
        for path in (path.relative_to(ROOT) for path in paths)
        if not places & {path, *path.parents}
    }


def test_hadolint_finds_nothing() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    subprocess.run([hadolint, ROOT / DOCKERFILE], check=True)


def test_the_base_is_the_same_and_pinned() -> None:
    found = [BASE.search((ROOT / path).read_text()) for path in PINNED]
    assert None not in found
    [(tag, digest)] = {match.group(2, 3) for match in found if match}
    assert re.search(r":[\w.-]+$", tag)
    assert digest


@pytest.mark.parametrize("name", NAMES)
def test_an_image_has_what_its_build_made_and_no_more(name: str) -> None:
    assert STAGES[name][0] == "runtime"
    assert STAGES[f"{name}-build"][0] == "build"
    assert STAGES["build"][0] == STAGES["runtime"][0] == "${BASE}"
    [user] = instructions("runtime", "USER")
    assert re.fullmatch("[1-9][0-9]*:[1-9][0-9]*", user)  # Kubernetes must see that it is not root
    # The exec form: a shell in front of it would keep SIGTERM to itself.
    assert instructions(name, "ENTRYPOINT") == [f'["python", "-m", "{name}"]']
    assert all(line.startswith(f"--from={name}-build /") for line in instructions(name, "COPY"))
    assert copied("runtime") == instructions(name, "RUN") == instructions(name, "USER") == []


@pytest.mark.parametrize("name", NAMES)
def test_the_umask_of_the_checkout_is_no_matter(name: str) -> None:
    """Engines keep the modes of files, and after ``umask 077`` only root could read them."""
    to = {line.split()[-1] for line in instructions(f"{name}-build", "COPY")} - {"./"}
    [opened] = [run for run in instructions(f"{name}-build", "RUN") if run.startswith("chmod ")]
    places = opened.partition(" && ")[0].split()
    assert places[:3] == ["chmod", "-R", "go=rX"]
    assert {f"/{Path(path).parts[1]}" for path in to} == {*places[3:]}
    assert {line.split()[-1] for line in instructions(name, "COPY")} == {"/venv", *places[3:]}
    # Python gives a compiled module the mode of its source.
    assert "compileall" in opened.partition(" && ")[2]


def test_only_what_is_copied_reaches_the_engine() -> None:
    patterns = (ROOT / ".dockerignore").read_text().splitlines()
    context = {Path(path) for path in exclude_paths(str(ROOT), patterns)}
    wanted = {Path(path) for stage in STAGES for path in copied(stage)}
    files = {path for path in context if (ROOT / path).is_file()}
    for path in wanted:
        assert any(found == path or path in found.parents for found in files), path
    for found in files - {Path(".dockerignore")}:  # always sent
        assert found in wanted or any(path in wanted for path in found.parents), found
        assert found.suffix != ".pyc"


def test_only_what_computes_has_torch() -> None:
    found = {name for name in NAMES if "torch" in closure(requirements(name))}
    assert found == {"predictor", "training"}
    assert "kserve" not in closure(requirements("rollout"))


def test_the_lists_ask_for_what_the_project_does() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    drivers = named(extras["s3"] + extras["gcs"] + extras["azure"])
    serving = named(project["dependencies"] + extras["tracing"])
    for name in ("predictor", "rollout", "transformer"):
        assert requirements(name) <= serving
    assert drivers | named(extras["training"]) <= requirements("training")


@pytest.mark.parametrize("name", NAMES)
def test_what_is_taken_out_would_be_there(name: str) -> None:
    assert taken_out(name) - {"pip", "setuptools"} <= closure(requirements(name))


@pytest.fixture
def inside(tmp_path: Path) -> Callable[..., dict[str, str]]:
    """An environment in which only what an image has can be imported."""

    def environment(name: str, *lacking: str) -> dict[str, str]:
        present = closure(requirements(name)) - taken_out(name) - {*lacking}
        absent = (
            REMOVED_MODULES
            | left_out(name)
            | {
                module
                for module, owners in packages_distributions().items()
                if not named(owners) & (present | {"mnist-kserve"})
            }
        )
        (tmp_path / "sitecustomize.py").write_text(
            "import os, sys\n"
            f"absent = {absent!r}\n"
            "class Finder:\n"
            "    def find_spec(self, name, path=None, target=None):\n"
            "        folders = [f'{parent}/tests' for parent in path or ()]\n"
            "        tests = name.endswith('.tests') and any(map(os.path.isdir, folders))\n"
            "        if tests or name in absent:\n"
            "            raise ModuleNotFoundError(f'no module {name} in the image', name=name)\n"
            "sys.meta_path.insert(0, Finder())\n"
        )
        return {"PYTHONPATH": str(tmp_path), "MODEL_VERSION": "1"}

    return environment


def test_the_programs_serve_with_what_is_in_the_images(
    tmp_path: Path, inside: Callable[..., dict[str, str]]
) -> None:
    models = "--models_dir=models"
    env = inside("predictor")
    with programs.program("predictor", tmp_path, models, env=env) as predictor:
        predictor.wait_for("/v2/models/mnist/ready")
        there = f"--predictor_host=127.0.0.1:{predictor.http_port}"
        env = inside("transformer")
        with programs.program("transformer", tmp_path, there, env=env) as transformer:
            transformer.wait_for("/")
            seven = (ROOT / "docs/seven.png").read_bytes()
            answer = httpx.post(f"{transformer.url}/predict", files={"images": seven})
            assert answer.json()["predictions"][0]["digit"] == 7


@pytest.mark.parametrize(
    ("name", "needed"),
    [
        ("predictor", "numpy"),
        ("rollout", "kubernetes"),
        ("rollout", "scipy"),
        ("transformer", "httptools"),
        ("transformer", "fastapi"),
    ],
)
def test_a_program_does_not_start_without_what_it_needs(
    name: str, needed: str, inside: Callable[..., dict[str, str]]
) -> None:
    done = python(inside(name, needed), "-m", name, "--help")
    assert done.returncode == 1
    assert "in the image" in done.stderr


@pytest.mark.parametrize("network", ["folded", "varied"])
def test_versions_are_loaded_with_what_is_in_the_image(
    tmp_path: Path, inside: Callable[..., dict[str, str]], network: str
) -> None:
    """By ONNX Runtime, and by torch."""
    versions.write(tmp_path / "3", export(versions.served(network)))
    program = "import sys, pathlib, predictor.artifact as a; a.load(pathlib.Path(sys.argv[1]))"
    done = python(inside("predictor"), "-c", program, str(tmp_path / "3"))
    assert done.returncode == 0, done.stderr


def test_a_canary_can_be_watched_with_what_is_in_the_image(
    tmp_path: Path, inside: Callable[..., dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    with releases.world(tmp_path, monkeypatch) as world:
        assert world.start() == 0
        flags = (f"--server={world.server}", "--namespace=default")
        done = python(inside("rollout"), "-m", "rollout", *flags, "check")
    # Nothing was counted yet, but all that it takes to count has been there.
    assert (done.returncode, done.stderr.splitlines()) == (5, []), done.stderr


def test_training_starts_with_what_is_in_its_image(
    inside: Callable[..., dict[str, str]],
) -> None:
    modules = [f"training.{path.stem}" for path in (ROOT / "training").glob("[a-z]*.py")]
    program = f"import fsspec, {', '.join(modules)}; fsspec.get_filesystem_class('s3')"
    done = python(inside("training"), "-c", program)
    assert done.returncode == 0, done.stderr


def python(env: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT, env=env, capture_output=True, text=True, check=False,
    )  # fmt: skip
