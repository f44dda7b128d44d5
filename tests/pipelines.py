"""What the pipelines of the three CI systems must keep to: each rule gives its objections."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests import programs

Node = dict[str, Any]

STEPS = [
    "test", "lint", "audit", "images", "scan", "push", "sign",
    "deploy OVERLAY=development",
    "release OVERLAY=development",
    *["deploy OVERLAY=production", "release OVERLAY=production"] * 2,
]  # fmt: skip
"""The make targets of a release, in their order; the transformer goes after the predictor."""
WORKFLOWS = Path(".github/workflows")
GITLAB = Path(".gitlab-ci.yml")
AZURE = Path("azure-pipelines.yml")
DOCS = Path("docs/pipelines.md")
READ_BY_MAKE = {"COSIGN_KEY"}
"""Variables that no pipeline names, since a make target finds them in the environment."""
SECRET = re.compile(r"\$\{?(\w*(?:PASSWORD|TOKEN|SECRET|KEY))\b")
PRINTS = re.compile(r"\bset -\w*x|\bbash -\w*x|(?:^|[;&|]) *(?:print)?env *(?:$|[;&|>])")
"""Commands that print all variables, or each command with its arguments."""
LOGIN = re.compile(r'login .*--password-stdin .*<<< "\$\w+"')


@dataclass(frozen=True)
class Job:
    """What the three systems have in common."""

    name: str
    scripts: list[str]
    timeout: Any
    environment: str | None
    after: list[str]
    """The jobs, or stages, that it names as having to come before."""


def load(path: Path) -> Node:
    found: Node = yaml.safe_load(path.read_text(encoding="utf-8"))
    return found


def listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def github(root: Path, workflow: str = "cd.yml") -> list[Job]:
    """The jobs of a workflow; those of a workflow that it calls are in the caller's place."""
    found = []
    for name, job in load(root / WORKFLOWS / workflow)["jobs"].items():
        if "uses" in job:
            found += github(root, Path(job["uses"]).name)
            continue
        scripts = [step["run"] for step in job["steps"] if "run" in step]
        timeout, environment = job.get("timeout-minutes"), job.get("environment")
        found.append(Job(name, scripts, timeout, environment, listed(job.get("needs"))))
    return found


def gitlab(root: Path) -> list[Job]:
    pipeline = load(root / GITLAB)
    jobs = {
        name: job for name, job in pipeline.items() if isinstance(job, dict) and "script" in job
    }
    before = "\n".join(pipeline["default"]["before_script"])
    return [
        Job(
            name,
            [before, "\n".join(job["script"])],
            job.get("timeout"),
            job.get("environment", {}).get("name"),
            listed(job.get("needs")),
        )
        for stage in pipeline["stages"]
        for name, job in jobs.items()
        if job["stage"] == stage
    ]


def azure(root: Path) -> list[Job]:
    found = []
    for stage in load(root / AZURE)["stages"]:
        for job in stage["jobs"]:
            steps = job.get("steps") or job["strategy"]["runOnce"]["deploy"]["steps"]
            scripts = [
                step.get("bash") or step.get("inputs", {}).get("inlineScript") for step in steps
            ]
            found.append(
                Job(
                    job.get("job") or job["deployment"],
                    [script for script in scripts if script],
                    job.get("timeoutInMinutes"),
                    job.get("environment"),
                    listed(stage.get("dependsOn")),
                )
            )
    return found


PIPELINES = {"GitHub Actions": github, "GitLab CI/CD": gitlab, "Azure DevOps": azure}


def objections(root: Path) -> list[str]:
    """Everything that is wrong with the pipelines in the folder ``root``."""
    found = [*pinning(root), *permissions(root), *approval(root), *variables(root)]
    for system, read in PIPELINES.items():
        jobs = read(root)
        if system == "GitHub Actions":
            jobs += github(root, "e2e.yml")
        for rule in (steps, packages, timeouts, existence, secrecy):
            found += [f"{system}: {objection}" for objection in rule(jobs)]
    return found


def made(jobs: list[Job]) -> list[str]:
    """The calls of make, with the overlay that they are for."""
    calls = re.findall(
        r"\bmake ([a-z]\w*)(?:[^\S\n]+(OVERLAY=\w+))?",
        "\n".join(script for job in jobs for script in job.scripts),
    )
    return [" ".join(filter(None, call)) for call in calls]


def steps(jobs: list[Job]) -> Iterator[str]:
    """A release goes through the same steps in the same order everywhere."""
    release = made([job for job in jobs if job.name != "e2e"])
    if release != STEPS:
        yield f"its steps are {release}"


def packages(jobs: list[Job]) -> Iterator[str]:
    """Without these tests are skipped; runners that are not root have a browser and jq already."""
    (test,) = ["\n".join(job.scripts) for job in jobs if job.name == "test"]
    needed = {"faketime", "prometheus"}
    if "sudo" not in test:
        needed |= {"chromium", "chromium-driver", "jq"}
    if missing := needed - set(test.split()):
        yield f"the tests lack {sorted(missing)}"


