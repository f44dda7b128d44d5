"""The Kubernetes API on one machine: what ``kubectl`` does not show of it."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from standalone.objects import Objects
from standalone.table import table
from tests import cluster

MAPS = "/api/v1/namespaces/default/configmaps"
APPLY = "application/apply-patch+yaml"
TABLE = {"Accept": "application/json;as=Table;v=v1;g=meta.k8s.io"}
NOTES = {"kind": "ConfigMap", "metadata": {"name": "notes"}, "data": {"a": "1"}}


@pytest.fixture
def client(tmp_path: Path) -> Iterator[httpx.Client]:
    with cluster.serve(Objects(), tmp_path) as kubeconfig:
        content = yaml.safe_load(kubeconfig.read_text(encoding="utf-8"))
        with httpx.Client(base_url=content["clusters"][0]["cluster"]["server"]) as client:
            yield client


def test_objects_are_made_found_and_deleted(client: httpx.Client) -> None:
    made = client.post(MAPS, json=NOTES).json()
    assert made["metadata"]["namespace"] == "default"
    assert client.get(f"{MAPS}/notes").json() == made
    assert client.get("/api/v1/configmaps").json()["items"] == [made]
    assert client.get("/api/v1/namespaces/other/configmaps").json()["items"] == []
    chosen = client.get(MAPS, params={"fieldSelector": "metadata.name=else"})
    assert chosen.json()["items"] == []
    labelled = {"metadata": {"name": "more", "labels": {"a": "1", "b": "2"}}}
    more = client.post(MAPS, json=labelled).json()
    chosen = client.get(MAPS, params={"labelSelector": "a=1, b==2"})
    assert chosen.json()["items"] == [more]
    chosen = client.get(MAPS, params={"labelSelector": "a=2", "watch": "false"})
    assert chosen.json()["items"] == []
    assert client.delete(f"{MAPS}/notes").is_success
    assert client.get(f"{MAPS}/notes").status_code == 404


@pytest.mark.parametrize("how", [{"params": {"dryRun": "All"}}, {"json": {"dryRun": ["All"]}}])
def test_a_dry_run_deletes_nothing(client: httpx.Client, how: dict[str, Any]) -> None:
    made = client.post(MAPS, json=NOTES).json()
    assert client.request("DELETE", f"{MAPS}/notes", **how).json() == made
    assert client.get(f"{MAPS}/notes").json() == made


@pytest.mark.parametrize(
    ("method", "name", "media_type"),
    [
        ("POST", "more", "application/json"),
        ("PUT", "notes", "application/json"),
        ("PATCH", "notes", "application/merge-patch+json"),
        ("PATCH", "notes", APPLY),
    ],
)
def test_a_dry_run_shows_and_writes_nothing(
    client: httpx.Client, method: str, name: str, media_type: str
) -> None:
    made = client.post(MAPS, json=NOTES).json()
    answer = client.request(
        method,
        MAPS if method == "POST" else f"{MAPS}/{name}",
        params={"dryRun": "All", "force": "true"},
        json={"metadata": {"name": name}, "data": {"a": "2"}},
        headers={"Content-Type": media_type},
    )
    assert answer.json()["data"] == {"a": "2"}
    assert client.get(MAPS).json()["items"] == [made]


def test_who_writes_is_named_in_the_url_or_is_the_program(client: httpx.Client) -> None:
    client.post(MAPS, json=NOTES, headers={"User-Agent": "kubectl/v1.34.0 (linux/amd64)"})

    def apply(value: str, **more: str) -> httpx.Response:
        return client.patch(
            f"{MAPS}/notes",
            params={"fieldManager": "git"} | more,
            json={"metadata": {"name": "notes"}, "data": {"a": value}},
            headers={"Content-Type": APPLY},
        )

    assert 'conflict with "kubectl": .data.a' in apply("2").json()["message"]
    assert apply("2", force="true").json()["data"] == {"a": "2"}
    assert apply("3").json()["data"] == {"a": "3"}
    assert 'conflict with "git": .data.a' in apply("4", fieldManager="me").json()["message"]


def test_a_patch_leaves_what_it_does_not_name(client: httpx.Client) -> None:
    made = client.post(MAPS, json=NOTES).json()
    patch = {"data": {"more": "yes"}}
    merge = {"Content-Type": "application/merge-patch+json"}
    found = client.patch(f"{MAPS}/notes", content=json.dumps(patch), headers=merge).json()
    assert found["metadata"]["uid"] == made["metadata"]["uid"]
    assert found["data"] == {**made.get("data", {}), **patch["data"]}


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH"])
def test_the_path_says_the_kind_where_the_body_does_not(client: httpx.Client, method: str) -> None:
    """Python's client leaves it out."""
    if method == "PUT":
        client.post(MAPS, json=NOTES)
    path = MAPS if method == "POST" else f"{MAPS}/notes"
    headers = {"Content-Type": APPLY}
    made = client.request(method, path, json={"metadata": {"name": "notes"}}, headers=headers)
    assert made.is_success
    (found,) = client.get(MAPS).json()["items"]
    assert (found["apiVersion"], found["kind"]) == ("v1", "ConfigMap")


