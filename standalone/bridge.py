"""Moves records from the images topic to the topics of answers and dead letters.

It does on one machine what KafkaSource, Broker, Triggers and KafkaSinks of
``manifests/components/events`` do in the cluster.
"""

import asyncio
import logging
from typing import NamedTuple

from cloudevents.http import CloudEvent
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from standalone import records
from standalone.delivery import Delivery, Undelivered

log = logging.getLogger(__name__)

MAX_IN_FLIGHT = 64
"""Most records processed at a time."""
ENOUGH = 64 * 2**20
"""Bytes of records being processed, above which no further one is read."""
POLL = 0.1
"""Most seconds that a poll for a record, or for acknowledgements, waits."""


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
        self._bytes = 0
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
                    if self._bytes > ENOUGH:
                        await asyncio.sleep(POLL)
                        continue
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
        progress = self._progress.setdefault(message.partition() or 0, Progress())
        progress.begin(message.offset() or 0)
        self._bytes += len(message)
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
            await self._store(self._topics.answers, answer, message.key())
        except Undelivered as error:
            log.warning("dead letter: %.100r (status %s)", event["id"], error.status)
            await self._bury(self._delivery.dead_letter(event, error), message)
        except KafkaException as error:  # as with a key that hardly fits into its own record
            if not _too_large(error):
                raise
            log.warning("dead letter: %.100r (its answer is too large)", event["id"])
            await self._bury(self._delivery.dead_letter(event, Undelivered()), message)
        self._finish(message, progress)

    async def _bury(self, dead_letter: CloudEvent, message: Message) -> None:
        """Store a dead letter: whole, without its data, or cut, whichever Kafka takes first."""
        without_data = CloudEvent(dead_letter.get_attributes(), b"")
        for event in (dead_letter, without_data):
            try:
                await self._store(self._topics.dead_letters, event, message.key())
            except KafkaException as error:
                if not _too_large(error):
                    raise
            else:
                return
        await self._store(self._topics.dead_letters, records.cut(dead_letter), None)

    def _finish(self, message: Message, progress: Progress) -> None:
        self._room.release()
        self._bytes -= len(message)
        if (key := message.key()) and self._last_of_key.get(key) is asyncio.current_task():
            del self._last_of_key[key]
        progress.finish(message.offset() or 0)

    async def _store(self, topic: str, event: CloudEvent, key: bytes | None) -> None:
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
        while True:
            try:
                self._producer.produce(
                    topic,
                    key=record.key if key is None else key,
                    value=record.value,
                    headers=list(record.headers),
                    on_delivery=on_delivery,
                )
                break
            except BufferError:  # no room for what Kafka does not take just now
                await asyncio.sleep(POLL)
        await stored


def _too_large(error: KafkaException) -> bool:
    return bool(error.args[0].code() == KafkaError.MSG_SIZE_TOO_LARGE)
