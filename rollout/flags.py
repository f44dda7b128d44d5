"""The command line of ``python -m rollout``."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rollout.canary import COMPONENTS
from rollout.decision import Labels
from rollout.evidence import SLOW
from rollout.progress import Plan

EXAMPLES = """\
examples:
  python -m rollout deploy manifests/overlays/production --dry-run
  python -m rollout --namespace=mnist run 2 --steps=5,25,100 --pause-at=25
  python -m rollout --namespace=mnist start 2 --percent=10
  python -m rollout --server=http://127.0.0.1:8001 status --watch    # what `make serve` runs
  python -m rollout check
  python -m rollout promote
  python -m rollout abort --reason="slower than version 1"

exit status: 0 done, or promoted; 1 not done (the message says why and what state things are in);
2 wrong flags; 3 refused, since it would disturb a release; 4 rolled back, or to be; 5 inconclusive
"""

Run = Callable[[argparse.Namespace], int | None]


def parse(runs: Mapping[str, Run], arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line; ``runs`` has what each command does."""
    parser = argparse.ArgumentParser(
        prog="python -m rollout",
        description="Release versions of the service.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--service", default="mnist", help="the InferenceService (default: mnist)")
    parser.add_argument("--namespace", help="of the service, if not that of the context")
    parser.add_argument("--context", help="of the kubeconfig, if not the current one")
    parser.add_argument("--server", help="the API server, in place of a kubeconfig")
    parser.add_argument(
        "--prometheus", metavar="URL", help="read evidence there, in place of the pods themselves"
    )
    commands = parser.add_subparsers(dest="command", required=True)

    def add(name: str, summary: str) -> argparse.ArgumentParser:
        command = commands.add_parser(
            name,
            help=summary,
            description=summary,
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        )
        command.set_defaults(run=runs[name])
        return command

    deploying = add("deploy", "apply an overlay; what it changes becomes a canary")
    deploying.add_argument("overlay", help="directory with a kustomization.yaml")
    # Here too, since pipelines give it after the command.
    deploying.add_argument("--context", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    deploying.add_argument(
        "--dry-run", action="store_true", help="print what would be applied, and change nothing"
    )

    starting = add("start", "send a share of the traffic to another version or image")
    _add_target(starting)
    starting.add_argument("--percent", type=share, required=True, help="1 to 99")
    _add_slow(starting)
    _add_common(starting)

    running = add("run", "take a canary step by step to all of the traffic, or back")
    _add_target(running)
    _add_plan(running)
    _add_common(running)

    approving = add("approve", "let a canary go on that run has paused")
    approving.add_argument("--reason", default="", help="for the history")

    checking = add("check", "judge the evidence so far, and change nothing")
    _add_decision(checking)

    _add_common(add("promote", "give the canary all the traffic"))

    aborting = add("abort", "take the canary back, so that it never serves again")
    aborting.add_argument("--reason", default="", help="for the history")
    _add_common(aborting)

    showing = add("status", "show versions, revisions, wanted and observed split, and evidence")
    showing.add_argument("--json", action="store_true", help="for a program")
    showing.add_argument("--watch", action="store_true", help="again whenever it changes")

    telling = add("history", "show who released what, when, and on which evidence")
    telling.add_argument("--json", action="store_true", help="for a program")
    args = parser.parse_args(arguments)
    if args.command == "run" and (unknown := set(args.pause_at) - set(args.steps)):
        running.error(f"argument --pause-at: {min(unknown)} is none of the --steps")
    return args


def plan(args: argparse.Namespace) -> Plan:
    """The plan that the flags of ``run`` give."""
    return Plan(
        steps=args.steps,
        pause_at=frozenset(args.pause_at),
        warm_up=args.warm_up,
        step_time=args.step_time,
        max_time=args.max_time,
        poll=args.poll,
        timeout=args.timeout,
        minimum=args.minimum,
        alpha=args.alpha,
        slow=args.slow,
    )


def _add_target(command: argparse.ArgumentParser) -> None:
    command.add_argument("version", nargs="?", help="a number, or the URI of one in a store")
    command.add_argument("--image", help="another image, in place of another version or with it")
    command.add_argument("--component", default="predictor", choices=COMPONENTS, help="the side")
    command.add_argument("--digest", help="SHA-256 of the version's model.json")
    command.add_argument(
        "--models-dir",
        type=Path,
        default=Path("models"),
        help="where the versions in the image lie on this machine",
    )


def _add_plan(command: argparse.ArgumentParser) -> None:
    preset = Plan(steps=(5, 10, 25, 50, 100))
    command.add_argument(
        "--steps",
        type=ascending,
        default=preset.steps,
        metavar="PERCENT,…",
        help="the shares of the canary, the last one 100",
    )
    command.add_argument(
        "--pause-at",
        type=shares,
        default=(),
        metavar="PERCENT,…",
        help="steps after which a person must approve",
    )
    for name, summary in (
        ("warm-up", "seconds from when the traffic is split until it counts"),
        ("step-time", "seconds that a step takes at least"),
        ("max-time", "seconds that a step may take without a decision"),
        ("poll", "seconds between two looks"),
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
        help="seconds above which an answer is slow",
    )


def _add_decision(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--alpha",
        type=probability,
        default=Plan.alpha,
        help="probability that a canary which is no worse is ever taken back",
    )
    command.add_argument(
        "--minimum",
        type=int,
        default=Plan.minimum,
        help="calls that the canary must have answered in a step: enough to see that it is broken,"
        " not that it is a little worse (docs/decisions/evidence.md)",
    )
    command.add_argument(
        "--labels",
        type=labels,
        metavar="STABLE:CANARY",
        help="of labelled images on which the versions disagree, how many each has right",
    )


def _add_common(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--dry-run", action="store_true", help="print the patch, and change nothing"
    )
    command.add_argument("--timeout", type=int, default=Plan.timeout, help="seconds to wait")


def share(text: str) -> int:
    """A percent that splits the traffic."""
    number = int(text)
    if not 1 <= number <= 99:
        raise argparse.ArgumentTypeError("must be 1 to 99")
    return number


def shares(text: str) -> tuple[int, ...]:
    """Percentages, with commas between them."""
    return tuple(share(each) for each in text.split(","))


def ascending(text: str) -> tuple[int, ...]:
    """The steps of a plan."""
    *first, last = (int(each) for each in text.split(","))
    found = (*first, last)
    if last != 100 or not first or found[0] < 1 or list(found) != sorted(set(found)):
        raise argparse.ArgumentTypeError("must ascend to 100, such as 5,25,100")
    return found


def seconds(text: str) -> float:
    """A time that is not negative."""
    number = float(text)
    if not number >= 0:
        raise argparse.ArgumentTypeError("must be at least 0")
    return number


def probability(text: str) -> float:
    """A number between 0 and 1."""
    number = float(text)
    if not 0 < number < 1:
        raise argparse.ArgumentTypeError("must be between 0 and 1")
    return number


def labels(text: str) -> Labels:
    """How many labelled disagreements each version has right."""
    stable, canary = (int(each) for each in text.split(":"))
    if stable < 0 or canary < 0:
        raise argparse.ArgumentTypeError("must not be negative")
    return Labels(stable, canary)
