"""``python3 -m containers`` with engines and tools that only say what they were asked to do."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from containers.__main__ import BASE, NAMES, PINNED
from tests.programs import ROOT

DIGEST = "sha256:" + "0123456789abcdef" * 4
REPOSITORY = "ghcr.io/owner/mnist-kserve-"
GOOD = 'case "$1" in version) echo 1;; *) echo "$name $*" >> "$LOG";; esac\n'
BY_FILE = """
for argument in "$@"; do
    case "$argument" in --digestfile=*) echo "$DIGEST" > "${argument#*=}";; esac
done
"""
FAKES = {
    "docker": 'if [ "$2" = inspect ]; then echo "$REPO_DIGESTS"; exit; fi\n' + GOOD,
    "podman": GOOD + BY_FILE,
    "buildah": GOOD + BY_FILE,
    "git": 'case "$1" in rev-parse) echo 1234567890;; describe) echo 1234567;; esac\n',
    "trivy": GOOD,
    "cosign": GOOD,
    "skopeo": 'echo "$DIGEST"\n',
}


class Bench:
    """A copy of the containers' folder, and a PATH with the fakes alone."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        shutil.copytree(ROOT / "containers", folder / "containers")
        shutil.copy(ROOT / ".gitlab-ci.yml", folder)
        (folder / "bin").mkdir()
        self.log = folder / "log"

    def install(self, *tools: str, **others: str) -> None:
        for name, script in {**{tool: FAKES[tool] for tool in tools}, **others}.items():
            path = self.folder / "bin" / name
            path.write_text(f"#!/bin/sh\nname={name}\n{script}")
            path.chmod(0o755)

    def run(self, command: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Without site packages, as on a machine that has none."""
        known = {"PATH": str(self.folder / "bin"), "LOG": str(self.log), "DIGEST": DIGEST}
        return subprocess.run(
            [sys.executable, "-S", "-m", "containers", command],
            cwd=self.folder, env=known | env, capture_output=True, text=True, check=False,
        )  # fmt: skip

    def asked(self) -> list[str]:
        """What the tools were asked to do."""
        return self.log.read_text().splitlines() if self.log.exists() else []


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_build_makes_all_of_them(bench: Bench) -> None:
    bench.install("git", "docker")
    done = bench.run("build", SOURCE="https://example.com/it", BUILD_ARGS="--pull --label 'a=b c'")
    assert done.returncode == 0, done.stderr
    assert bench.asked() == [
        f"docker build --file containers/Dockerfile --target {name} "
        f"--tag mnist-kserve-{name}:1234567 "
        f"--label=org.opencontainers.image.title=mnist-kserve-{name} "
        "--label=org.opencontainers.image.licenses=Apache-2.0 "
        "--label=org.opencontainers.image.revision=1234567890 "
        "--label=org.opencontainers.image.source=https://example.com/it "
        "--label=org.opencontainers.image.version=1234567 --pull --label a=b c ."
        for name in NAMES
    ]


def test_registry_and_tag_name_them(bench: Bench) -> None:
    bench.install("git", "podman")
    bench.run("build", REGISTRY="ghcr.io/Owner/", TAG="1.0.0")
    assert f"--tag {REPOSITORY}predictor:1.0.0 " in bench.asked()[0]


@pytest.mark.parametrize(
    ("installed", "wanted", "taken"),
    [
        (("docker", "podman", "buildah"), "", "docker"),
        (("podman", "buildah"), "", "podman"),
        (("docker", "podman", "buildah"), "buildah", "buildah"),
    ],
)
def test_the_engine_is_the_first_or_the_one_wanted(
    bench: Bench, installed: tuple[str, ...], wanted: str, taken: str
) -> None:
    bench.install("git", *installed)
    bench.run("build", ENGINE=wanted)
    assert {line.split()[0] for line in bench.asked()} == {taken}


def test_an_engine_without_its_daemon_is_passed_over(bench: Bench) -> None:
    bench.install("git", "buildah", docker="echo cannot connect >&2; exit 1\n")
    bench.run("build")
    assert bench.asked()[0].startswith("buildah build ")


@pytest.mark.parametrize("engine", ["docker", "podman", "buildah"])
def test_push_writes_the_digests_of_the_registry(bench: Bench, engine: str) -> None:
    bench.install("git", engine)
    others = [f"elsewhere/mnist-kserve-{name}@sha256:{'f' * 64}" for name in NAMES]
    here = [f"{REPOSITORY}{name}@{DIGEST}" for name in NAMES]
    repo_digests = str(others + here).replace("'", '"')
    done = bench.run("push", REGISTRY="ghcr.io/owner", TAG="1", REPO_DIGESTS=repo_digests)
    assert done.returncode == 0, done.stderr
    assert (bench.folder / "build/images.env").read_text() == "".join(
        f"{name.upper()}_IMAGE={REPOSITORY}{name}@{DIGEST}\n" for name in NAMES
    )
    assert [line.split()[-1] for line in bench.asked()] == [f"{REPOSITORY}{n}:1" for n in NAMES]


@pytest.mark.parametrize("engine", ["docker", "podman", "buildah"])
def test_scan_reads_a_file_of_each_engine(bench: Bench, engine: str) -> None:
    bench.install("git", "trivy", engine)
    assert bench.run("scan", TAG="1").returncode == 0
    save, scan, *rest = bench.asked()
    assert save.startswith(f"{engine} {'push' if engine == 'buildah' else 'save'} ")
    assert "build/predictor.tar" in save
    assert scan == (
        "trivy image --scanners=vuln --severity=HIGH,CRITICAL --ignore-unfixed --exit-code=3 "
        "--input=build/predictor.tar"
    )
    assert len(rest) == 2 * (len(NAMES) - 1)


def test_scan_fails_on_what_it_finds_and_names_all(bench: Bench) -> None:
    bench.install("git", "docker", trivy='case "$*" in *transformer*) ;; *) exit 3;; esac\n')
    done = bench.run("scan")
    assert done.returncode == 1
    assert "scan: predictor, rollout, training: vulnerabilities" in done.stderr


def test_a_scan_that_breaks_is_no_finding(bench: Bench) -> None:
    bench.install("git", "docker", trivy="exit 1\n")
    done = bench.run("scan")
    assert done.returncode == 1
    assert "trivy ended with status 1" in done.stderr


def pushed(bench: Bench) -> None:
    (bench.folder / "build").mkdir()
    lines = [f"{name.upper()}_IMAGE={REPOSITORY}{name}@{DIGEST}\n" for name in NAMES]
    (bench.folder / "build/images.env").write_text("".join(lines))


@pytest.mark.parametrize(
    ("env", "key"),
    [
        ({"COSIGN_KEY": "azurekms://vault/key"}, " --key=azurekms://vault/key"),
        ({"SIGSTORE_ID_TOKEN": "made-up"}, ""),
        ({"ACTIONS_ID_TOKEN_REQUEST_URL": "https://example.com"}, ""),
    ],
)
def test_sign_takes_a_key_or_the_jobs_identity(bench: Bench, env: dict[str, str], key: str) -> None:
    bench.install("cosign", "trivy")
    pushed(bench)
    assert bench.run("sign", **env).returncode == 0
    image = f"{REPOSITORY}predictor@{DIGEST}"
    assert bench.asked()[:3] == [
        f"cosign sign --yes{key} {image}",
        f"trivy image --format=cyclonedx --output=build/predictor.cdx.json {image}",
        f"cosign attest --yes{key} --type=cyclonedx --predicate=build/predictor.cdx.json {image}",
    ]
    assert len(bench.asked()) == 3 * len(NAMES)


def test_pin_takes_the_digest_of_the_tag(bench: Bench) -> None:
    bench.install("skopeo")
    assert bench.run("pin").returncode == 0
    for path in PINNED:
        found = BASE.search((bench.folder / path).read_text())
        assert found
        assert found[2].startswith("docker.io/library/python:")
        assert found[3] == f"@{DIGEST}"


@pytest.mark.parametrize(
    ("command", "tools", "env", "said"),
    [
        ("build", ("git",), {}, "podman is not installed"),
        ("build", ("git",), {"ENGINE": "buildah"}, "buildah is not installed"),
        ("build", ("git",), {"ENGINE": "lxc"}, "it may be docker, podman, buildah"),
        ("build", ("docker",), {}, "set TAG"),
        ("build", ("docker",), {"TAG": "1"}, "No such file or directory: 'git'"),
        ("push", ("git", "docker"), {}, "REGISTRY is not set"),
        ("scan", ("git", "docker"), {}, "trivy is not installed"),
        ("sign", (), {}, "cosign is not installed"),
        ("sign", ("cosign", "trivy"), {}, "push first"),
        ("pin", (), {}, "skopeo is not installed"),
    ],
)
def test_what_is_missing_is_named(
    bench: Bench, command: str, tools: tuple[str, ...], env: dict[str, str], said: str
) -> None:
    bench.install(*tools)
    done = bench.run(command, **env)
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert bench.asked() == []


def test_a_job_without_identity_or_key_signs_nothing(bench: Bench) -> None:
    bench.install("cosign", "trivy")
    pushed(bench)
    done = bench.run("sign")
    assert (done.returncode, bench.asked()) == (1, [])
    assert "set COSIGN_KEY" in done.stderr


def test_a_build_that_fails_ends_the_work(bench: Bench) -> None:
    bench.install("git", docker=GOOD + '[ "$1" = version ] || exit 7\n')
    done = bench.run("build")
    assert done.returncode == 1
    assert "docker ended with status 7" in done.stderr
    assert len(bench.asked()) == 1


def test_push_without_a_digest_writes_nothing(bench: Bench) -> None:
    bench.install("git", "docker")
    done = bench.run("push", REGISTRY="ghcr.io/owner", REPO_DIGESTS="[]")
    assert done.returncode == 1
    assert "no digest" in done.stderr
    assert not (bench.folder / "build/images.env").exists()
