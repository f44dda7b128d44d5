"""Release versions of the service: ``python -m rollout --help``."""

import os
import signal
import sys

from serving.start import interruptible_imports

with interruptible_imports(__name__):  # they take seconds
    import argparse
    import io
    import json
    import time
    from collections.abc import Callable, Sequence
    from contextlib import suppress

    import yaml

    from rollout import canary, deploy, release, show
    from rollout.api import API
    from rollout.cluster import Cluster
    from rollout.decision import Verdict, judge
    from rollout.errors import NoEvidence, Refused, RolloutError
    from rollout.evidence import Evidence
    from rollout.flags import parse, plan
    from rollout.progress import End, Progress, next_patch
    from rollout.record import Record
    from rollout.source import Pods, Prometheus, Source, begin, look
    from rollout.template import Object, with_image, with_version
    from rollout.version import find

REFUSED, ROLLED_BACK, INCONCLUSIVE = 3, 4, 5
BROKEN_PIPE = 141
"""The status that shells give for SIGPIPE."""
ENDS = {End.PROMOTED: 0, End.ROLLED_BACK: ROLLED_BACK, End.INCONCLUSIVE: INCONCLUSIVE}
VERDICTS = {Verdict.HEALTHY: 0, Verdict.BAD: ROLLED_BACK, Verdict.HOLD: INCONCLUSIVE}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status."""
    args = parse(arguments)
    try:
        status = COMMANDS[args.command](args) or 0
        print(end="", flush=True)
        return status
    except BrokenPipeError:  # nobody reads on, as with "| head"
        os._exit(BROKEN_PIPE)
    except (RolloutError, OSError, ValueError) as error:
        print(f"rollout: {error}", file=sys.stderr)
        return REFUSED if isinstance(error, Refused) else 1
    except KeyboardInterrupt:
        print("rollout: stopped; what was done stays as it is, see status", file=sys.stderr)
        return 130


def say(text: str) -> None:
    """Report progress on stderr; stdout is for the output of the command."""
    print(f"rollout: {text}", file=sys.stderr, flush=True)


def connect(args: argparse.Namespace) -> API:
    """Return the API of the service that the flags name."""
    return API(args.service, args.namespace, context=args.context, server=args.server)


def source_of(args: argparse.Namespace, api: API) -> Source:
    """Return where to read the evidence: Prometheus or the pods themselves."""
    if args.prometheus:
        return Prometheus(args.prometheus, api.namespace, api.name)
    return Pods(api)


def target(args: argparse.Namespace, template: Object) -> Object:
    """Return ``template`` with the version and image that the flags give."""
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
    return template


def run_start(args: argparse.Namespace) -> None:
    """Start a canary and wait until it gets its traffic."""
    api = connect(args)
    service = api.service()
    template = target(args, canary.read(service, args.component).template)
    if args.dry_run:
        preview(api, canary.start(service, args.component, template, args.percent))
        return
    begun = release.start(api, service, args.component, template, args.percent, say)
    release.wait_until_ready(api, args.component, timeout=args.timeout, say=say)
    evidence = Evidence(slow=args.slow)
    try:
        begin(source_of(args, api), evidence, canary.read(api.service(), args.component))
    except NoEvidence as error:
        say(f"no evidence is taken: {error}")
        return

    def remember(record: Record) -> None:
        if found := record.current(begun):
            found.evidence = evidence

    api.update(remember)


def run_run(args: argparse.Namespace) -> int:
    """Start a canary, or continue one, and take it to its end; returns the exit status."""
    api = connect(args)
    wanted = plan(args)
    service = api.service()
    running = canary.running(service)
    record = api.record()
    unfinished = record.release if running is None else None
    if unfinished and not unfinished.is_of(service["metadata"]["uid"]):
        unfinished = None
    found = record.release_of(running)
    if running and found and found.why_back(running):
        pass  # a run or an abort was stopped on the way back: finish it
    elif args.version or args.image:
        live = canary.read(service, args.component)
        template = target(args, live.template)
        if template != live.template and not (unfinished and unfinished.condemns(template)):
            if last := record.rolled_back(template):
                say(
                    f"{last.canary} was taken back at {last.time:%Y-%m-%d %H:%M:%S} UTC"
                    f" ({last.reason}). To try it again all the same, start it first"
                )
                return ROLLED_BACK
            percent = wanted.steps[0]
            if args.dry_run:
                preview(api, canary.start(service, args.component, template, percent))
                return 0
            release.start(api, service, args.component, template, percent, say)
        elif running and running.name != args.component:
            say(f"the {args.component} runs this already; the canary is one of the {running.name}")
            return 0
        elif not running and not unfinished and live.is_settled:
            say(f"the {args.component} runs this already, and has all of the traffic")
            return 0
    elif running is None and unfinished is None:
        raise Refused("no canary is running: give the version to release")
    if args.dry_run:
        preview(api, next_patch(service, record, wanted) if running else None)
        return 0
    progress = Progress(api, source_of(args, api), wanted, say)
    return ENDS[progress.run()]


def run_approve(args: argparse.Namespace) -> None:
    """Let a canary go beyond its present percent."""
    api = connect(args)
    service = api.service()
    live, found = api.record().under_way(service)
    percent = live.percent or 0

    def approve(record: Record) -> None:
        current = record.current(found)
        if current is None:
            raise Refused(f"{found.canary} has ended meanwhile: see history")
        current.approved = percent
        record.note("approved", current, percent, args.reason)

    api.update(approve)
    api.announce(service, "CanaryApproved", f"{found.canary} may get more than {percent} %")
    say(f"{found.canary} may get more than {percent} %")


def run_check(args: argparse.Namespace) -> int:
    """Judge the evidence so far; returns the exit status."""
    api = connect(args)
    live, found = api.record().under_way(api.service())
    evidence = found.evidence_of(live)
    if evidence is None:
        raise NoEvidence(
            f"no evidence has been taken since {found.canary} got {live.percent} %: run takes it"
        )
    is_seen = False
    try:
        is_seen = look(api, source_of(args, api), evidence, live)
    except NoEvidence as error:
        say(f"{error}. This is what was recorded at last")
    decision = judge(evidence.steps(), alpha=args.alpha, minimum=args.minimum, labels=args.labels)
    verdict = decision.verdict
    if verdict is Verdict.HEALTHY and not is_seen:
        verdict = Verdict.HOLD
    print("\n".join([*decision.lines, f"{found.canary}: {verdict.value}"]))
    return VERDICTS[verdict]


def run_promote(args: argparse.Namespace) -> None:
    """Promote the canary."""
    api = connect(args)
    if args.dry_run:
        preview(api, canary.promote(api.service()))
    else:
        release.promote(api, api.service(), timeout=args.timeout, say=say)


def run_abort(args: argparse.Namespace) -> None:
    """Take the canary back."""
    api = connect(args)
    if args.dry_run:
        preview(api, release.next_of_abort(api.service(), api.record()))
    else:
        release.abort(api, reason=args.reason, timeout=args.timeout, say=say)


def run_status(args: argparse.Namespace) -> None:
    """Print the state, once or whenever it changes."""
    api = connect(args)
    source = source_of(args, api)
    shown = None
    while True:
        service, record = api.service(), api.record()
        found = show.state(service, record, recent(api, source, service, record))
        if found != shown:
            shown = found
            print(json.dumps(found) if args.json else show.table(found), flush=True)
        if not args.watch:
            return
        time.sleep(release.INTERVAL)


def recent(api: API, source: Source, service: Object, record: Record) -> Evidence | None:
    """Return the evidence read now, or as last recorded if it cannot be read.

    ``None`` if no canary is running, or no evidence has been taken.
    """
    live = canary.running(service)
    found = record.release_of(live)
    if live is None or found is None:
        return None
    with suppress(NoEvidence, Refused):
        if evidence := found.evidence_of(live):
            look(api, source, evidence, live)
    return found.evidence


def run_history(args: argparse.Namespace) -> None:
    """Print the history."""
    record = connect(args).record()
    if args.json:
        print(json.dumps([entry.model_dump(mode="json") for entry in record.history]))
    else:
        print(show.history(record))


def preview(api: API, change: Object | None) -> None:
    """Print a patch after the API server has accepted it in a dry run."""
    if change is None:
        say("nothing to change at present")
        return
    api.patch(change, dry_run=True)
    print(yaml.safe_dump(change, sort_keys=False), end="")


def run_deploy(args: argparse.Namespace) -> None:
    """Apply an overlay, or print what would be applied."""
    made = deploy.apply(args.overlay, Cluster(args.context), dry_run=args.dry_run)
    if args.dry_run:
        print(yaml.safe_dump_all(made.objects, sort_keys=False), end="")
    say(made.summary)


COMMANDS: dict[str, Callable[[argparse.Namespace], int | None]] = {
    "deploy": run_deploy,
    "start": run_start,
    "run": run_run,
    "approve": run_approve,
    "check": run_check,
    "promote": run_promote,
    "abort": run_abort,
    "status": run_status,
    "history": run_history,
}


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a pod is stopped as by Ctrl-C
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # Windows has no arrows in its files
    sys.exit(main())
