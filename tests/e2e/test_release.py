"""The service on a cluster, from its first request to a canary's end: `make e2e`.

The tests follow each other: each takes the service as the one before it has left it.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from kserve import InferInput, InferRequest
from kserve.inference_client import InferenceGRPCClient

from tests import programs
from tests.e2e import cluster, steps
from tests.forms import V1, V2, v1_json, v2_binary, v2_json

pytestmark = [pytest.mark.e2e, pytest.mark.anyio]

SEVEN = (programs.ROOT / "docs/seven.png").read_bytes()
READY = 300
"""Seconds that a revision may take, its image's way to the node included."""
TOLD = 60
"""Seconds until the gateway splits the traffic anew."""
IDLE = 300
"""Seconds until nothing runs; Knative waits for a minute and more."""


def digest(version: int) -> str:
    content = (programs.ROOT / f"models/mnist/{version}/model.json").read_bytes()
    return hashlib.sha256(content).hexdigest()


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[cluster.Cluster]:
    """The cluster, with the overlay of development on it, which is removed at the end."""
    found = cluster.Cluster()
    overlay = cluster.overlay(tmp_path_factory.mktemp("overlay"))
    try:
        known = found.exists("crd", "inferenceservices.serving.kserve.io")
    except cluster.ClusterError as error:
        pytest.fail(f"{error}\nNo cluster answers: `make cluster` makes one.", pytrace=False)
    if not known:
        pytest.fail("The cluster has no KServe: `make cluster` makes one that has.", pytrace=False)
    # The tests change what they find, and delete it.
    if found.exists("inferenceservice", cluster.NAME, f"--namespace={cluster.NAMESPACE}"):
        pytest.fail(
            f"{cluster.NAMESPACE} has an InferenceService {cluster.NAME} already: delete it, or "
            "choose another cluster with KUBE_CONTEXT=",
            pytrace=False,
        )
    made = not found.exists("namespace", cluster.NAMESPACE)
    try:
        found.deploy(overlay)
        for component in ("predictor", "transformer"):
            ready(found, "", component)
        wait_for("an address", lambda: "url" in found.service()["status"])
        yield found
    finally:
        found.remove(overlay, namespace=made)


@pytest.fixture(scope="module")
def gateway(target: cluster.Cluster) -> Iterator[str]:
    with target.gateway() as address:
        yield address


@pytest.fixture(scope="module")
def host(target: cluster.Cluster) -> str:
    return str(urlsplit(target.service()["status"]["url"]).netloc)


@pytest.fixture(scope="module")
def caller(gateway: str, host: str) -> Iterator[httpx.Client]:
    """A client of the transformer; patient, since the service may have to start."""
    url = f"http://{gateway}"
    with httpx.Client(base_url=url, headers={"host": host}, timeout=120) as client:
        yield client


def wait_for(what: str, until: Callable[[], bool], timeout: float = TOLD) -> None:
    steps.wait(what, until, timeout=timeout)


def ready(target: cluster.Cluster, before: str, component: str = "predictor") -> None:
    what = f"a new revision of the {component} that is ready"
    wait_for(what, lambda: steps.is_ready(target.service(), before, component), READY)


def told(target: cluster.Cluster, percent: int) -> None:
    what = f"{percent} % of the traffic for the latest revision"
    wait_for(what, lambda: steps.gets(target.service(), percent))


def ask(caller: httpx.Client, count: int) -> Counter[str]:
    """Which versions answer, one request after the other so that none are merged."""
    found: Counter[str] = Counter()
    for _ in range(count):
        answer = caller.post(V1, content=SEVEN).raise_for_status()
        assert answer.json()["predictions"][0]["digit"] == 7
        found[answer.headers["x-model-version"]] += 1
    return found


def open_canary(target: cluster.Cluster, version: int, percent: int) -> None:
    service = target.service()
    target.patch(steps.version(service, version, digest(version)) + steps.share(percent))
    ready(target, steps.latest(service))


