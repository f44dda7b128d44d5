"""What the API on one machine refuses, as an API server with KServe's webhook does."""

from typing import Any

import pytest

from standalone.admission import admit, admit_one
from standalone.objects import Object
from tests.test_objects import refused


def service(**predictor: Any) -> Object:
    containers = {"containers": [{"image": "i"}]}
    spec = {"predictor": {**containers, **predictor}, "transformer": containers}
    return {"kind": "InferenceService", "metadata": {"name": "mnist"}, "spec": spec}


def test_what_is_refused_nowhere_passes_as_it_is() -> None:
    for percent in (0, 10, 100):
        containers = [{"env": [{"name": "A", "value": "1"}]}]
        good = service(canaryTrafficPercent=percent, containers=containers)
        good["status"] = {"of": "the controller"}
        assert admit(good) == good


@pytest.mark.parametrize(
    "made",
    [
        service(containerss=[]),
        service(containers=[{"env": [{"name": "A", "vlaue": "1"}]}]),
        service(containers=[{"env": {"A": "1"}}]),
        {**service(), "spec": []},
        {**service(), "spec": {**service()["spec"], "predictor": None}},
        {"kind": "ConfigMap", "metadata": {"name": "notes", "labels": ["a"]}},
        {"kind": "ConfigMap", "metadata": {"name": "notes", "label": {}}},
    ],
)
def test_fields_that_there_are_not(made: Object) -> None:
    with refused(400, "BadRequest"):
        admit(made)


@pytest.mark.parametrize(
    "made",
    [
        {"kind": "InferenceService", "metadata": {"name": "mnist"}},
        service(containers=[]),
        {**service(), "spec": {"predictor": service()["spec"]["predictor"]}},
        service(canaryTrafficPercent=-1),
        service(canaryTrafficPercent=101),
        service(canaryTrafficPercent=True),
    ],
)
def test_an_inference_service_that_cannot_be_served(made: Object) -> None:
    with refused(422, "Invalid"):
        admit(made)


def test_one_inference_service_is_served_here_and_no_other() -> None:
    admit_here = admit_one("mnist")
    here = {**service(), "metadata": {"name": "mnist", "namespace": "default"}}
    assert admit_here(here) == here
    for place in ({"namespace": "other"}, {"name": "other"}):
        with refused(422, "Invalid"):
            admit_here({**here, "metadata": {**here["metadata"], **place}})
    notes = {"kind": "ConfigMap", "metadata": {"name": "notes", "namespace": "other"}}
    assert admit_here(notes) == notes
    with refused(422, "Invalid"):
        admit_here({**here, "spec": {}})