def test_names_can_be_made_up(client: httpx.Client) -> None:
    event = {"kind": "Event", "metadata": {"generateName": "rollout-"}}
    made = [client.post("/api/v1/namespaces/default/events", json=event) for _ in range(2)]
    assert len({each.json()["metadata"]["name"] for each in made}) == 2
    named = {"metadata": {"generateName": "notes-", "name": "notes"}}
    assert client.post(MAPS, json=named).json()["metadata"]["name"] == "notes"


@pytest.mark.parametrize(
    ("method", "path", "body", "code", "message"),
    [
        ("GET", "/api/v1/namespaces/default/secrets", "", 404, "could not find"),
        ("GET", f"{MAPS}?labelSelector=a!=1", "", 400, "only key=value"),
        ("GET", f"{MAPS}?labelSelector=a", "", 400, "only key=value"),
        ("POST", "/api/v1/namespaces/default/pods", "{}", 405, "with their revisions"),
        ("GET", "/favicon.ico", "", 404, "could not find"),
        ("POST", MAPS, "[", 400, "the body cannot be read"),
        ("POST", MAPS, "", 400, "the body is no object"),
        ("POST", MAPS, "{}", 422, "name or generateName is required"),
        ("PATCH", f"{MAPS}/notes", "{}", 404, '"notes" not found'),
        ("PUT", f"{MAPS}/notes", "[]", 405, "PUT is not done here"),
        ("POST", f"{MAPS}/notes", "metadata: {name: a}", 405, "POST is not done here"),
        ("OPTIONS", MAPS, "", 405, "OPTIONS is not done here"),
        ("POST", MAPS, "a: .nan", 400, "the body cannot be read"),
        ("POST", MAPS, "a: 2026-01-01", 400, "the body cannot be read"),
        ("POST", MAPS, "[" * 5000, 400, "the body cannot be read"),
        ("POST", MAPS, '{"metadata": null}', 400, "its metadata are no object"),
        ("POST", MAPS, '{"kind": "Pod"}', 400, "kind must be ConfigMap"),
        ("POST", MAPS, '{"metadata": {"namespace": "other"}}', 400, "namespace must be default"),
        ("POST", MAPS, '{"metadata": {"name": 5}}', 400, "metadata.name must be 5"),
        ("GET", f"{MAPS}?watch=1&timeoutSeconds=soon", "", 400, "soon"),
        ("DELETE", cluster.SERVICE.format("default"), "", 405, "stop that"),
    ],
)
def test_what_cannot_be_done_is_a_status(
    client: httpx.Client, method: str, path: str, body: str, code: int, message: str
) -> None:
    answer = client.request(method, path, content=body)
    assert answer.status_code == answer.json()["code"] == code
    assert message in answer.json()["message"]


