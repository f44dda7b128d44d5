"""Run the InferenceService on this machine: ``python -m standalone --help``."""

from serving.start import interruptible_imports

with interruptible_imports(__name__):
    import argparse
    import asyncio
    import importlib.util
    import io
    import logging
    import sys
    import tempfile
    from pathlib import Path

    from aiohttp import web

    from standalone.address import LOOPBACK, Address, check_free, ipv4
    from standalone.admission import admit_one
    from standalone.api import application
    from standalone.envoy import find_envoy
    from standalone.manifest import ManifestError, read_manifest
    from standalone.objects import APIError, Object, Objects
    from standalone.processes import ProcessDied
    from standalone.service import Service

EPILOG = """\
examples:
  python -m standalone
  python -m standalone --port=9000 --grpc_port=9001
  python -m standalone --host=0.0.0.0        # reachable from other machines
"""
BANNER = """
The service is ready.

  Draw a digit:   http://{host}:{http_port}/playground
  Send an image:  curl -F images=@docs/seven.png http://{host}:{http_port}/predict
  Call by gRPC:   {host}:{grpc_port}, V2 protocol, model '{name}'
  Release:        {release}{kafka}

Ctrl-C stops it.
"""
RELEASE = "kubectl --server=http://127.0.0.1:{api_port} get inferenceservice {name}"
KAFKA = """
  Kafka:          images in topic {name}-images, answers in {name}-answers"""
INSTALL = ".venv/bin/python -m pip install -c constraints.txt -e '.[kafka]'"
NO_SPLIT = "Envoy has no build for this machine: there is no traffic split between versions"


def main() -> int:
    """Run until Ctrl-C; returns the exit status."""
    args = _flags().parse_args()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a log may have characters that the console lacks
    logging.basicConfig(format="standalone: %(message)s")
    address = Address(args.host, args.port, args.grpc_port)
    try:
        service = read_manifest(args.manifest)
        check_free(
            ("--port", args.host, args.port),
            ("--grpc_port", args.host, args.grpc_port),
            ("--api_port", LOOPBACK, args.api_port),
        )
        bridge = _bridge(args, address, service["metadata"]["name"]) if args.kafka else []
        asyncio.run(_run(service, address, args.models_dir, args.api_port, bridge))
    except (APIError, ManifestError, OSError, ProcessDied) as error:
        print(f"standalone: {error}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        print("standalone: stopped")
    return 0


def _flags() -> argparse.ArgumentParser:
    flags = argparse.ArgumentParser(
        prog="python -m standalone",
        description="Run the InferenceService of a manifest on this machine, without a cluster.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    flags.add_argument(
        "--manifest",
        type=Path,
        default=Path("manifests/base/inferenceservice.yaml"),
        help="Manifest of the InferenceService to run (%(default)s).",
    )
    flags.add_argument(
        "--models_dir",
        type=Path,
        default=Path("models"),
        help="Folder of the published model versions (%(default)s).",
    )
    flags.add_argument(
        "--host",
        type=ipv4,
        default="127.0.0.1",
        help="IPv4 address or host name to listen on (%(default)s).",
    )
    flags.add_argument("--port", type=int, default=8080, help="Port for HTTP (%(default)s).")
    flags.add_argument("--grpc_port", type=int, default=8081, help="Port for gRPC (%(default)s).")
    flags.add_argument(
        "--api_port", type=int, default=8001, help="Port for kubectl, on 127.0.0.1 (%(default)s)."
    )
    flags.add_argument(
        "--kafka",
        metavar="HOST:PORT",
        help="Kafka's address, to answer the images of a topic too; see docs/events.md.",
    )
    flags.add_argument(
        "--kafka_settings", type=Path, help="File of librdkafka settings, one name=value a line."
    )
    return flags


def _bridge(args: argparse.Namespace, address: Address, name: str) -> list[str]:
    """The command that answers the images of a Kafka topic.

    Raises:
        OSError: a package that it needs is not installed, or there is no file of settings.
    """
    if importlib.util.find_spec("confluent_kafka") is None:
        raise OSError(f"--kafka needs a package that is not installed: {INSTALL}")
    if args.kafka_settings and not args.kafka_settings.is_file():
        raise OSError(f"--kafka_settings={args.kafka_settings}: there is no such file")
    url = f"http://{address.from_here}:{address.http_port}"
    command = [sys.executable, "-m", "standalone.kafka"]
    command += [f"--kafka={args.kafka}", f"--service={url}", f"--name={name}"]
    return command + ([f"--settings={args.kafka_settings}"] if args.kafka_settings else [])


async def _run(
    service: Object, address: Address, models_dir: Path, api_port: int, bridge: list[str]
) -> None:
    name = service["metadata"]["name"]

    envoy = find_envoy()

    def announce() -> None:
        release = RELEASE.format(api_port=api_port, name=name) if envoy else NO_SPLIT
        here = address._replace(host=address.from_here)
        kafka = KAFKA.format(name=name) if bridge else ""
        print(BANNER.format(**here._asdict(), name=name, release=release, kafka=kafka), flush=True)

    objects = Objects(admit_one(name))
    path = f"/apis/serving.kserve.io/v1beta1/namespaces/default/inferenceservices/{name}"
    service["metadata"]["namespace"] = "default"
    objects.create(path, service, "standalone")
    with tempfile.TemporaryDirectory(prefix="standalone-") as folder:
        # A watch may last an hour: do not wait for it to end.
        runner = web.AppRunner(application(objects), access_log=None, shutdown_timeout=1)
        await runner.setup()
        try:
            if envoy:  # without Envoy there are no releases
                await web.TCPSite(runner, LOOPBACK, api_port).start()
            found = Service(
                objects,
                path,
                address,
                envoy=envoy,
                models_dir=models_dir,
                folder=Path(folder),
                bridge=bridge,
            )
            await found.run(announce)
        finally:
            await runner.cleanup()


if __name__ == "__main__":
    sys.exit(main())
