"""Images from a topic are answered to another, whatever happens in between: with Kafka's protocol,
the real bridge and the real service."""

import asyncio
import base64
import importlib.util
import json
import random
import signal
import subprocess
import sys
import time
from argparse import ArgumentTypeError
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from cloudevents.http import CloudEvent
from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition
from PIL import Image

import standalone.__main__
from standalone.bridge import Bridge, Progress, Topics
from standalone.delivery import BACKOFF, RETRIES, TIMEOUT
from standalone.kafka import CONSUMER, check, url
from standalone.processes import GRACE
from tests import digits, forms, kafka, programs
from tests.kafka import Cluster, Found

pytestmark = pytest.mark.skipif(kafka.LIBRARY is None, reason="no librdkafka beside its package")

SEVEN = (programs.ROOT / "docs/seven.png").read_bytes()
IMAGES, ANSWERS, DEAD_LETTERS = TOPICS = Topics(
    "mnist-images", "mnist-answers", "mnist-dead-letters"
)
SOURCE = f"/apis/v1/namespaces/default/kafkasources/{IMAGES}#{IMAGES}"
SETTINGS = """\
# The place of one that was killed is free soon, and commits are frequent.
session.timeout.ms=1000
heartbeat.interval.ms = 100
auto.commit.interval.ms=20
"""
numbers = count()


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with kafka.cluster() as running:
        for topic in (IMAGES, ANSWERS, DEAD_LETTERS):
            running.create(topic)
        yield running


@dataclass
class Program:
    process: subprocess.Popen[bytes]
    log: Path

    def output(self) -> str:
        return self.log.read_text(encoding="utf-8")

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(30)

    def wait_for(self, text: str, times: int = 1) -> None:
        """Wait until it has written ``text`` so many times."""
        self.wait(lambda: self.output().count(text) >= times)

    def wait(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + kafka.TIMEOUT
        while not condition():
            assert self.process.poll() is None, self.output()
            assert time.monotonic() < deadline, self.output()
            time.sleep(0.05)


@contextmanager
def bridge(servers: str, url: str, folder: Path, more: str = "") -> Iterator[Program]:
    """The bridge between a cluster and a service, until the end of the block."""
    settings = folder / "kafka.properties"
    settings.write_text(SETTINGS + more, encoding="utf-8")
    log = folder / f"bridge-{next(numbers)}.log"
    command = [sys.executable, "-m", "standalone.kafka"]
    command += [f"--kafka={servers}", f"--service={url}", f"--settings={settings}"]
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=programs.ROOT, stdout=output, stderr=output)
    try:
        yield Program(process, log)
    finally:
        process.kill()
        process.wait()


def committed(cluster: Cluster) -> dict[int, int]:
    """Where the next bridge would begin, by partition."""
    consumer = Consumer({"bootstrap.servers": cluster.servers, "group.id": "mnist"})
    places = [TopicPartition(IMAGES, partition) for partition in range(3)]
    try:
        found = consumer.committed(places, timeout=kafka.TIMEOUT)
        return {place.partition: max(place.offset, 0) for place in found}
    finally:
        consumer.close()


def all_committed(cluster: Cluster, images: int) -> bool:
    return sum(committed(cluster).values()) == images


def by_input(records: list[Found]) -> dict[str, list[Found]]:
    """Answers by the id of the event that they answer."""
    found = defaultdict(list)
    for record in records:
        found[record["correlationid"]].append(record)
    return found


