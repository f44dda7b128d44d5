"""``python3 -m containers``: build, push, scan and sign the images, pin their base.

It needs only the standard library, since a CI runner has no virtual environment.
"""

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

NAMES = ("predictor", "transformer", "rollout", "training")
ENGINES = ("docker", "podman", "buildah")
BUILD = Path("build")
PUSHED = BUILD / "images.env"
DOCKERFILE = "containers/Dockerfile"
PINNED = (DOCKERFILE, ".gitlab-ci.yml")
"""The files that name the base image."""
BASE = re.compile(r"^(ARG BASE=|  image: )([^\s@]+)(@sha256:[0-9a-f]{64})?$", re.MULTILINE)
IDENTITIES = ("ACTIONS_ID_TOKEN_REQUEST_URL", "SIGSTORE_ID_TOKEN")
"""Variables from which cosign gets the identity that a CI system gives to a job."""

EPILOG = """\
variables:
  REGISTRY    where the images go, such as ghcr.io/owner; without it the names are local
  TAG         their tag; the default is git's short commit, with -dirty if files differ from it
  ENGINE      docker, podman or buildah; the default is the first of them that works
  BUILD_ARGS  further arguments of the engine's build, such as --build-arg BASE=IMAGE
  SOURCE      URL of the repository, for the images' labels
  COSIGN_KEY  key to sign with, where the job has no identity: a file, or azurekms://VAULT/KEY

examples:
  python3 -m containers build
  REGISTRY=ghcr.io/owner TAG=1.0.0 python3 -m containers push
"""


class Problem(Exception):
    """A command cannot be carried out; the message says why."""


def run(*command: str) -> None:
    """Run a command and show its output; raises Problem if it fails."""
    print(shlex.join(command), flush=True)
    status = subprocess.run(command, check=False).returncode  # noqa: S603
    if status:
        raise Problem(f"{command[0]} ended with status {status}")


def ask(*command: str) -> str:
    """What a command prints; raises Problem if it fails."""
    done = subprocess.run(command, check=False, capture_output=True, text=True)  # noqa: S603
    if done.returncode:
        raise Problem(f"{shlex.join(command)}: {done.stderr.strip()}")
    return done.stdout.strip()


def require(tool: str, where: str) -> None:
    """Raise Problem unless a tool is installed; ``where`` is the URL that says how."""
    if shutil.which(tool) is None:
        raise Problem(f"{tool} is not installed: see {where}")


