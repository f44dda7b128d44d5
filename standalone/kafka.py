"""Answers the images of a Kafka topic in another one: ``python -m standalone.kafka --help``."""

from serving.start import interruptible_imports

with interruptible_imports(__name__):
    import argparse
    import asyncio
    import logging
    import signal
    import sys
    from pathlib import Path
    from typing import Any

    import aiohttp
    from confluent_kafka import Consumer, KafkaError, KafkaException, Producer

    from standalone.bridge import MAX_IN_FLIGHT, Bridge, Topics
    from standalone.delivery import Delivery
    from standalone.processes import ignore_signals

log = logging.getLogger(__name__)

PATIENCE = 5
"""Seconds to wait for each answer from Kafka at the start."""
MAX_BYTES = 40_000_000
"""Largest record, in bytes, that is written; the topic has a limit of its own."""
CONSUMER = {
    "auto.offset.reset": "earliest",
    # The bridge stores offsets; the library commits them every second, before a rebalance, and at
    # the end.
    "enable.auto.offset.store": False,
    "auto.commit.interval.ms": 1000,
    # How long another bridge waits for the partitions of one that was killed, and how long one
    # takes to stop while Kafka is away: less than standalone waits for it.
    "session.timeout.ms": 8_000,
    # Of what zstd unpacks, as if it were what was sent, so the most there is; Kafka, and the other
    # codecs, limit only what is packed. A batch above it could never be read, nor passed over.
    "receive.message.max.bytes": 2_147_483_647,
    # Longer than all retries of a record take: no other record may be read meanwhile.
    "max.poll.interval.ms": 3_600_000,
}
PRODUCER = {
    "enable.idempotence": True,  # which implies acks=all
    "message.timeout.ms": 0,  # no limit: Kafka may be away for any time
    "message.max.bytes": MAX_BYTES,
}


def check(producer: Producer, servers: str, topics: Topics) -> None:
    """Check that Kafka can be reached and has the topics.

    Raises:
        OSError: it cannot, or a topic cannot be used.
    """
    for topic in topics:
        try:
            found = producer.list_topics(topic, timeout=PATIENCE).topics[topic]
        except KafkaException as error:
            raise OSError(f"cannot reach Kafka at {servers}: {error.args[0].str()}") from None
        if found.error and found.error.code() != KafkaError.LEADER_NOT_AVAILABLE:
            raise OSError(f"topic {topic} at {servers}: {found.error.str()}")


def read_settings(path: Path) -> dict[str, str]:
    """Settings of librdkafka, one ``name=value`` a line; lines that begin with ``#`` are comments.

    Raises:
        OSError: the file cannot be read, or a line is something else.
    """
    settings = {}
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeError as error:
        raise OSError(f"cannot read {path}: {error}") from None
    for line in text.splitlines():
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, equals, value = line.partition("=")
        if not equals:
            raise OSError(f"{path}: expected name=value, got {line!r}")
        settings[name.strip()] = value.strip()
    return settings


def url(text: str) -> str:
    """The URL without a final slash; raises ArgumentTypeError if it is not HTTP or HTTPS."""
    if not text.startswith(("http://", "https://")):
        raise argparse.ArgumentTypeError(f"expected http://… or https://…, found {text}")
    return text.rstrip("/")


async def run(args: argparse.Namespace) -> None:
    """Run the bridge until SIGINT or SIGTERM.

    Raises:
        OSError, KafkaException, ExceptionGroup: it cannot start, or cannot go on.
    """
    topics = Topics(f"{args.name}-images", f"{args.name}-answers", f"{args.name}-dead-letters")
    shared: dict[str, Any] = {"bootstrap.servers": args.kafka, "logger": log}
    shared |= read_settings(args.settings) if args.settings else {}
    producer = Producer({**PRODUCER, **shared})
    check(producer, args.kafka, topics)
    consumer = Consumer({**CONSUMER, "group.id": args.name, **shared})
    connector = aiohttp.TCPConnector(limit=MAX_IN_FLIGHT)
    async with aiohttp.ClientSession(connector=connector) as session:
        delivery = Delivery(session, f"{args.service}/v1/models/{args.name}:predict")
        bridge = asyncio.create_task(Bridge(consumer, producer, delivery, topics).run())

        def stop() -> None:
            ignore_signals()
            if not bridge.cancelling():
                bridge.cancel()

        if sys.platform != "win32":
            for number in (signal.SIGINT, signal.SIGTERM):
                asyncio.get_running_loop().add_signal_handler(number, stop)
        log.info("%s at %s, answers to %s, the rest to %s", topics[0], args.kafka, *topics[1:])
        await bridge


def main() -> int:
    """Run until stopped; returns the exit status."""
    flags = argparse.ArgumentParser(
        prog="python -m standalone.kafka",
        description="Answer the images of a Kafka topic with a running service.",
    )
    flags.add_argument("--kafka", required=True, metavar="HOST:PORT", help="Kafka's address.")
    flags.add_argument(
        "--settings", type=Path, help="File of librdkafka settings, one name=value a line."
    )
    flags.add_argument(
        "--service",
        type=url,
        default="http://127.0.0.1:8080",
        help="URL of the service (%(default)s).",
    )
    flags.add_argument(
        "--name", default="mnist", help="Name of the model; topics begin with it (%(default)s)."
    )
    args = flags.parse_args()
    logging.basicConfig(format="%(levelname)s %(message)s", level=logging.INFO)
    try:
        asyncio.run(run(args))
    except (OSError, KafkaException) as error:
        log.error("%s", error)
        return 1
    except ExceptionGroup as group:
        log.error("%s", group.exceptions[0])
        return 1
    except (asyncio.CancelledError, KeyboardInterrupt):
        return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