def test_it_answers_over_rest(caller: httpx.Client) -> None:
    answers = [
        caller.post(V1, json=v1_json(SEVEN)),
        caller.post(V1, content=SEVEN),
        caller.post("/predict", files={"images": SEVEN}),
    ]
    for answer in answers:
        assert answer.raise_for_status().json()["predictions"][0]["digit"] == 7
    for request in ({"json": v2_json(SEVEN)}, v2_binary(SEVEN)):
        answer = caller.post(V2, **request).raise_for_status()
        assert answer.json()["outputs"][0]["data"] == [7]
        answers.append(answer)
    assert {answer.headers["x-model-version"] for answer in answers} == {"1"}


def test_the_predictor_has_no_public_address(gateway: str, host: str) -> None:
    # Istio's host is mnist.NAMESPACE.DOMAIN, Kourier's mnist-transformer.NAMESPACE.DOMAIN.
    predictor = f"{cluster.NAME}-predictor.{host.partition('.')[2]}"
    url = f"http://{gateway}/v2/models/mnist"
    assert httpx.get(url, headers={"host": predictor}, timeout=60).status_code == 404


@pytest.mark.parametrize(("percent", "count"), [(10, 400), (50, 200)])
def test_a_canary_gets_its_share(
    target: cluster.Cluster, caller: httpx.Client, percent: int, count: int
) -> None:
    if percent == 10:
        open_canary(target, 2, percent)
    else:
        target.patch(steps.share(percent))
    told(target, percent)
    found = ask(caller, count)
    assert found.keys() <= {"1", "2"}
    assert steps.is_plausible(found["2"], count, percent), found


def test_a_promoted_canary_gets_everything(target: cluster.Cluster, caller: httpx.Client) -> None:
    before = steps.latest(target.service())
    target.patch(steps.share(100))
    told(target, 100)
    assert ask(caller, 50).keys() == {"2"}
    target.patch(steps.all_of_it())
    assert ask(caller, 50).keys() == {"2"}
    assert steps.latest(target.service()) == before


def test_deploying_again_leaves_what_was_promoted(
    target: cluster.Cluster, caller: httpx.Client, tmp_path: Path
) -> None:
    before = target.service()
    target.deploy(cluster.overlay(tmp_path))
    assert target.service()["spec"] == before["spec"]
    assert ask(caller, 50).keys() == {"2"}
    assert steps.latest(target.service()) == steps.latest(before)


def test_a_canary_is_aborted_without_a_further_answer(
    target: cluster.Cluster, caller: httpx.Client
) -> None:
    open_canary(target, 1, 10)
    told(target, 10)
    target.patch(steps.share(0))
    told(target, 0)
    assert ask(caller, 50).keys() == {"2"}
    # The canary is ready: without a share in the spec, it would get everything.
    open_canary(target, 2, 0)
    assert ask(caller, 50).keys() == {"2"}
    target.patch(steps.all_of_it())
    told(target, 100)
    assert ask(caller, 50).keys() == {"2"}


def test_it_scales_to_zero_and_back(target: cluster.Cluster, caller: httpx.Client) -> None:
    wait_for("no pods", lambda: not target.pods(), IDLE)
    assert ask(caller, 1).keys() == {"2"}
    assert target.pods()


async def test_it_answers_over_grpc_with_the_component(
    target: cluster.Cluster, gateway: str, host: str, tmp_path: Path
) -> None:
    before = steps.latest(target.service(), "transformer")
    target.deploy(cluster.overlay(tmp_path, "grpc"))
    ready(target, before, "transformer")
    images = InferInput("images", [1], "BYTES", [SEVEN])
    options = [("grpc.default_authority", host)]
    async with InferenceGRPCClient(gateway, channel_args=options) as caller:
        answer = await caller.infer(InferRequest("mnist", [images]))
    digits = next(output for output in answer.outputs if output.name == "digit")
    assert digits.as_numpy().tolist() == [7]
    assert answer.model_version == "2"
