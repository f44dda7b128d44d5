"""The command line of ``python -m rollout``."""

import argparse
import re
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from rollout.canary import COMPONENTS
from rollout.decision import Labels
from rollout.evidence import SLOW
from rollout.progress import Plan
from serving.numbers import natural, seconds

EXAMPLES = """\
examples:
  python -m rollout deploy manifests/overlays/production --dry-run
  python -m rollout --namespace=mnist run 2 --steps=5,25,100 --pause-at=25
  python -m rollout --namespace=mnist start 2 --percent=10
  python -m rollout --server=http://127.0.0.1:8001 status --watch    # what `make serve` runs
  python -m rollout check
  python -m rollout promote
  python -m rollout abort --reason="slower than version 1"

exit status: 0 done, promoted or healthy; 1 not done (the message says why and what state things
are in); 2 wrong flags; 3 refused, since it would disturb a release; 4 rolled back, or should be;
5 inconclusive
"""


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m rollout",
        description="Release versions of the service.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--service", default="mnist", help="the InferenceService (default: mnist)")
    parser.add_argument(
        "--namespace", help="namespace of the service (default: that of the context)"
    )
    parser.add_argument("--context", help="context of the kubeconfig (default: the current one)")
    parser.add_argument("--server", type=url, help="URL of the API server, instead of a kubeconfig")
    parser.add_argument(
        "--prometheus",
        type=url,
        metavar="URL",
        help="read the evidence from this Prometheus, not from the pods",
    )
    commands = parser.add_subparsers(dest="command", required=True)

    def add(name: str, summary: str) -> argparse.ArgumentParser:
        return commands.add_parser(
            name,
            help=summary,
            description=summary,
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        )

    deploying = add("deploy", "apply an overlay; what git has changed becomes a canary")
    deploying.add_argument("overlay", help="directory with a kustomization.yaml")
    # Accepted after the command too, where pipelines give it.
    deploying.add_argument("--context", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    deploying.add_argument(
        "--dry-run", action="store_true", help="print what would be applied and change nothing"
    )

    starting = add("start", "send a share of the traffic to another version or image")
    _add_target(starting)
    starting.add_argument(
        "--percent", type=share, required=True, help="share of the traffic, 1 to 99"
    )
    _add_slow(starting)
    _add_common(starting)

    running = add("run", "take a canary step by step to all of the traffic, or take it back")
    _add_target(running)
    _add_plan(running)
    _add_common(running)

    approving = add("approve", "let a canary that run has paused go on")
    approving.add_argument("--reason", default="", help="for the history")

    checking = add("check", "judge the evidence so far; change nothing")
    _add_decision(checking)

    _add_common(add("promote", "give the canary all of the traffic"))

    aborting = add("abort", "take the canary back to the stable version")
    aborting.add_argument("--reason", default="", help="for the history")
    _add_common(aborting)

    showing = add("status", "show versions, revisions, wanted and observed split, and evidence")
    showing.add_argument("--json", action="store_true", help="for a program")
    showing.add_argument("--watch", action="store_true", help="show it again whenever it changes")

    telling = add("history", "show who released what, when, and on what evidence")
    telling.add_argument("--json", action="store_true", help="for a program")
    args = parser.parse_args(arguments)
    if args.command == "run" and (unknown := set(args.pause_at) - set(args.steps)):
        running.error(f"argument --pause-at: {min(unknown)} is not one of the --steps")
    return args


def plan(args: argparse.Namespace) -> Plan:
    """Return the plan that the flags of ``run`` describe."""
    return Plan(**{field.name: getattr(args, field.name) for field in fields(Plan)})


def _add_target(command: argparse.ArgumentParser) -> None:
    command.add_argument("version", nargs="?", help="number of the version, or its URI in a store")
    command.add_argument("--image", help="image to release, instead of a version or with it")
    command.add_argument(
        "--component", default="predictor", choices=COMPONENTS, help="component to release"
    )
    command.add_argument("--digest", help="SHA-256 of the version's model.json")
    command.add_argument(
        "--models-dir",
        type=Path,
        default=Path("models"),
        help="directory on this machine with the versions that are in the image",
    )


def _add_plan(command: argparse.ArgumentParser) -> None:
    preset = Plan(steps=(5, 10, 25, 50, 100))
    command.add_argument(
        "--steps",
        type=ascending,
        default=preset.steps,
        metavar="PERCENT,…",
        help="shares of the traffic for the canary, ascending to 100",
    )
    command.add_argument(
        "--pause-at",
        type=shares,
        default=(),
        metavar="PERCENT,…",
        help="steps after which the command waits for approve",
    )
    for name, summary in (
        ("warm-up", "seconds after each split in which calls do not count"),
        ("step-time", "minimum seconds per step"),
        ("max-time", "seconds per step without a decision, then the command gives up"),
        ("poll", "seconds between two looks at the evidence"),
    ):
        default = getattr(preset, name.replace("-", "_"))
        command.add_argument(f"--{name}", type=seconds, default=default, help=summary)
    _add_slow(command)
    _add_decision(command)


def _add_slow(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--slow",
        type=float,
        default=Plan.slow,
        choices=SLOW,
        help="seconds above which an answer counts as slow",
    )


def _add_decision(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--alpha",
        type=probability,
        default=Plan.alpha,
        help="highest probability of ever taking back a canary that is no worse",
    )
    command.add_argument(
        "--minimum",
        type=natural,
        default=Plan.minimum,
        help="calls that the canary must answer per step: enough to see that it is broken, not that"
        " it is a little worse (docs/decisions/evidence.md)",
    )
    command.add_argument(
        "--labels",
        type=labels,
        metavar="STABLE:CANARY",
        help="of labelled images on which the versions disagree, how many each got right",
    )


def _add_common(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--dry-run", action="store_true", help="print the patch and change nothing"
    )
    command.add_argument(
        "--timeout", type=natural, default=Plan.timeout, help="seconds to wait for the cluster"
    )


def url(text: str) -> str:
    """Check that it begins as a URL does; clients say of others that nothing answers there."""
    if not text.startswith(("http://", "https://")):
        raise argparse.ArgumentTypeError("must begin with http:// or https://")
    return text


def share(text: str) -> int:
    """Parse a percent from 1 to 99."""
    number = int(text)
    if not 1 <= number <= 99:
        raise argparse.ArgumentTypeError("must be 1 to 99")
    return number


def shares(text: str) -> tuple[int, ...]:
    """Parse percentages from 1 to 99, separated by commas."""
    return tuple(share(each) for each in text.split(","))


def ascending(text: str) -> tuple[int, ...]:
    """Parse the steps of a plan: percentages that ascend to 100."""
    try:
        found = tuple(int(each) for each in text.split(","))
    except ValueError:
        found = ()
    if len(found) < 2 or found[0] < 1 or found[-1] != 100 or list(found) != sorted(set(found)):
        raise argparse.ArgumentTypeError("must ascend to 100, such as 5,25,100")
    return found


def probability(text: str) -> float:
    """Parse a number strictly between 0 and 1."""
    number = float(text)
    if not 0 < number < 1:
        raise argparse.ArgumentTypeError("must be between 0 and 1")
    return number


def labels(text: str) -> Labels:
    """Parse ``STABLE:CANARY``: how many labelled disagreements each version got right."""
    counts = re.fullmatch("([0-9]{1,9}):([0-9]{1,9})", text)
    if not counts:
        raise argparse.ArgumentTypeError("must be two counts, such as 12:7")
    return Labels(int(counts[1]), int(counts[2]))