@pytest.mark.parametrize(
    ("method", "body"),
    [("PUT", {}), ("PUT", {"metadata": {"name": "other"}}), ("PATCH", {})],
    ids=["no name", "another", "no name, applied"],
)
def test_the_name_is_that_of_the_path(
    client: httpx.Client, method: str, body: dict[str, Any]
) -> None:
    if method == "PUT":
        client.post(MAPS, json=NOTES)
    headers = {"Content-Type": APPLY}
    answer = client.request(method, f"{MAPS}/notes", json=body, headers=headers)
    assert answer.status_code == 400
    assert "metadata.name must be notes" in answer.json()["message"]


def test_what_the_server_writes_stays(client: httpx.Client) -> None:
    """A file with the name alone replaces the rest."""
    before = client.post(MAPS, json=NOTES).json()["metadata"]
    after = client.put(f"{MAPS}/notes", json={"metadata": {"name": "notes"}}).json()["metadata"]
    for field in ("uid", "creationTimestamp", "generation"):
        assert after[field] == before[field]


@pytest.mark.parametrize(("accept", "watch"), [({}, "true"), (TABLE, "1")])
def test_a_watch_begins_where_the_list_ended(
    client: httpx.Client, accept: dict[str, str], watch: str
) -> None:
    client.post(MAPS, json=NOTES)
    version = client.get(MAPS, headers=accept).json()["metadata"]["resourceVersion"]
    more = client.post(MAPS, json={"metadata": {"name": "more"}}).json()
    client.post("/api/v1/namespaces/default/events", json={"metadata": {"name": "another"}})
    query = {"watch": watch, "resourceVersion": version, "timeoutSeconds": "1"}
    (event,) = client.get(MAPS, params=query, headers=accept).text.splitlines()
    shown = json.loads(event)["object"]
    assert (shown["rows"][0]["object"] if accept else shown) == more


@pytest.mark.parametrize(
    ("minutes", "age"),
    [(1.5, "90s"), (2, "2m"), (179, "179m"), (180, "3h"), (48 * 60 - 1, "47h"), (48 * 60, "2d")],
)
def test_an_age_is_short(minutes: float, age: str) -> None:
    made = datetime.now(UTC) - timedelta(minutes=minutes)
    item = {"metadata": {"name": "notes", "creationTimestamp": made.isoformat()}}
    assert table("ConfigMap", [item], "1")["rows"][0]["cells"] == ["notes", age]


@pytest.mark.parametrize("listed", [True, False])
def test_a_watch_tells_what_was_deleted_since_the_list(
    client: httpx.Client, *, listed: bool
) -> None:
    """``kubectl wait --for=delete`` would wait for it in vain."""
    client.post(MAPS, json=NOTES)
    version = client.get(MAPS).json()["metadata"]["resourceVersion"] if listed else ""
    client.delete(f"{MAPS}/notes")
    query = {"watch": "1", "resourceVersion": version, "timeoutSeconds": "1"}
    events = [json.loads(line) for line in client.get(MAPS, params=query).text.splitlines()]
    assert [(event["type"], event["object"]["metadata"]["name"]) for event in events] == (
        [("DELETED", "notes")] if listed else []
    )


def test_protobuf_is_an_unsupported_media_type(client: httpx.Client) -> None:
    """As ``kubectl create configmap`` sends it."""
    headers = {"Content-Type": "application/vnd.kubernetes.protobuf"}
    answer = client.post(MAPS, content=b"k8s\0", headers=headers)
    assert answer.status_code == 415
    assert "--dry-run=client -o yaml" in answer.json()["message"]


def test_a_web_page_of_another_name_is_refused(client: httpx.Client) -> None:
    assert client.get(MAPS, headers={"Host": "rebound.example.com"}).status_code == 403
    assert client.get(MAPS, headers={"Host": "localhost:8001"}).is_success
