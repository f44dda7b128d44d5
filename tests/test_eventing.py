"""The manifests of the events hang together: what is sent where, and where it ends."""

import copy
import itertools
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from serving.events import RESPONSE_TYPE
from standalone.delivery import RETRIES
from standalone.records import PLAIN
from tests import manifests, programs, surroundings
from tests.manifests import Object, of_kind

OVERLAYS = ("development", "production")
OPTIONS: tuple[list[str], ...] = (
    [],
    ["events-auth"],
    ["events-ordered"],
    ["events-auth", "events-ordered"],
)
EVENTING = {"Broker", "KafkaSink", "KafkaSource", "Trigger"}
PAGE = (programs.ROOT / "docs/events.md").read_text(encoding="utf-8")

pytestmark = pytest.mark.skipif(not shutil.which("kubectl"), reason="no kubectl to render with")


@pytest.fixture(
    scope="module",
    params=list(itertools.product(OVERLAYS, OPTIONS)),
    ids=lambda param: "+".join([param[0], *param[1]]),
)
def rendered(request: pytest.FixtureRequest) -> list[Object]:
    """An overlay with the component and its own options."""
    overlay, options = request.param
    return manifests.render_overlay(overlay, "events", *options)


@pytest.fixture(scope="module")
def objects() -> list[Object]:
    return manifests.render_overlay("production", "events")


@pytest.fixture(scope="module")
def triggers(objects: list[Object]) -> dict[str, Object]:
    return {each["metadata"]["name"]: each["spec"] for each in of_kind(objects, "Trigger")}


def test_the_rest_of_the_overlay_keeps_to_its_rules(rendered: list[Object]) -> None:
    assert manifests.objections(rendered) + surroundings.objections(rendered) == []


def test_built_in_kinds_are_valid(rendered: list[Object]) -> None:
    for each in rendered:
        if each["kind"] not in {*EVENTING, "InferenceService"}:
            kubernetes_validate.validate(each, "1.34", strict=True)


def schema(each: Object) -> Any:
    """The schema of an object's kind, with every property refused that it does not know."""
    group, version = each["apiVersion"].split("/")
    path = manifests.SCHEMAS / f"{group}_{each['kind']}_{version}.json"
    if not path.exists():
        pytest.skip(f"no schema at {path}")
    return closed(json.loads(path.read_text(encoding="utf-8")))


def validate(each: Object) -> None:
    content = {name: each[name] for name in ("apiVersion", "kind", "spec")}
    jsonschema.Draft202012Validator(schema(each)).validate(content)


@pytest.mark.parametrize("kind", sorted(EVENTING))
def test_knatives_kinds_are_valid(rendered: list[Object], kind: str) -> None:
    found = of_kind(rendered, kind)
    assert found
    for each in found:
        validate(each)


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        ("KafkaSource", "topic"),
        ("KafkaSource", "delivery.retries"),
        ("KafkaSource", "sink.ref.nam"),
        ("KafkaSink", "auth"),
        ("Trigger", "subscriber.url"),
        ("Trigger", "delivery.deadLetterSink.ref.label"),
        ("Broker", "delivery"),
    ],
)
def test_a_field_that_does_not_exist_is_noticed(
    objects: list[Object], kind: str, path: str
) -> None:
    broken = copy.deepcopy(of_kind(objects, kind)[0])
    *parents, last = path.split(".")
    at = broken["spec"]
    for parent in parents:
        at = at[parent]
    at[last] = "no such field, or no such value"
    with pytest.raises(jsonschema.ValidationError):
        validate(broken)


