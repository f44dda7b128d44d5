"""A Kafka cluster of one broker in this process, and what is in its topics.

It is the one with which librdkafka tests itself: it speaks Kafka's protocol on a port of
127.0.0.1, keeps its records in memory, and fails where a test says so.
https://github.com/confluentinc/librdkafka/blob/v2.16.0/src/rdkafka_mock.h
"""

import ctypes
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import confluent_kafka
from confluent_kafka import Consumer, KafkaError, Producer

TIMEOUT = 60
"""Seconds; generous, since the machine may be busy."""
PRODUCE = 0
"""Kafka's number for the request that writes records."""


def _library() -> ctypes.CDLL | None:
    """librdkafka, as it lies beside the package."""
    folder = Path(confluent_kafka.__file__).parent
    found = [*folder.parent.glob("confluent_kafka.libs/librdkafka*"), *folder.glob(".dylibs/*rdk*")]
    if not found:
        return None
    library = ctypes.CDLL(str(found[0]))
    library.rd_kafka_new.restype = ctypes.c_void_p
    library.rd_kafka_mock_cluster_new.restype = ctypes.c_void_p
    library.rd_kafka_mock_cluster_new.argtypes = [ctypes.c_void_p, ctypes.c_int]
    library.rd_kafka_mock_cluster_bootstraps.restype = ctypes.c_char_p
    library.rd_kafka_mock_cluster_bootstraps.argtypes = [ctypes.c_void_p]
    return library


LIBRARY = _library()


@dataclass(frozen=True)
class Found:
    """A record that a topic has."""

    partition: int
    key: bytes | None
    headers: dict[str, str]
    value: bytes

    def json(self) -> Any:
        return json.loads(self.value)

    def __getitem__(self, attribute: str) -> str:
        """An attribute of the event that it is, in binary mode."""
        return self.headers[f"ce_{attribute}"]


class Cluster:
    """The cluster, with a producer of its own."""

    def __init__(self, library: ctypes.CDLL, mock: ctypes.c_void_p, servers: str) -> None:
        self._library = library
        self._mock = mock
        self.servers = servers
        self.producer = Producer({"bootstrap.servers": servers, "linger.ms": 0})

    def create(self, topic: str, partitions: int = 3) -> None:
        self._library.rd_kafka_mock_topic_create(self._mock, topic.encode(), partitions, 1)

    def refuse(self, topic: str, code: int) -> None:
        """Let nobody write to or read from a topic."""
        self._library.rd_kafka_mock_topic_set_error(self._mock, topic.encode(), code)

    def fail_writes(self, *codes: int) -> None:
        """Let the next requests to write fail, whatever the topic."""
        errors = [ctypes.c_int(code) for code in codes]
        self._library.rd_kafka_mock_push_request_errors(self._mock, PRODUCE, len(codes), *errors)

    def send(
        self, topic: str, value: bytes | None, key: bytes | None = None, **headers: str | bytes
    ) -> None:
        """Write a record; ``content_type`` is the header of that name with its hyphen."""
        spelled = {name.replace("content_type", "content-type"): v for name, v in headers.items()}
        self.producer.produce(topic, value, key, headers=dict(spelled))

    def flush(self) -> None:
        assert self.producer.flush(TIMEOUT) == 0

    def read(self, topic: str, until: int | None = None) -> list[Found]:
        """All records of a topic, once there are ``until`` of them."""
        found: list[Found] = []
        for message in self.watch(topic):
            if message is not None:
                found.append(message)
            elif until is None or len(found) >= until:
                return found
        raise AssertionError

    def watch(self, topic: str) -> Iterator[Found | None]:
        """The records of a topic as they come; ``None`` where there is none just now."""
        partitions = self.producer.list_topics(topic, timeout=TIMEOUT).topics[topic].partitions
        settings = {"bootstrap.servers": self.servers, "group.id": "reader", "log_level": 0}
        consumer = Consumer({**settings, "enable.partition.eof": True})
        deadline = time.monotonic() + TIMEOUT
        ended: set[int] = set()
        try:
            consumer.assign(
                [confluent_kafka.TopicPartition(topic, number, 0) for number in partitions]
            )
            while True:
                assert time.monotonic() < deadline, f"{topic} has too little"
                message = consumer.poll(0.1)
                if message is None:
                    if ended == set(partitions):
                        yield None
                elif error := message.error():
                    assert error.code() == KafkaError._PARTITION_EOF, error
                    ended.add(message.partition() or 0)
                    if ended == set(partitions):
                        yield None
                else:
                    headers: Any = message.headers() or ()
                    yield Found(
                        message.partition() or 0,
                        message.key(),
                        {name: content.decode() for name, content in headers},
                        message.value() or b"",
                    )
        finally:
            consumer.close()


@contextmanager
def cluster() -> Iterator[Cluster]:
    """A cluster until the end of the block; its groups wait for nobody when they begin."""
    library = LIBRARY
    assert library
    message = ctypes.create_string_buffer(512)
    handle = ctypes.c_void_p(library.rd_kafka_new(0, None, message, 512))
    assert handle.value, message.value
    mock = ctypes.c_void_p(library.rd_kafka_mock_cluster_new(handle, 1))
    try:
        library.rd_kafka_mock_group_initial_rebalance_delay_ms(mock, 0)
        servers = library.rd_kafka_mock_cluster_bootstraps(mock).decode()
        yield Cluster(library, mock, servers)
    finally:
        library.rd_kafka_mock_cluster_destroy(mock)
        library.rd_kafka_destroy(handle)
