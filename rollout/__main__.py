"""Release versions of the service: ``python -m rollout --help``."""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import yaml

from rollout import canary, deploy, release, show
from rollout.api import API
from rollout.cluster import Cluster, render
from rollout.errors import Refused, RolloutError
from rollout.template import Object, with_image, with_version
from rollout.version import find

EXAMPLES = """\
examples:
  python -m rollout deploy manifests/overlays/production --dry-run
  python -m rollout --namespace=mnist start 2 --percent=10
  python -m rollout --server=http://127.0.0.1:8001 status --watch    # what `make serve` runs
  python -m rollout promote
  python -m rollout abort --reason="slower than version 1"

exit status: 0 done, 1 not done (the message says why and what state things are in), 2 wrong flags,
3 refused, since it would disturb a release
"""

REFUSED = 3


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
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
    commands = parser.add_subparsers(dest="command", required=True)

    def add(name: str, run: Run, summary: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=summary, description=summary)
        command.set_defaults(run=run)
        return command

    def add_common(command: argparse.ArgumentParser) -> None:
        command.add_argument(
            "--dry-run", action="store_true", help="print the patch, and change nothing"
        )
        command.add_argument(
            "--timeout", type=int, default=600, help="seconds to wait (default: 600)"
        )

    deploying = add("deploy", run_deploy, "apply an overlay; what it changes becomes a canary")
    deploying.add_argument("overlay", help="directory with a kustomization.yaml")
    # Here too, since pipelines give it after the command.
    deploying.add_argument("--context", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    deploying.add_argument(
        "--dry-run", action="store_true", help="print what would be applied, and change nothing"
    )

    starting = add("start", run_start, "send a share of the traffic to another version or image")
    starting.add_argument("version", nargs="?", help="a number, or the URI of one in a store")
    starting.add_argument("--image", help="another image, in place of another version or with it")
    starting.add_argument("--component", default="predictor", choices=canary.COMPONENTS)
    starting.add_argument("--percent", type=share, required=True, help="1 to 99")
    starting.add_argument("--digest", help="SHA-256 of the version's model.json")
    starting.add_argument(
        "--models-dir",
        type=Path,
        default=Path("models"),
        help="where the versions in the image lie on this machine (default: models)",
    )
    add_common(starting)

    add_common(add("promote", run_promote, "give the canary all the traffic"))

    aborting = add("abort", run_abort, "take the canary back, so that it never serves again")
    aborting.add_argument("--reason", default="", help="for the history")
    add_common(aborting)

    showing = add("status", run_status, "show versions, revisions, wanted and observed split")
    showing.add_argument("--json", action="store_true", help="for a program")
    showing.add_argument("--watch", action="store_true", help="again whenever it changes")

    add("history", run_history, "show who released what, and when")
    return parser.parse_args(arguments)


Run = Callable[[argparse.Namespace], None]


def share(text: str) -> int:
    """A percent that splits the traffic."""
    number = int(text)
    if not 1 <= number <= 99:
        raise argparse.ArgumentTypeError("must be 1 to 99")
    return number


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    args = parse(arguments)
    try:
        args.run(args)
    except (RolloutError, ValueError) as error:
        print(f"rollout: {error}", file=sys.stderr)
        return REFUSED if isinstance(error, Refused) else 1
    except KeyboardInterrupt:
        print("rollout: stopped; what was done stays as it is, see status", file=sys.stderr)
        return 130
    return 0


def say(text: str) -> None:
    """Tell the user what happens; what the command is asked for goes to stdout."""
    print(f"rollout: {text}", file=sys.stderr, flush=True)


def connect(args: argparse.Namespace) -> API:
    """The service that the flags name."""
    return API(args.service, args.namespace, context=args.context, server=args.server)


def run_start(args: argparse.Namespace) -> None:
    """Open a canary."""
    api = connect(args)
    service = api.service()
    template = canary.read(service, args.component).template
    if args.version:
        if args.component != "predictor":
            raise Refused("a version of the model is the predictor's; give an --image")
        version = find(
            template,
            args.version,
            name=args.service,
            models_dir=args.models_dir,
            digest=args.digest,
        )
        template = with_version(template, version)
    if args.image:
        template = with_image(template, args.image)
    if args.dry_run:
        preview(api, canary.start(service, args.component, template, args.percent))
    else:
        release.start(
            api, service, args.component, template, args.percent, timeout=args.timeout, say=say
        )


def run_promote(args: argparse.Namespace) -> None:
    """End a canary with its success."""
    api = connect(args)
    if args.dry_run:
        preview(api, canary.promote(api.service()))
    else:
        release.promote(api, timeout=args.timeout, say=say)


def run_abort(args: argparse.Namespace) -> None:
    """End a canary with its removal."""
    api = connect(args)
    if args.dry_run:
        preview(api, release.next_of_abort(api.service(), api.record()))
    else:
        release.abort(api, reason=args.reason, timeout=args.timeout, say=say)


def run_status(args: argparse.Namespace) -> None:
    """Show the state, once or whenever it changes."""
    api = connect(args)
    shown = None
    while True:
        found = show.state(api.service(), api.record())
        if found != shown:
            shown = found
            print(json.dumps(found) if args.json else show.table(found), flush=True)
        if not args.watch:
            return
        time.sleep(release.INTERVAL)


def run_history(args: argparse.Namespace) -> None:
    """Show the history."""
    print(show.history(connect(args).record()))


def preview(api: API, change: Object | None) -> None:
    """Print a patch, once the API server has said that it would take it."""
    if change is None:
        say("nothing to change at present")
        return
    api.patch(change, dry_run=True)
    print(yaml.safe_dump(change, sort_keys=False), end="")


def run_deploy(args: argparse.Namespace) -> None:
    """Apply an overlay."""
    plan = apply_overlay(args.overlay, Cluster(args.context), dry_run=args.dry_run)
    if args.dry_run:
        print(yaml.safe_dump_all(plan.objects, sort_keys=False), end="")
    say(plan.summary)


def apply_overlay(overlay: str, cluster: Cluster, *, dry_run: bool) -> deploy.Plan:
    """Apply what ``deploy.plan`` finds; with ``dry_run`` only say it.

    Raises:
        ClusterError: ``kubectl`` failed.
        Refused: a canary is running, and would be replaced by another.
        ValueError: the overlay renders something else than a release of one InferenceService.
    """
    rendered = render(overlay)
    deploy.record(rendered)
    wanted = deploy.service(rendered)["metadata"]
    live = cluster.get("inferenceservice", wanted["name"], wanted["namespace"])
    if live is None:
        plan = deploy.Plan(rendered, "the service is new")
    else:
        found = cluster.get("configmap", deploy.RECORD, wanted["namespace"])
        recorded = found["data"] if found else {}
        kept = deploy.keep_released(rendered, live, recorded)
        (after,) = cluster.apply([deploy.service(kept)], dry_run=True)
        plan = deploy.plan(kept, live, after, recorded)
    if not dry_run:
        cluster.apply(_ordered(plan.objects))
    return plan


def _ordered(objects: list[Object]) -> list[Object]:
    """The InferenceService last: what its pods need is then there."""
    return sorted(objects, key=lambda each: each["kind"] == "InferenceService")


if __name__ == "__main__":
    sys.exit(main())
