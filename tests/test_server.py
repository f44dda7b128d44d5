"""What we rely on in KServe's server beyond its public interface is still there."""

import inspect

import kserve.model_server
import numpy as np
import pytest
import uvicorn
from kserve import InferInput
from kserve.protocol.grpc.servicer import InferenceServicer
from kserve.protocol.rest.server import RESTServer as SDKRESTServer

from serving.server import RESTServer, Server, parser
from serving.v2 import raw_data


@pytest.mark.parametrize("hook", ["_add_middlewares", "_add_exception_handlers"])
def test_the_hooks_of_the_rest_server_are_called(hook: str) -> None:
    assert hook in vars(RESTServer)
    assert f"self.{hook}(app)" in inspect.getsource(SDKRESTServer.create_application)


def test_the_rest_server_is_started_and_stopped_as_ours_is() -> None:
    source = inspect.getsource(SDKRESTServer.start)
    assert "self.create_application()" in source
    assert "self._server.serve()" in source
    assert inspect.iscoroutinefunction(uvicorn.Server.shutdown)


def test_the_address_comes_from_the_configuration() -> None:
    # The SDK gives uvicorn 0.0.0.0, and keeps the configuration where we can change it.
    source = inspect.getsource(SDKRESTServer.__init__)
    assert 'host="0.0.0.0"' in source
    assert "self._server = _RefreshingServer(self.config)" in source


@pytest.mark.parametrize(
    "method",
    ["ServerLive", "ServerReady", "ServerMetadata", "ModelReady", "validate_grpc_request"],
)
def test_what_our_servicer_leaves_to_the_sdks_is_there(method: str) -> None:
    assert method in vars(InferenceServicer)  # its base has all names of the protocol


def test_raw_tensors_are_where_we_look() -> None:
    tensor = InferInput("images", [2], "UINT8")
    assert raw_data(tensor) is None
    tensor.set_data_from_numpy(np.array([7, 8], np.uint8))
    assert raw_data(tensor) == b"\x07\x08"


def test_the_flags_are_kserves_and_have_our_defaults() -> None:
    flags = parser("predictor", "", "")
    assert {action.dest for action in kserve.model_server.parser._actions} <= {
        action.dest for action in flags._actions
    }
    args = flags.parse_args([])
    assert (args.host, args.model_name, args.workers) == ("127.0.0.1", "mnist", 1)
    assert (args.predictor_protocol, args.predictor_request_timeout_seconds) == ("v2", 10)


def test_the_help_is_of_what_is_done_here() -> None:
    text = " ".join(parser("predictor", "", "").format_help().split())
    assert "--workers WORKERS Must be 1" in text
    assert "when the connection fails. (default: 1)" in text
    assert "Defaults to" not in text


@pytest.mark.parametrize(
    "flag",
    [
        "--http_port=65536",
        "--grpc_port=-1",
        "--metrics_port=65536",
        "--timeout-keep-alive=0",
        "--grpc_max_receive_message_length=-1",
        "--grpc_max_send_message_length=0",
        "--predictor_request_timeout_seconds=0",
        "--predictor_request_retries=-1",
    ],
)
def test_numbers_with_which_nothing_is_answered_are_refused(
    flag: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parser("predictor", "", "").parse_args([flag])
    assert f"argument {flag.partition('=')[0]}: must be at " in capsys.readouterr().err


def test_none_is_a_number_of_retries_and_of_a_port() -> None:
    args = parser("predictor", "", "").parse_args(
        ["--predictor_request_retries=0", "--metrics_port=0"]
    )
    assert (args.predictor_request_retries, args.metrics_port) == (0, 0)


def test_the_port_over_tls_is_that_of_the_flag() -> None:
    flags = ["--http_port=8080", "--ssl_certfile=cert.pem", "--ssl_keyfile=key.pem"]
    assert Server(parser("predictor", "", "").parse_args(flags)).http_port == 8080