def closed(schema: Any) -> Any:
    """The schema without room for what it does not know.

    The one of ``timeout`` is missing in that of Trigger, which passes on what it does not know:
    https://knative.dev/docs/eventing/features/delivery-timeout
    """
    if isinstance(schema, list):
        return [closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    found = {name: closed(value) for name, value in schema.items()}
    properties = found.get("properties")
    if isinstance(properties, dict) and "additionalProperties" not in found:
        found["additionalProperties"] = False
        if "backoffDelay" in properties:
            properties.setdefault("timeout", {"type": "string"})
        if "spec" in properties:
            properties.update(apiVersion={}, kind={})
    return found


def references(value: Any) -> Iterator[Object]:
    """Everything below ``value`` that names an object: ``ref``, and a Broker's ``config``."""
    if isinstance(value, list):
        for each in value:
            yield from references(each)
    if isinstance(value, dict):
        if {"kind", "name"} <= value.keys():
            yield value
        for each in value.values():
            yield from references(each)


def test_every_reference_leads_to_an_object(rendered: list[Object]) -> None:
    made = {(each["apiVersion"], each["kind"], each["metadata"]["name"]) for each in rendered}
    eventing = [each["spec"] for each in rendered if each["kind"] in EVENTING]
    named = [found for spec in eventing for found in references(spec)]
    assert len(named) == 7
    assert {(each["apiVersion"], each["kind"], each["name"]) for each in named} <= made
    brokers = {each["metadata"]["name"] for each in of_kind(rendered, "Broker")}
    assert {each["spec"]["broker"] for each in of_kind(rendered, "Trigger")} == brokers


def test_all_name_one_kafka_and_the_topics_of_the_bridge(objects: list[Object]) -> None:
    (source,) = of_kind(objects, "KafkaSource")
    sinks = [each["spec"] for each in of_kind(objects, "KafkaSink")]
    assert source["spec"]["topics"] == ["mnist-images"]
    assert sorted(sink["topic"] for sink in sinks) == ["mnist-answers", "mnist-dead-letters"]
    settings = {each["metadata"]["name"]: each["data"] for each in of_kind(objects, "ConfigMap")}
    servers = {
        settings["mnist-broker"]["bootstrap.servers"],
        *source["spec"]["bootstrapServers"],
        *(server for sink in sinks for server in sink["bootstrapServers"]),
    }
    assert len(servers) == 1


def test_nothing_is_skipped_at_the_first_start(objects: list[Object]) -> None:
    (source,) = of_kind(objects, "KafkaSource")
    assert source["spec"]["initialOffset"] == "earliest"
    assert source["spec"]["consumerGroup"] == "mnist"


@pytest.mark.parametrize("kind", ["KafkaSource", "Trigger"])
def test_every_way_is_retried_and_ends_at_the_dead_letters(
    objects: list[Object], kind: str
) -> None:
    for each in of_kind(objects, kind):
        delivery = each["spec"]["delivery"]
        assert delivery["retry"] == RETRIES
        assert delivery["backoffPolicy"] == "exponential"
        assert delivery["deadLetterSink"]["ref"]["name"] == "mnist-dead-letters"


def passes(filters: list[Object], attributes: dict[str, str]) -> bool:
    """Whether an event gets through all filters of a Trigger, of the dialects used here."""

    def one(each: Object) -> bool:
        ((dialect, operand),) = each.items()
        if dialect == "not":
            return not one(operand)
        assert dialect == "exact"
        return all(attributes.get(name) == value for name, value in operand.items())

    return all(one(each) for each in filters)


@pytest.mark.parametrize(
    ("kind", "trigger"),
    [
        (PLAIN, "mnist-images"),
        ("com.example.picture", "mnist-images"),
        (RESPONSE_TYPE, "mnist-answers"),
    ],
)
def test_an_event_has_one_way(triggers: dict[str, Object], kind: str, trigger: str) -> None:
    taken = [name for name, spec in triggers.items() if passes(spec["filters"], {"type": kind})]
    assert taken == [trigger]


def test_images_go_to_the_route_that_answers_events(triggers: dict[str, Object]) -> None:
    subscriber = triggers["mnist-images"]["subscriber"]
    assert subscriber["ref"]["kind"] == "InferenceService"
    assert subscriber["uri"] == "/v1/models/mnist:predict"
    assert triggers["mnist-answers"]["subscriber"]["ref"]["name"] == "mnist-answers"


def test_the_address_of_the_service_may_be_read(objects: list[Object]) -> None:
    (role,) = of_kind(objects, "ClusterRole")
    assert role["metadata"]["labels"] == {"duck.knative.dev/addressable": "true"}
    assert role["rules"] == [
        {
            "apiGroups": ["serving.kserve.io"],
            "resources": ["inferenceservices", "inferenceservices/status"],
            "verbs": ["get", "list", "watch"],
        }
    ]


def orders(objects: list[Object]) -> set[str]:
    annotation = "kafka.eventing.knative.dev/delivery.order"
    found = {each["metadata"]["annotations"][annotation] for each in of_kind(objects, "Trigger")}
    return found | {each["spec"]["ordering"] for each in of_kind(objects, "KafkaSource")}


def test_order_is_kept_on_the_whole_way_or_nowhere(objects: list[Object]) -> None:
    assert orders(objects) == {"unordered"}
    ordered = manifests.render_overlay("production", "events", "events-ordered")
    assert orders(ordered) == {"ordered"}


def test_all_connections_take_their_credentials_from_the_secret() -> None:
    objects = manifests.render_overlay("production", "events", "events-auth")
    (source,) = of_kind(objects, "KafkaSource")
    net = source["spec"]["net"]
    assert (net["tls"].pop("enable"), net["sasl"].pop("enable")) == (True, True)
    keys = [*net["tls"].values(), *net["sasl"].values()]
    assert {each["secretKeyRef"]["name"] for each in keys} == {"mnist-kafka"}
    # The keys are those that KafkaSink and the broker ask for.
    assert {each["secretKeyRef"]["key"] for each in keys} == {
        "ca.crt", "password", "sasl.mechanism", "user",
    }  # fmt: skip
    for sink in of_kind(objects, "KafkaSink"):
        assert sink["spec"]["auth"]["secret"]["ref"]["name"] == "mnist-kafka"
    settings = {each["metadata"]["name"]: each["data"] for each in of_kind(objects, "ConfigMap")}
    assert settings["mnist-broker"]["auth.secret.ref.name"] == "mnist-kafka"


def test_the_overlay_in_the_docs_names_another_kafka_everywhere(tmp_path: Path) -> None:
    (block,) = [text for text in PAGE.split("```yaml\n")[1:] if "patches:" in text]
    added = yaml.safe_load(block.split("```")[0])
    shutil.copytree(programs.ROOT / "manifests", tmp_path, dirs_exist_ok=True)
    path = tmp_path / "overlays/production/kustomization.yaml"
    kustomization = yaml.safe_load(path.read_text(encoding="utf-8"))
    kustomization["components"] = added["components"]
    kustomization["patches"] += added["patches"]
    path.write_text(yaml.safe_dump(kustomization), encoding="utf-8")
    objects = manifests.render(path.parent)
    servers = [
        *(each["spec"]["bootstrapServers"] for each in of_kind(objects, "KafkaSource")),
        *(each["spec"]["bootstrapServers"] for each in of_kind(objects, "KafkaSink")),
    ]
    settings = {each["metadata"]["name"]: each["data"] for each in of_kind(objects, "ConfigMap")}
    names = {settings["mnist-broker"]["bootstrap.servers"], *itertools.chain(*servers)}
    assert len(servers) == 3
    assert len(names) == 1
    assert not any("kafka-bootstrap.kafka.svc" in name for name in names)
