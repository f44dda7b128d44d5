"""Run the service on this machine, monitored by a Prometheus: ``python -m monitoring --help``."""

from serving.start import interruptible_imports

with interruptible_imports(__name__):
    import argparse
    import asyncio
    import os
    import shutil
    import sys
    import tempfile
    from contextlib import suppress
    from pathlib import Path

    import httpx

    from monitoring import dashboard, prometheus
    from standalone.address import LOOPBACK, check_free
    from standalone.processes import ProcessDied, Processes

EPILOG = """\
examples:
  python -m monitoring
  python -m monitoring --port=9091 -- --models_dir=models    # flags after -- are standalone's
"""
BANNER = """
Prometheus has started, too.

  Dashboard:  http://127.0.0.1:{port}/consoles/index.html
  Alerts:     http://127.0.0.1:{port}
  Grafana:    data source http://127.0.0.1:{port}, dashboard {dashboard}
"""
RATE_INTERVAL = 30
"""Seconds over which the page takes a rate; of longer looks four, as Grafana does."""
LONGEST = 60
"""Seconds between two looks: the rules' shortest window is five minutes."""


def main() -> int:
    """Run until Ctrl-C; returns the exit status."""
    flags = _flags()
    args = flags.parse_args()
    if any(flag.startswith("--api_port") for flag in args.standalone):
        flags.error("--api_port comes before the two dashes: it says where the targets are, too")
    if not shutil.which("prometheus"):
        print("monitoring: there is no `prometheus` here; see docs/monitoring.md", file=sys.stderr)
        return 1
    try:
        check_free(("--port", LOOPBACK, args.port), ("--api_port", LOOPBACK, args.api_port))
        asyncio.run(_run(args))
    except (OSError, ProcessDied) as error:
        print(f"monitoring: {error}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        print("monitoring: stopped")
    return 0


def _flags() -> argparse.ArgumentParser:
    flags = argparse.ArgumentParser(
        prog="python -m monitoring",
        description="Run the service on this machine, monitored by a Prometheus.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    flags.add_argument(
        "--port", type=int, default=9090, help="The port of Prometheus (%(default)s)."
    )
    flags.add_argument(
        "--api_port", type=int, default=8001, help="Standalone's port for kubectl (%(default)s)."
    )
    flags.add_argument(
        "--interval", type=seconds, default="5s", help="Time between two scrapes (%(default)s)."
    )
    flags.add_argument("standalone", nargs="*", help="Flags for python -m standalone.")
    return flags


def seconds(text: str) -> int:
    """An interval in Prometheus's spelling that leaves the rules something to go by."""
    number = text.removesuffix("s")
    if not number.isdecimal() or not 1 <= int(number) <= LONGEST:
        raise argparse.ArgumentTypeError(f"expected 1s to {LONGEST}s, got {text}")
    return int(number)


async def _run(args: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(prefix="monitoring-") as name:
        folder = Path(name)
        configuration = prometheus.write(folder, interval=f"{args.interval}s")
        rate = f"{max(RATE_INTERVAL, 4 * args.interval)}s"
        dashboard.write_console(folder, interval=rate)
        api = f"http://127.0.0.1:{args.api_port}"
        client = httpx.AsyncClient(base_url=api, trust_env=False)
        async with Processes() as processes, client:
            service = [sys.executable, "-m", "standalone", f"--api_port={args.api_port}"]
            await processes.start("service", *service, *args.standalone, env=os.environ)
            await processes.start(
                "prometheus",
                "prometheus",
                f"--config.file={configuration}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.console.templates={folder}",
                f"--web.listen-address={LOOPBACK}:{args.port}",
                "--log.level=warn",
                env=os.environ,
            )
            path = prometheus.COMPONENT / "dashboard.json"
            print(BANNER.format(port=args.port, dashboard=path), flush=True)
            while True:
                for process in ("service", "prometheus"):
                    if ended := processes.ended(process):
                        raise ProcessDied(f"{process} {ended}")
                # The API is not up yet, or another program has its port: the service will say so.
                with suppress(httpx.TransportError, ValueError, LookupError):
                    pods = await client.get("/api/v1/namespaces/default/pods")
                    prometheus.write_targets(folder, pods.json()["items"])
                await asyncio.sleep(1)


if __name__ == "__main__":
    sys.exit(main())
