"""Release versions of the service: ``python -m rollout --help``."""

import argparse
import sys
from collections.abc import Sequence

import yaml

from rollout import deploy
from rollout.cluster import Cluster, ClusterError, Object, render

EXAMPLES = """\
examples:
  python -m rollout deploy manifests/overlays/development
  python -m rollout deploy manifests/overlays/production --dry-run

exit status: 0 done, 1 not done (the message says why), 2 wrong flags, 3 refused because a canary
is running
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
    commands = parser.add_subparsers(dest="command", required=True)
    summary = "apply an overlay; what it changes of the service becomes a canary"
    deploying = commands.add_parser("deploy", help=summary, description=summary)
    deploying.add_argument("overlay", help="directory with a kustomization.yaml")
    deploying.add_argument("--context", help="of the kubeconfig, if not the current one")
    deploying.add_argument(
        "--dry-run", action="store_true", help="print what would be applied, and change nothing"
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    args = parse(arguments)
    try:
        plan = apply_overlay(args.overlay, Cluster(args.context), dry_run=args.dry_run)
    except deploy.Refused as refusal:
        print(f"rollout: {refusal}", file=sys.stderr)
        return REFUSED
    except (ClusterError, ValueError) as error:
        print(f"rollout: {error}", file=sys.stderr)
        return 1
    if args.dry_run:
        print(yaml.safe_dump_all(plan.objects, sort_keys=False), end="")
    print(f"rollout: {plan.summary}", file=sys.stderr)
    return 0


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
