"""Answers the images of a Kafka topic in another one: ``python -m standalone.kafka --help``.

It does on one machine what KafkaSource, Broker, Triggers and KafkaSinks of
``manifests/components/events`` do in the cluster.
"""

import argparse
import asyncio
import logging
import signal
import sys
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
from cloudevents.http import CloudEvent
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from standalone import records
from standalone.delivery import Delivery, Undelivered

log = logging.getLogger(__name__)

MAX_IN_FLIGHT = 64
"""Most records processed at a time."""
POLL = 0.1
"""Most seconds that a poll for a record, or for acknowledgements, waits."""
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
    # How long another bridge waits for the partitions of one that was killed.
    "session.timeout.ms": 10_000,
    # Longer than all retries of a record take: no other record may be read meanwhile.
    "max.poll.interval.ms": 3_600_000,
}
PRODUCER = {
    "enable.idempotence": True,  # which implies acks=all
    "message.timeout.ms": 0,  # no limit: Kafka may be away for any time
    "message.max.bytes": MAX_BYTES,
}


class Topics(NamedTuple):
    """The names of the topics."""

    images: str
    answers: str
    dead_letters: str


class Progress:
    """The offset up to which a partition is done; several records are processed at a time."""

    def __init__(self) -> None:
        self._done: dict[int, bool] = {}
        self.restart: int | None = None
        """The offset to restart from, once it has changed."""

    def begin(self, offset: int) -> None:
        """Note a record that comes after all those noted before."""
        self._done[offset] = False

    def finish(self, offset: int) -> None:
        """Note that a record is done."""
        self._done[offset] = True
        while self._done and (first := next(iter(self._done.items())))[1]:
            del self._done[first[0]]
            self.restart = first[0] + 1


class Bridge:
    """Processes the records of the images topic until it is cancelled."""

    def __init__(
        self, consumer: Consumer, producer: Producer, delivery: Delivery, topics: Topics
    ) -> None:
        """The consumer and the producer must not be used elsewhere."""
        self._consumer = consumer
        self._producer = producer
        self._delivery = delivery
        self._topics = topics
        self._source = f"/apis/v1/namespaces/default/kafkasources/{topics.images}"
        self._room = asyncio.Semaphore(MAX_IN_FLIGHT)
        self._progress: dict[int, Progress] = {}
        self._last_of_key: dict[bytes, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Process records.

        Raises:
            ExceptionGroup: of ``KafkaException``: a topic cannot be read or written to. The next
                bridge reads again what is not committed.
        """
        self._consumer.subscribe([self._topics.images], on_assign=self._forget)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._acknowledge())
                while True:
                    await self._room.acquire()
                    self._store_offsets()
                    message = await asyncio.to_thread(self._consumer.poll, POLL)
                    if message is None:
                        self._room.release()
                    else:
                        self._begin(message, tasks)
        finally:
            # A poll for records may still be running in its thread.
            await asyncio.get_running_loop().shutdown_default_executor()
            self._store_offsets()
            self._consumer.close()

    def _forget(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        """After a rebalance: the partitions assigned start from their committed offsets."""
        for each in partitions:
            self._progress.pop(each.partition, None)
        log.info("partitions assigned: %s", [each.partition for each in partitions])

    def _store_offsets(self) -> None:
        """Have the library commit what is done; not during a poll, whose end it would wait for."""
        for partition, progress in self._progress.items():
            if progress.restart is None:
                continue
            place = TopicPartition(self._topics.images, partition, progress.restart)
            progress.restart = None
            try:
                self._consumer.store_offsets(offsets=[place])
            except KafkaException as error:
                if error.args[0].code() != KafkaError._STATE:  # the partition was just revoked
                    raise

    async def _acknowledge(self) -> None:
        while True:
            await asyncio.to_thread(self._producer.poll, POLL)

    def _begin(self, message: Message, tasks: asyncio.TaskGroup) -> None:
        if error := message.error():
            if error.code() != KafkaError._MAX_POLL_EXCEEDED:
                raise KafkaException(error)
            log.warning("Kafka was away for long: %s", error.str())  # the consumer joins again
            self._room.release()
            return
        progress = self._progress.setdefault(_partition(message), Progress())
        progress.begin(_offset(message))
        key = message.key()
        previous = self._last_of_key.get(key) if key else None
        task = tasks.create_task(self._process(message, progress, previous))
        if key:
            self._last_of_key[key] = task

    async def _process(
        self, message: Message, progress: Progress, previous: asyncio.Task[None] | None
    ) -> None:
        """Answer a record after the previous one with the same key; then it may be committed."""
        if previous:
            await asyncio.wait([previous])
        event = records.read(message, self._source)
        try:
            answer = await self._delivery.deliver(event)
        except Undelivered as error:
            log.warning("dead letter: %s (status %s)", event["id"], error.status)
            dead_letter = self._delivery.dead_letter(event, error)
            await self._bury(dead_letter, message)
        else:
            await self._store(self._topics.answers, answer, message)
        self._finish(message, progress)

    async def _bury(self, dead_letter: CloudEvent, message: Message) -> None:
        """Store a dead letter, without its data if it is too large for Kafka."""
        try:
            await self._store(self._topics.dead_letters, dead_letter, message)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.MSG_SIZE_TOO_LARGE:
                raise
            short = CloudEvent(dead_letter.get_attributes(), b"")
            await self._store(self._topics.dead_letters, short, message)

    def _finish(self, message: Message, progress: Progress) -> None:
        self._room.release()
        if (key := message.key()) and self._last_of_key.get(key) is asyncio.current_task():
            del self._last_of_key[key]
        progress.finish(_offset(message))

    async def _store(self, topic: str, event: CloudEvent, message: Message) -> None:
        """Write an event and wait until Kafka has it.

        Raises:
            KafkaException: Kafka does not accept it.
        """
        loop = asyncio.get_running_loop()
        stored: asyncio.Future[None] = loop.create_future()

        def settle(error: KafkaError | None) -> None:
            if stored.done():
                return
            if error:
                stored.set_exception(KafkaException(error))
            else:
                stored.set_result(None)

        def on_delivery(error: KafkaError | None, _: Message) -> None:  # in the thread that polls
            loop.call_soon_threadsafe(settle, error)

        record = records.write(event)
        self._producer.produce(
            topic,
            key=message.key() or record.key,
            value=record.value,
            headers=list(record.headers),
            on_delivery=on_delivery,
        )
        await stored


def _partition(message: Message) -> int:
    return message.partition() or 0


def _offset(message: Message) -> int:
    return message.offset() or 0


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
        if sys.platform != "win32":
            for number in (signal.SIGINT, signal.SIGTERM):
                asyncio.get_running_loop().add_signal_handler(number, bridge.cancel)
        log.info("%s at %s, answers to %s, the rest to %s", topics[0], args.kafka, *topics[1:])
        await bridge


def main() -> int:
    """Run until stopped; returns the exit status."""
    flags = argparse.ArgumentParser(
        prog="python -m standalone.kafka",
        description="Answer the images of a Kafka topic with a running service.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    flags.add_argument("--kafka", required=True, metavar="HOST:PORT", help="Kafka's address.")
    flags.add_argument(
        "--settings", type=Path, help="File of librdkafka settings, one name=value a line."
    )
    flags.add_argument(
        "--service", type=url, default="http://127.0.0.1:8080", help="URL of the service."
    )
    flags.add_argument("--name", default="mnist", help="Name of the model; topics begin with it.")
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