class Images:
    """The images of one registry and tag, and the engine that handles them."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self._registry = environ.get("REGISTRY", "").rstrip("/").lower()
        self._tag = environ.get("TAG") or _commit()
        self.engine = _engine(environ.get("ENGINE", ""))

    def reference(self, name: str) -> str:
        """Registry, name and tag of an image."""
        return f"{self._repository(name)}:{self._tag}"

    def build(self) -> None:
        """Build all images."""
        labels = {
            "licenses": "Apache-2.0",
            "revision": ask("git", "rev-parse", "HEAD"),
            "source": self._environ.get("SOURCE", ""),
            "version": self._tag,
        }
        for name in NAMES:
            own = {"title": f"mnist-kserve-{name}", **labels}
            run(
                *(self.engine, "build", "--file", DOCKERFILE, "--target", name),
                *("--tag", self.reference(name)),
                *(f"--label=org.opencontainers.image.{key}={value}" for key, value in own.items()),
                *(*shlex.split(self._environ.get("BUILD_ARGS", "")), "."),
            )

    def push(self) -> None:
        """Push all images, then write their digests to ``build/images.env``."""
        if not self._registry:
            raise Problem("REGISTRY is not set: where shall the images go? Such as ghcr.io/owner")
        lines = [
            f"{name.upper()}_IMAGE={self._repository(name)}@{self._push(self.reference(name))}"
            for name in NAMES
        ]
        BUILD.mkdir(exist_ok=True)
        PUSHED.write_text("\n".join(lines) + "\n")
        print(f"{PUSHED}:", *lines, sep="\n")

    def scan(self) -> None:
        """Scan all images; raises Problem if there is a serious vulnerability with a fix."""
        require("trivy", "https://trivy.dev")
        BUILD.mkdir(exist_ok=True)
        vulnerable = []
        for name in NAMES:
            # Trivy reads images from a daemon or from a file, which every engine can write.
            archive = BUILD / f"{name}.tar"
            archive.unlink(missing_ok=True)
            try:
                self._save(self.reference(name), archive)
                run(
                    *("trivy", "image", "--scanners=vuln", "--severity=HIGH,CRITICAL"),
                    *("--ignore-unfixed", "--exit-code=3", f"--input={archive}"),
                )
            except Problem as problem:
                if str(problem) != "trivy ended with status 3":
                    raise
                vulnerable.append(name)
            finally:
                archive.unlink(missing_ok=True)
        if vulnerable:
            raise Problem(f"{', '.join(vulnerable)}: vulnerabilities with a known fix: update")

    def _push(self, reference: str) -> str:
        """Push an image; returns its digest in the registry."""
        if self.engine == "docker":
            run("docker", "push", reference)
            form = "{{json .RepoDigests}}"
            known = json.loads(ask("docker", "image", "inspect", "--format", form, reference))
            # Docker omits its own registry from the names.
            repository = reference.rpartition(":")[0].removeprefix("docker.io/")
            for found in known:
                if found.startswith(f"{repository}@"):
                    return str(found.partition("@")[2])
            raise Problem(f"docker names no digest of {reference}, only {known}")
        with TemporaryDirectory() as folder:
            digest = Path(folder, "digest")
            run(self.engine, "push", f"--digestfile={digest}", reference)
            return digest.read_text().strip()

    def _save(self, reference: str, archive: Path) -> None:
        if self.engine == "buildah":
            run("buildah", "push", reference, f"docker-archive:{archive}")
        else:
            run(self.engine, "save", f"--output={archive}", reference)

    def _repository(self, name: str) -> str:
        return f"{self._registry}/mnist-kserve-{name}".lstrip("/")


def sign(environ: Mapping[str, str]) -> None:
    """Sign the pushed images and attest what is in them; raises Problem if it cannot."""
    require("cosign", "https://docs.sigstore.dev/cosign/system_config/installation/")
    require("trivy", "https://trivy.dev")
    if not PUSHED.exists():
        raise Problem(f"there is no {PUSHED}: push first")
    key = environ.get("COSIGN_KEY")
    if not key and not any(environ.get(name) for name in IDENTITIES):
        raise Problem("this job has no identity to sign with: set COSIGN_KEY")
    how = ("--yes", *([f"--key={key}"] if key else []))
    for line in PUSHED.read_text().splitlines():
        name, _, image = line.partition("=")
        contents = BUILD / f"{name.removesuffix('_IMAGE').lower()}.cdx.json"
        run("cosign", "sign", *how, image)
        run("trivy", "image", "--format=cyclonedx", f"--output={contents}", image)
        run("cosign", "attest", *how, "--type=cyclonedx", f"--predicate={contents}", image)


def pin() -> None:
    """Write the current digest of the base image's tag into the files that name it."""
    require("skopeo", "https://github.com/containers/skopeo/blob/main/install.md")
    for path in map(Path, PINNED):
        content = path.read_text()
        found = BASE.search(content)
        if found is None:
            raise Problem(f"{path} names no image:tag to pin")
        base = found[2]
        digest = ask("skopeo", "inspect", "--format={{.Digest}}", f"docker://{base}")
        path.write_text(BASE.sub(rf"\g<1>{base}@{digest}", content))
        print(f"{path}: {base}@{digest}")


def _commit() -> str:
    try:
        return ask("git", "describe", "--always", "--dirty", "--exclude=*")
    except (OSError, Problem) as error:
        raise Problem(f"git names no commit ({error}): set TAG") from error


def _engine(wanted: str) -> str:
    if wanted and wanted not in ENGINES:
        raise Problem(f"ENGINE is {wanted!r}; it may be {', '.join(ENGINES)}")
    tried = []
    for engine in [wanted] if wanted else ENGINES:
        try:
            ask(engine, "version")  # docker's asks its daemon
        except FileNotFoundError:
            tried.append(f"{engine} is not installed")
        except Problem as problem:
            tried.append(str(problem))
        else:
            return engine
    raise Problem("no engine works: install and start one\n  " + "\n  ".join(tried))


def main() -> int:
    """Run one command; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python3 -m containers",
        description="Build, push, scan and sign the images, pin their base.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=("build", "push", "scan", "sign", "pin"))
    command = parser.parse_args().command
    try:
        if command == "pin":
            pin()
        elif command == "sign":
            sign(os.environ)
        else:
            getattr(Images(os.environ), command)()
    except (OSError, Problem) as problem:  # the former if git is missing, or a file is read-only
        print(f"python3 -m containers {command}: {problem}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