def test_images_are_answered_in_every_form(
    cluster: Cluster, service: programs.Program, tmp_path: Path
) -> None:
    event = {"ce_specversion": "1.0", "ce_type": "picture", "ce_source": "camera"}
    batch = json.dumps(forms.v1_json(SEVEN, SEVEN, SEVEN)).encode()
    envelope = {"specversion": "1.0", "type": "picture", "source": "camera", "subject": "né"}
    image = {"datacontenttype": "image/png", "data_base64": base64.b64encode(SEVEN).decode()}
    structured = {"content_type": "application/cloudevents+json"}
    cluster.send(IMAGES, SEVEN, key=b"a plain record")
    cluster.send(IMAGES, SEVEN, key=b"with its type", content_type="image/png")
    cluster.send(IMAGES, batch, key=b"a batch", content_type="application/json")
    cluster.send(IMAGES, batch, key=b"a batch that does not say so")
    cluster.send(IMAGES, SEVEN, key=b"binary", **event, ce_id="binary", ce_subject="né")
    for name, content in (("structured", image), ("structured JSON", {"data": json.loads(batch)})):
        value = json.dumps({**envelope, "id": name, **content}).encode()
        cluster.send(IMAGES, value, key=name.encode(), **structured)
    cluster.flush()
    with bridge(cluster.servers, service.url, tmp_path):
        answers = {answer.key: answer for answer in cluster.read(ANSWERS, 7)}
    assert cluster.read(DEAD_LETTERS) == []
    assert len(answers) == 7
    for key, answer in answers.items():
        assert key
        predictions = answer.json()["predictions"]
        assert [each["digit"] for each in predictions] == [7] * len(predictions)
        assert len(predictions) == (3 if b"batch" in key or b"JSON" in key else 1)
        assert answer.headers["content-type"] == "application/json"
        assert answer["type"] == "io.kserve.inference.response"
        assert answer["source"] == "io.kserve.inference.mnist"
        assert answer["partitionkey"] == key.decode()
        if b"binary" in key or b"structured" in key:
            assert (answer["correlationid"], answer["subject"]) == (key.decode(), "né")
        else:
            partition, offset = answer["subject"].removeprefix("partition:").split("#")
            assert answer["correlationid"] == f"partition:{partition}/offset:{offset}"


EVENT: dict[str, str | bytes] = {
    "ce_specversion": "1.0",
    "ce_id": "1",
    "ce_type": "t",
    "ce_source": "s",
}
POISON: list[tuple[bytes | None, dict[str, str | bytes], str]] = [
    (b"not an image", {}, "415"),
    (b"", {}, "400"),
    (None, {}, "400"),
    (SEVEN[:100], {}, "400"),
    (b"{", {"content_type": "application/json"}, "400"),
    (b'{"instances": []}', {}, "400"),
    (b"[" * 2000, {"content_type": "application/cloudevents+json"}, "400"),
    (b"poison", EVENT, "415"),
    (
        b'{"specversion":"1.0","id":"1","type":"t","source":"s","datacontenttype":7}',
        {"content_type": "application/cloudevents+json"},
        "400",
    ),
    (b"poison", {**EVENT, "ce_subject": "\r\n\0", "content_type": b"\xff\n"}, "415"),
    (b"poison", {"ce_specversion": "1.0", "a header of no event": b"\xff\xfe"}, "415"),
]


def test_poison_becomes_dead_letters_at_once_and_stops_nothing(
    cluster: Cluster, service: programs.Program, tmp_path: Path
) -> None:
    for number, (value, headers, _) in enumerate(POISON):
        cluster.send(IMAGES, value, key=str(number).encode(), **headers)
        cluster.send(IMAGES, SEVEN)
    cluster.flush()
    with bridge(cluster.servers, service.url, tmp_path):
        letters = {letter.key: letter for letter in cluster.read(DEAD_LETTERS, len(POISON))}
        assert len(cluster.read(ANSWERS, len(POISON))) == len(POISON)
    assert len(letters) == len(POISON)
    for number, (value, headers, status) in enumerate(POISON):
        letter = letters[str(number).encode()]
        assert letter.value == (value or b"")
        assert letter["knativeerrorcode"] == status
        assert letter["knativeerrordest"] == f"{service.url}/v1/models/mnist:predict"
        assert "error" in json.loads(base64.b64decode(letter["knativeerrordata"]))
        assert (letter["id"], letter["source"]) == ("1", "s") if "ce_id" in headers else SOURCE


