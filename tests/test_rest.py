"""What KServe's app answers beyond inferences, and how errors are told."""

import httpx
import pytest

from serving.errors import LONGEST, InvalidInput, Overloaded, TimedOut, Unavailable
from tests.echo import V1, Echo

pytestmark = pytest.mark.anyio


async def test_v2_metadata_names_the_version(echo_client: httpx.AsyncClient) -> None:
    for path in ("/v2/models/mnist", "/v2/models/mnist/versions/7"):
        assert (await echo_client.get(path)).json() == {
            "name": "mnist",
            "versions": ["7"],
            "platform": "echo",
            "inputs": [{"name": "images", "datatype": "UINT8", "shape": [-1, 28, 28]}],
            "outputs": [],
        }


async def test_v2_readiness(echo_client: httpx.AsyncClient, echo: Echo) -> None:
    path = "/v2/models/mnist/versions/7/ready"
    assert (await echo_client.get(path)).status_code == 200
    echo.ready = False
    assert (await echo_client.get(path)).status_code == 503


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/models/other:predict"),
        ("POST", "/v2/models/other/infer"),
        ("POST", "/v2/models/mnist/versions/8/infer"),
        ("GET", "/v2/models/other"),
        ("GET", "/v2/models/mnist/versions/8"),
        ("GET", "/v2/models/mnist/versions/8/ready"),
        ("GET", "/v1/models/" + "x" * 5000),
        ("GET", "/v2/models/" + "x" * 5000 + "/ready"),
        ("GET", "/nothing/here"),
        ("GET", "/v2/"),  # no redirection to /v2, whose host would be the caller's choice
        ("GET", "/v1/models/"),
    ],
)
async def test_what_is_not_there_is_404(
    echo_client: httpx.AsyncClient, method: str, path: str
) -> None:
    answer = await echo_client.request(method, path)
    assert answer.status_code == 404
    assert 0 < len(answer.json()["error"]) <= LONGEST + 1


@pytest.mark.parametrize(
    ("error", "status", "retry_after"),
    [
        (InvalidInput("instance 3: no"), 400, None),
        (Overloaded("busy"), 429, "2"),
        (Unavailable("away"), 503, "1"),
        (TimedOut("slow"), 504, None),
    ],
)
async def test_errors_keep_their_status_and_message(
    echo_client: httpx.AsyncClient,
    echo: Echo,
    error: Exception,
    status: int,
    retry_after: str | None,
) -> None:
    echo.error = error
    answer = await echo_client.post(V1, json={})
    assert (answer.status_code, answer.json()) == (status, {"error": str(error)})
    assert answer.headers.get("retry-after") == retry_after
