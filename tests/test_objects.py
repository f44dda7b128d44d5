"""The objects of the API on one machine: versions, patches, conflicts, field by field."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from standalone.objects import APIError, Object, Objects, leaves, tree

PATH = "/api/v1/namespaces/default/configmaps/notes"


def notes(**data: str) -> Object:
    return {"kind": "ConfigMap", "metadata": {"name": "notes"}, "data": data}


@pytest.fixture
def objects() -> Objects:
    objects = Objects()
    objects.create(PATH, notes(a="1", b="2"), "me")
    return objects


def refused(code: int, reason: str) -> Any:
    return pytest.raises(APIError, check=lambda error: (error.code, error.reason) == (code, reason))


def test_what_is_not_there_is_not_found(objects: Objects) -> None:
    with refused(404, "NotFound"):
        objects.get("/nowhere")
    with refused(404, "NotFound"):
        objects.patch("/nowhere", {}, "me")
    with refused(404, "NotFound"):
        objects.replace("/nowhere", {"metadata": {"name": "nowhere"}}, "me")


def test_nothing_is_created_twice(objects: Objects) -> None:
    with refused(409, "AlreadyExists"):
        objects.create(PATH, notes(), "me")


@pytest.mark.parametrize(
    "patch",
    [
        {"data": {"a": "3", "b": None}},
        [
            {"op": "test", "path": "/data/a", "value": "1"},
            {"op": "replace", "path": "/data/a", "value": "3"},
            {"op": "remove", "path": "/data/b"},
        ],
    ],
    ids=["merge", "JSON"],
)
def test_a_patch_sets_and_removes(objects: Objects, patch: Any) -> None:
    assert objects.patch(PATH, patch, "me")["data"] == {"a": "3"}
    assert objects.get(PATH)["metadata"]["resourceVersion"] == "2"


def test_an_empty_merge_patch_empties_nothing(objects: Objects) -> None:
    assert objects.patch(PATH, {"data": {}}, "me")["data"] == {"a": "1", "b": "2"}
    assert objects.patch(PATH, {"metadata": {"labels": {}}}, "me")["metadata"]["labels"] == {}


def test_null_is_nothing(objects: Objects) -> None:
    objects.patch(PATH, [{"op": "add", "path": "/metadata/labels", "value": None}], "me")
    assert "labels" not in objects.get(PATH)["metadata"]


def test_what_the_webhook_fills_in_stays() -> None:
    objects = Objects(lambda made: {**made, "data": {"default": "1"}})
    assert objects.create(PATH, notes(), "me") == objects.get(PATH)
    assert objects.get(PATH)["data"] == {"default": "1"}


@pytest.mark.parametrize(
    "patch", [{"apiVersion": "v2"}, {"kind": "Secret"}, {"metadata": {"namespace": "other"}}]
)
def test_an_object_stays_what_and_where_it_is(objects: Objects, patch: Object) -> None:
    with refused(422, "Invalid"):
        objects.patch(PATH, patch, "me")


@pytest.mark.parametrize("write", ["patch", "replace", "apply"])
@pytest.mark.parametrize("before", [{}, {"ready": True}])
def test_only_the_controller_sets_the_status(objects: Objects, before: Object, write: str) -> None:
    objects.set_status(PATH, before)
    more: dict[str, Any] = {"force": False} if write == "apply" else {}
    for ready in (False, None):
        wanted = {**notes(a="1"), "status": {"ready": ready, "more": 1}}
        getattr(objects, write)(PATH, wanted, "me", **more)
        assert objects.get(PATH)["status"] == before
    objects.patch(PATH, [{"op": "remove", "path": "/status"}], "me")
    assert objects.get(PATH)["status"] == before


def test_two_may_apply_what_they_have_read(objects: Objects) -> None:
    """It has a status, and that has changed since."""
    for manager, ready in (("me", False), ("you", True)):
        objects.set_status(PATH, {"ready": ready})
        read = objects.get(PATH)
        objects.set_status(PATH, {"ready": None})
        del read["metadata"]["resourceVersion"]
        objects.apply(PATH, read, manager, force=False)


def test_a_json_patch_whose_test_fails_changes_nothing(objects: Objects) -> None:
    before = objects.get(PATH)
    with refused(422, "Invalid"):
        objects.patch(PATH, [{"op": "test", "path": "/data/a", "value": "9"}], "me")
    assert objects.get(PATH) == before


@pytest.mark.parametrize("path", ["/nothing/here", "/data/a/b", "data", "/nothing"])
def test_a_json_patch_of_what_is_not_there_is_refused(objects: Objects, path: str) -> None:
    with refused(422, "Invalid"):
        objects.patch(PATH, [{"op": "replace", "path": path, "value": "3"}], "me")


def test_a_json_patch_leaves_an_object(objects: Objects) -> None:
    with refused(422, "Invalid"):
        objects.patch(PATH, [{"op": "replace", "path": "", "value": 5}], "me")


def test_an_object_in_the_place_of_a_value(objects: Objects) -> None:
    assert objects.patch(PATH, {"data": {"a": {"c": "1"}}}, "me")["data"]["a"] == {"c": "1"}
    assert objects.patch(PATH, {"data": {"b": {}}}, "me")["data"]["b"] == {}
    with refused(422, "Invalid"):
        objects.patch(PATH, {"kind": {"of": "ConfigMap"}}, "me")


@pytest.mark.parametrize("write", ["patch", "replace", "apply"])
def test_an_old_resource_version_is_a_conflict(objects: Objects, write: str) -> None:
    old = objects.get(PATH)
    objects.patch(PATH, {"data": {"a": "3"}}, "somebody")
    more: dict[str, Any] = {"force": True} if write == "apply" else {}
    with refused(409, "Conflict"):
        getattr(objects, write)(PATH, old, "me", **more)
    assert objects.get(PATH)["data"]["a"] == "3"


def test_a_dry_run_shows_and_changes_nothing(objects: Objects) -> None:
    before = objects.get(PATH)
    assert objects.patch(PATH, {"data": {"a": "3"}}, "me", dry=True)["data"]["a"] == "3"
    objects.apply(PATH, notes(a="1"), "git", force=False, dry=True)
    assert objects.get(PATH) == before
    assert objects.apply(PATH, notes(b="2"), "git", force=False)["data"] == before["data"]


def test_apply_removes_what_it_applied_before_and_nothing_else(objects: Objects) -> None:
    objects.apply(PATH, notes(c="1", d="1", e="1"), "git", force=False)
    objects.patch(PATH, {"data": {"e": "3"}}, "you")
    for wanted in (notes(d="2"), notes()):
        made = objects.apply(PATH, wanted, "git", force=False)
        assert made["data"] == {"a": "1", "b": "2", "e": "3", **wanted["data"]}


def test_apply_does_not_take_what_another_has_set_unless_forced(objects: Objects) -> None:
    objects.apply(PATH, notes(c="1"), "git", force=False)
    objects.patch(PATH, {"data": {"c": "2"}}, "kubectl")
    with refused(409, "Conflict") as caught:
        objects.apply(PATH, notes(c="1"), "git", force=False)
    assert 'with 1 conflicts: conflict with "kubectl": .data.c' in str(caught.value)
    assert objects.apply(PATH, notes(c="2"), "git", force=False)["data"]["c"] == "2"
    assert objects.apply(PATH, notes(c="3"), "git", force=True)["data"]["c"] == "3"
    objects.apply(PATH, notes(c="3"), "you", force=False)
    with refused(409, "Conflict"):
        objects.apply(PATH, notes(c="4"), "git", force=False)


def test_what_two_have_applied_stays_until_both_leave_it_out(objects: Objects) -> None:
    for manager in ("git", "you"):
        objects.apply(PATH, notes(c="1"), manager, force=False)
    assert objects.apply(PATH, notes(), "git", force=False)["data"]["c"] == "1"
    assert "c" not in objects.apply(PATH, notes(), "you", force=False)["data"]


def test_each_object_has_managers_of_its_own(objects: Objects) -> None:
    path, more = PATH.replace("notes", "more"), {"kind": "ConfigMap", "metadata": {"name": "more"}}
    objects.apply(path, {**more, "data": {"a": "9"}}, "you", force=False)
    assert objects.apply(PATH, notes(a="3"), "me", force=False)["data"]["a"] == "3"
    objects.delete(PATH)
    made = objects.apply(path, {**more, "data": {"b": "1"}}, "you", force=False)
    assert made["data"] == {"b": "1"}


def test_only_what_changes_has_a_new_version(objects: Objects) -> None:
    before = objects.get(PATH)
    objects.patch(PATH, {"data": {"a": "1"}}, "me")
    objects.set_status(PATH, {"ready": True})
    objects.set_status(PATH, {"ready": True})
    assert objects.get(PATH)["metadata"]["resourceVersion"] == "2"
    assert objects.get(PATH)["metadata"]["generation"] == before["metadata"]["generation"]
    objects.patch(PATH, {"spec": {"replicas": 1}}, "me")
    assert objects.get(PATH)["metadata"]["generation"] == before["metadata"]["generation"] + 1


def test_who_managed_what_is_deleted_has_no_say_in_what_is_made_again(objects: Objects) -> None:
    objects.delete(PATH)
    assert objects.apply(PATH, notes(a="9"), "you", force=False)["data"] == {"a": "9"}


def test_what_is_deleted_is_gone(objects: Objects) -> None:
    gone = objects.delete(PATH)
    assert gone["data"] == {"a": "1", "b": "2"}
    assert gone["metadata"]["resourceVersion"] == objects.version == "2"
    assert objects.deleted == {PATH: gone}
    with refused(404, "NotFound"):
        objects.delete(PATH)
    objects.create(PATH, notes(), "me")
    assert objects.deleted == {}


def test_a_watch_sees_the_changes(objects: Objects) -> None:
    with objects.watch() as events:
        objects.patch(PATH, {"data": {"a": "3"}}, "me")
        objects.delete(PATH)
        objects.create(PATH, notes(a="4"), "me")
        seen = [events.get_nowait() for _ in range(events.qsize())]
    objects.delete(PATH)
    assert events.empty()
    assert [(each["type"], each["object"]["data"]["a"]) for each in seen] == [
        ("MODIFIED", "3"),
        ("DELETED", "3"),
        ("ADDED", "4"),
    ]


def test_what_is_given_out_is_a_copy(objects: Objects) -> None:
    with objects.watch() as events:
        made = objects.patch(PATH, {"data": {"a": "3"}}, "me")
        told = events.get_nowait()["object"]
    for each in (made, told, objects.get(PATH), *objects.list()):
        each["data"].clear()
    assert objects.get(PATH)["data"] == {"a": "3", "b": "2"}


VALUES = st.recursive(
    st.integers() | st.text() | st.lists(st.integers()),
    lambda inner: st.dictionaries(st.text(), inner),
    max_leaves=10,  # more take longer to draw than to try
)


@given(st.dictionaries(st.text(), VALUES))
def test_an_object_is_its_fields(value: Object) -> None:
    assert tree(leaves(value)) == value