def test_an_id_is_not_taken_for_lines_of_the_log(cluster: Cluster, tmp_path: Path) -> None:
    event = {**EVENT, "ce_id": f"7\nWARNING\u2028\x1b[2J{'x' * 100_000}"}
    cluster.send(IMAGES, SEVEN, key=None, **event)
    cluster.flush()
    with bridge(cluster.servers, "http://127.0.0.1:1", tmp_path) as running:
        running.wait_for("is tried again")
    (line,) = [each for each in running.output().splitlines() if "x" * 9 in each]
    assert line.startswith(r"INFO '7\nWARNING\u2028\x1b[2Jxxx")
    assert len(line) < 300


def test_what_the_predictor_cannot_answer_yet_is_answered_once_it_can(
    cluster: Cluster, tmp_path: Path
) -> None:
    port = programs.free_port()
    arguments = ("--models_dir=models",)
    with programs.transformer(tmp_path, f"127.0.0.1:{port}") as transformer:
        for _ in range(50):
            cluster.send(IMAGES, SEVEN)
        cluster.flush()
        with bridge(cluster.servers, transformer.url, tmp_path) as running:
            running.wait_for("status 503")
            assert (cluster.read(ANSWERS), cluster.read(DEAD_LETTERS)) == ([], [])
            assert set(committed(cluster).values()) == {0}
            environment = {"MODEL_VERSION": "1"}
            with programs.program(
                "predictor", tmp_path, *arguments, env=environment, http_port=port
            ):
                answers = cluster.read(ANSWERS, 50)
    assert len(by_input(answers)) == 50
    assert cluster.read(DEAD_LETTERS) == []


def test_killed_at_any_moment_nothing_is_lost_and_duplicates_have_one_id(
    cluster: Cluster, service: programs.Program, tmp_path: Path
) -> None:
    images = 600
    for number in range(images):
        value = b"poison" if number % 50 == 0 else SEVEN
        cluster.send(IMAGES, value, key=str(number % 7).encode() if number % 2 else None)
    cluster.flush()
    for share in (0.1, 0.4, 0.7):
        with bridge(cluster.servers, service.url, tmp_path) as running:
            cluster.read(ANSWERS, int(images * share) + random.randrange(50))
            running.stop(signal.SIGKILL)
        assert sum(committed(cluster).values()) < images, "it was not killed at work"
    with bridge(cluster.servers, service.url, tmp_path) as running:
        running.wait(partial(all_committed, cluster, images))
    answers, letters = by_input(cluster.read(ANSWERS)), cluster.read(DEAD_LETTERS)
    dead = {letter["id"] for letter in letters}
    assert len(answers) == images - images // 50
    assert len(dead) == images // 50
    assert not answers.keys() & dead
    # Each input has one id of its answers, and no other input has it.
    ids = {name: {answer["id"] for answer in found} for name, found in answers.items()}
    assert {len(found) for found in ids.values()} == {1}
    assert len(set.union(*ids.values())) == len(answers)


def test_the_answers_of_a_key_keep_the_order_of_its_images(
    cluster: Cluster, service: programs.Program, tmp_path: Path
) -> None:
    # Batches take longer than what comes after them.
    sizes = [64, 1, 16, 1, 1, 32, 1]
    keys = [b"a", b"b", b"c", b"d"]
    for size in sizes * 3:
        value = json.dumps(forms.v1_json(*[SEVEN] * size)).encode()
        for key in keys:
            cluster.send(IMAGES, value, key=key)
    cluster.flush()
    with bridge(cluster.servers, service.url, tmp_path):
        answers = cluster.read(ANSWERS, len(keys) * len(sizes) * 3)
    for key in keys:
        mine = [answer for answer in answers if answer.key == key]
        assert [len(answer.json()["predictions"]) for answer in mine] == sizes * 3
        offsets = [int(answer["subject"].partition("#")[2]) for answer in mine]
        assert offsets == sorted(offsets)