def timeouts(jobs: list[Job]) -> Iterator[str]:
    yield from (f"{job.name} has no timeout" for job in jobs if not job.timeout)


def existence(jobs: list[Job]) -> Iterator[str]:
    """Targets and files that a script names, and that are not there."""
    makefile = (programs.ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]\w*):", makefile, re.MULTILINE))
    for call in made(jobs):
        target, _, overlay = call.partition(" OVERLAY=")
        if target not in targets:
            yield f"make has no target {target}"
        if overlay and not (programs.ROOT / "manifests/overlays" / overlay).is_dir():
            yield f"there is no overlay {overlay}"
    for job in jobs:
        for path in re.findall(r"(?<![\w/.$\"-])\.?[a-z]\w*/[\w./-]+", "\n".join(job.scripts)):
            if (
                not path.startswith(("build/", "dev.local/"))
                and not (programs.ROOT / path).exists()
            ):
                yield f"{job.name} names {path}, which does not exist"


def secrecy(jobs: list[Job]) -> Iterator[str]:
    """Secrets go to a login's standard input, and nowhere else."""
    for job in jobs:
        for line in "\n".join(job.scripts).splitlines():
            for name in SECRET.findall(LOGIN.sub("", line)):
                yield f"{job.name} may print {name}"
            if PRINTS.search(line):
                yield f"{job.name} prints what it should not: {line.strip()}"


def pinning(root: Path) -> Iterator[str]:
    """Actions are named by the SHA of a commit, with its version beside it, and all by the same."""
    known: dict[str, str] = {}
    for path in sorted((root / WORKFLOWS).iterdir()):
        for used in re.findall(r"uses: *(.+)", path.read_text(encoding="utf-8")):
            if used.startswith("./"):
                continue
            if not re.fullmatch(r"[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", used):
                yield f"{path.name}: {used} is not pinned by SHA and version"
            action, _, pin = used.partition("@")
            if known.setdefault(action, pin) != pin:
                yield f"{path.name}: {action} is pinned to {pin} and to {known[action]}"


def permissions(root: Path) -> Iterator[str]:
    """A workflow may read the code; a job asks for more if it needs more."""
    for path in sorted((root / WORKFLOWS).iterdir()):
        if load(path).get("permissions") != {"contents": "read"}:
            yield f"{path.name} may do more than read"


def approval(root: Path) -> Iterator[str]:
    """Nothing reaches production before development, nor before somebody has agreed.

    GitHub and Azure keep the approval with the environment.
    """
    for system, read in PIPELINES.items():
        (production,) = [job for job in read(root) if "deploy OVERLAY=production" in made([job])]
        if production.environment != "production":
            yield f"{system}: production needs no approval"
        if not {"development", "Deploy"} & set(production.after):
            yield f"{system}: production does not wait for development"
    job = load(root / GITLAB)["production"]
    if [rule.get("when") for rule in job["rules"]] != ["manual"] or job["allow_failure"]:
        yield "GitLab CI/CD: production needs no approval"
    for stage in load(root / AZURE)["stages"]:
        environments = [job.get("environment") for job in stage["jobs"]]
        if "production" in environments and len(environments) > 1:
            yield "Azure DevOps: other jobs wait for production's approval"


def read_variables(root: Path) -> dict[str, set[str]]:
    """The variables that each system's pipeline takes from its settings."""
    workflows = "".join(
        path.read_text(encoding="utf-8") for path in sorted((root / WORKFLOWS).iterdir())
    )
    gitlab_text = (root / GITLAB).read_text(encoding="utf-8")
    azure_text = (root / AZURE).read_text(encoding="utf-8")
    return {
        "GitHub Actions": set(re.findall(r"\b(?:vars|secrets)\.(\w+)", workflows)),
        # Those that describe the pipeline itself are always there.
        "GitLab CI/CD": set(re.findall(r"\$\{?((?!CI_(?!REGISTRY))[A-Z]\w+)", gitlab_text)),
        "Azure DevOps": set(re.findall(r"\$\((\w+)\)", azure_text))
        | set(re.findall(r"\$\{?((?!PIPELINE_)[A-Z]\w+)", azure_text)),
    }


def variables(root: Path) -> Iterator[str]:
    """The documentation has the variables that a pipeline reads, and no others."""
    text = (root / DOCS).read_text(encoding="utf-8")
    sections = {
        title.strip(): body for title, _, body in (s.partition("\n") for s in text.split("\n## "))
    }
    for system, names in read_variables(root).items():
        documented = set(re.findall(r"^\| `([A-Z_]+)`", sections.get(system, ""), re.MULTILINE))
        yield from (f"{system}: {name} is not documented" for name in sorted(names - documented))
        surplus = documented - names - READ_BY_MAKE
        yield from (f"{system}: {name} is documented, not read" for name in sorted(surplus))