@pytest.mark.parametrize("topic", [ANSWERS, DEAD_LETTERS])
def test_an_empty_key_stays_one(
    cluster: Cluster, service: programs.Program, tmp_path: Path, topic: str
) -> None:
    """A compacted topic, for one, takes no record without a key."""
    cluster.send(IMAGES, SEVEN if topic == ANSWERS else b"poison", key=b"")
    cluster.flush()
    with bridge(cluster.servers, service.url, tmp_path):
        (found,) = cluster.read(topic, 1)
    assert found.key == b""


def test_two_bridges_share_the_partitions_and_one_takes_over(
    cluster: Cluster, service: programs.Program, tmp_path: Path
) -> None:
    for _ in range(200):
        cluster.send(IMAGES, SEVEN)
    cluster.flush()
    with bridge(cluster.servers, service.url, tmp_path) as first:
        first.wait_for("assigned")
        with bridge(cluster.servers, service.url, tmp_path) as second:
            second.wait_for("assigned")
            assert first.stop() == 0
            for _ in range(200):
                cluster.send(IMAGES, SEVEN)
            cluster.flush()
            second.wait(partial(all_committed, cluster, 400))
    assert len(by_input(cluster.read(ANSWERS))) == 400


def test_stopped_when_all_is_done_it_has_nothing_to_do_again(
    cluster: Cluster, service: programs.Program, tmp_path: Path
) -> None:
    for images in (20, 40):
        for _ in range(20):
            cluster.send(IMAGES, SEVEN)
        cluster.flush()
        with bridge(cluster.servers, service.url, tmp_path) as running:
            running.wait(partial(all_committed, cluster, images))
            assert running.stop() == 0
    assert len(cluster.read(ANSWERS)) == 40


def test_a_second_signal_does_not_interrupt_the_shutdown(cluster: Cluster, tmp_path: Path) -> None:
    """As when somebody presses Ctrl-C twice."""
    with bridge(cluster.servers, "http://127.0.0.1:1", tmp_path) as running:
        running.wait_for("assigned")
        until = time.monotonic() + kafka.TIMEOUT
        while running.process.poll() is None and time.monotonic() < until:
            running.process.send_signal(signal.SIGTERM)
            time.sleep(0.0001)
        running.stop()
    assert "Traceback" not in running.output()


class Watched(Consumer):
    """A consumer that knows whether it is asked to store an offset while it polls."""

    polls = False
    held_up = False

    def poll(self, *args: Any, **kwargs: Any) -> Any:
        self.polls = True
        try:
            return super().poll(*args, **kwargs)
        finally:
            self.polls = False

    def store_offsets(self, *args: Any, **kwargs: Any) -> Any:
        self.held_up |= self.polls
        return super().store_offsets(*args, **kwargs)


async def run_in_here(
    cluster: Cluster, consumer: Consumer, answer: Callable[[CloudEvent], Awaitable[CloudEvent]]
) -> None:
    """Run the bridge until three records are committed, with ``answer`` as the service."""
    producer = Producer({"bootstrap.servers": cluster.servers})
    delivery: Any = SimpleNamespace(deliver=answer)
    task = asyncio.create_task(Bridge(consumer, producer, delivery, TOPICS).run())
    while not all_committed(cluster, 3):
        await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.wait([task])


def test_no_record_waits_for_a_poll_that_runs(cluster: Cluster) -> None:
    """The library lets a consumer do one thing at a time, and whoever calls it wait."""

    async def answer(event: CloudEvent) -> CloudEvent:
        await asyncio.sleep(0.01)
        return event

    consumer = Watched({**CONSUMER, "bootstrap.servers": cluster.servers, "group.id": "mnist"})
    for _ in range(3):
        cluster.send(IMAGES, SEVEN, key=b"a")
    cluster.flush()
    asyncio.run(run_in_here(cluster, consumer, answer))
    assert not consumer.held_up


def test_large_records_are_few_in_hand(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("standalone.bridge.ENOUGH", len(SEVEN))
    in_hand = most = 0

    async def answer(event: CloudEvent) -> CloudEvent:
        nonlocal in_hand, most
        in_hand += 1
        most = max(most, in_hand)
        await asyncio.sleep(0.5)
        in_hand -= 1
        return event

    consumer = Consumer({**CONSUMER, "bootstrap.servers": cluster.servers, "group.id": "mnist"})
    for _ in range(3):
        cluster.send(IMAGES, SEVEN)
    cluster.flush()
    asyncio.run(run_in_here(cluster, consumer, answer))
    assert most == 2


def test_an_answer_that_kafka_takes_at_the_third_try_is_there_once(
    cluster: Cluster, service: programs.Program, tmp_path: Path
) -> None:
    # One alone: this cluster, unlike Kafka, does not refuse what comes before its predecessor.
    cluster.send(IMAGES, SEVEN)
    cluster.flush()
    cluster.fail_writes(KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.REQUEST_TIMED_OUT)
    with bridge(cluster.servers, service.url, tmp_path) as running:
        running.wait(partial(all_committed, cluster, 1))
    assert len(cluster.read(ANSWERS)) == 1


def test_answers_wait_for_room_in_the_producer(
    cluster: Cluster, service: programs.Program, tmp_path: Path
) -> None:
    """As large dead letters do while Kafka is away: there is a gigabyte for them."""
    for _ in range(20):
        cluster.send(IMAGES, SEVEN)
    cluster.flush()
    limit = "queue.buffering.max.messages=1\nlinger.ms=20\n"
    with bridge(cluster.servers, service.url, tmp_path, limit) as running:
        running.wait(partial(all_committed, cluster, 20))
    assert len(by_input(cluster.read(ANSWERS))) == 20


def test_a_dead_letter_that_is_too_large_comes_without_its_data(
    cluster: Cluster, service: programs.Program, tmp_path: Path
) -> None:
    """The reason needs more room than the record has left."""
    cluster.send(IMAGES, b"x" * 999_800)
    cluster.send(IMAGES, SEVEN)
    cluster.flush()
    limit = "message.max.bytes=1000000\n"  # of this side; the cluster here has none
    with bridge(cluster.servers, service.url, tmp_path, limit):
        (letter,) = cluster.read(DEAD_LETTERS, 1)
        assert (letter.value or b"", letter["knativeerrorcode"]) == (b"", "415")
        assert len(cluster.read(ANSWERS, 1)) == 1


def test_a_record_may_unpack_to_more_than_the_library_reads_by_itself(
    cluster: Cluster, service: programs.Program, tmp_path: Path
) -> None:
    """Kafka looks at what is packed alone: here, 4 KB."""
    packer = {"compression.type": "zstd", "message.max.bytes": 200_000_000}
    cluster.producer = Producer({"bootstrap.servers": cluster.servers, **packer})
    cluster.send(IMAGES, bytes(110_000_000))
    cluster.flush()
    with bridge(cluster.servers, service.url, tmp_path):
        (letter,) = cluster.read(DEAD_LETTERS, 1)
    assert (letter.value, letter["knativeerrorcode"]) == (b"", "413")


@pytest.mark.parametrize(
    ("key", "headers"),
    [
        (b"k" * 400_000, {}),  # it is written three times: as the key, and in two attributes
        (None, {"a": b"\xff" * 340_000}),  # each such byte becomes three
        (None, {f"a{number}": "" for number in range(50_000)}),
    ],
)
def test_a_dead_letter_that_is_too_large_even_so_is_cut(
    cluster: Cluster,
    service: programs.Program,
    tmp_path: Path,
    key: bytes | None,
    headers: dict[str, str | bytes],
) -> None:
    cluster.send(IMAGES, SEVEN, key=key, **headers)
    cluster.send(IMAGES, SEVEN)
    cluster.flush()
    with bridge(cluster.servers, service.url, tmp_path, "message.max.bytes=1000000\n"):
        (letter,) = cluster.read(DEAD_LETTERS, 1)
        assert (letter.value, letter.key, letter["source"]) == (b"", None, SOURCE)
        assert letter["id"].replace("/offset:", "#") == letter["subject"]
        assert letter["knativeerrorcode"] == "431"
        assert len(cluster.read(ANSWERS, 1)) == 1


def test_an_answer_that_is_too_large_becomes_a_dead_letter(
    cluster: Cluster, service: programs.Program, tmp_path: Path
) -> None:
    """The answer has the key of the image, and the image is smaller than the answer."""
    image = digits.encode(Image.new("L", (28, 28)))
    key = b"k" * 900_000
    cluster.send(IMAGES, image, key=key, **EVENT, ce_partitionkey="short")
    cluster.send(IMAGES, SEVEN)
    cluster.flush()
    with bridge(cluster.servers, service.url, tmp_path, "message.max.bytes=900250\n"):
        (letter,) = cluster.read(DEAD_LETTERS, 1)
        assert (letter.value, letter.key, letter["id"]) == (image, key, "1")
        assert "ce_knativeerrorcode" not in letter.headers
        assert len(cluster.read(ANSWERS, 1)) == 1


def test_partitions_that_are_kept_keep_their_progress() -> None:
    """As with partition.assignment.strategy=cooperative-sticky."""
    nobody: Any = None
    bridge = Bridge(nobody, nobody, nobody, TOPICS)
    kept = Progress()
    bridge._progress = {1: kept, 2: Progress()}
    bridge._forget(nobody, [TopicPartition(IMAGES, 2)])
    assert bridge._progress == {1: kept}


@pytest.mark.parametrize("topic", [ANSWERS, DEAD_LETTERS])
def test_what_kafka_does_not_take_ends_it_and_is_not_committed(
    cluster: Cluster, service: programs.Program, tmp_path: Path, topic: str
) -> None:
    value = SEVEN if topic == ANSWERS else b"poison"
    cluster.send(IMAGES, value)
    cluster.flush()
    cluster.fail_writes(KafkaError.TOPIC_AUTHORIZATION_FAILED)
    with bridge(cluster.servers, service.url, tmp_path) as running:
        assert running.process.wait(30) == 1
        assert "authorization failed" in running.output()
    assert set(committed(cluster).values()) == {0}
    with bridge(cluster.servers, service.url, tmp_path):
        assert len(cluster.read(topic, 1)) == 1


def test_one_command_runs_the_service_and_the_bridge(cluster: Cluster, tmp_path: Path) -> None:
    settings = tmp_path / "kafka.properties"
    settings.write_text(SETTINGS, encoding="utf-8")
    flags = [f"--kafka={cluster.servers}", f"--kafka_settings={settings}"]
    with programs.service(tmp_path, *flags) as running:
        assert f"images in topic {IMAGES}, answers in {ANSWERS}" in running.output()
        cluster.send(IMAGES, SEVEN)
        cluster.flush()
        (answer,) = cluster.read(ANSWERS, 1)
        assert answer.json()["predictions"][0]["digit"] == 7
        parts = psutil.Process(running.process.pid).children(recursive=True)
        (part,) = [each for each in parts if "standalone.kafka" in each.cmdline()]
        part.kill()
        assert running.process.wait(30) == 1
        assert "standalone: kafka has ended with status -9" in running.output()
        assert not psutil.wait_procs(parts, timeout=20)[1]


def test_a_missing_package_is_named_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["standalone", "--kafka=127.0.0.1:9092"])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert standalone.__main__.main() == 1
    assert "pip install -c constraints.txt -e '.[kafka]'" in capsys.readouterr().err


def test_missing_settings_are_named_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["standalone", "--kafka=x:1", "--kafka_settings=nowhere"])
    assert standalone.__main__.main() == 1
    assert "--kafka_settings=nowhere: there is no such file" in capsys.readouterr().err


def test_a_missing_topic_is_named(cluster: Cluster, tmp_path: Path) -> None:
    cluster.refuse(DEAD_LETTERS, KafkaError.UNKNOWN_TOPIC_OR_PART)
    with bridge(cluster.servers, "http://127.0.0.1:1", tmp_path) as running:
        assert running.process.wait(30) == 1
    assert f"topic {DEAD_LETTERS} at {cluster.servers}" in running.output()


def test_a_topic_that_kafka_is_just_creating_is_not_missing(cluster: Cluster) -> None:
    cluster.refuse(ANSWERS, KafkaError.LEADER_NOT_AVAILABLE)
    check(cluster.producer, cluster.servers, TOPICS)


def test_a_missing_kafka_is_named(tmp_path: Path) -> None:
    servers = f"127.0.0.1:{programs.free_port()}"
    with bridge(servers, "http://127.0.0.1:1", tmp_path) as running:
        assert running.process.wait(30) == 1
    assert f"cannot reach Kafka at {servers}" in running.output()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("bootstrap", "expected name=value, got 'bootstrap'"),
        ("# für uns", "cannot read"),
        ("\n  # ours\nno.such.setting=a=b", 'No such configuration property: "no.such.setting"'),
    ],
)
def test_settings_that_are_wrong_are_named(tmp_path: Path, settings: str, message: str) -> None:
    path = tmp_path / "kafka.properties"
    path.write_text(settings, encoding="latin-1")
    command = [sys.executable, "-m", "standalone.kafka", "--kafka=x:1", f"--settings={path}"]
    done = subprocess.run(
        command, cwd=programs.ROOT, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 1
    assert message in done.stderr


def test_one_that_stops_while_kafka_is_away_is_not_killed() -> None:
    """Its last commit waits so long; a second is for the rest."""
    timeout: Any = CONSUMER["session.timeout.ms"]
    assert timeout / 1000 + 1 < GRACE


def test_a_record_that_is_retried_for_long_does_not_cost_the_bridge_its_partitions() -> None:
    waits = sum(BACKOFF * 2**attempt for attempt in range(1, RETRIES + 1))
    interval: Any = CONSUMER["max.poll.interval.ms"]
    assert waits + (RETRIES + 1) * TIMEOUT < interval / 1000


@pytest.mark.parametrize("text", ["http://service:8080", "https://service/mnist"])
def test_a_path_can_follow_where_the_service_is(text: str) -> None:
    assert url(text) == url(f"{text}/") == text


def test_where_the_service_is_is_a_url() -> None:
    with pytest.raises(ArgumentTypeError, match="expected http://"):
        url("service:8080")


@pytest.mark.parametrize(
    ("begun", "finished", "restarts"),
    [
        ([5], [5], [6]),
        ([5, 6, 7], [5, 6, 7], [6, 7, 8]),
        ([5, 6, 7], [7, 6, 5], [None, None, 8]),
        ([5, 6, 7], [6, 5, 7], [None, 7, 8]),
        ([5, 6, 7], [5, 7], [6, 6]),
        ([5, 9, 12], [9, 5, 12], [None, 10, 13]),  # a compacted topic has gaps
    ],
)
def test_only_what_comes_after_nothing_unfinished_is_committed(
    begun: list[int], finished: list[int], restarts: list[int | None]
) -> None:
    progress = Progress()
    for offset in begun:
        progress.begin(offset)
    found = []
    for offset in finished:
        progress.finish(offset)
        found.append(progress.restart)
    assert found == restarts
