"""What we rely on in KServe's server beyond its public interface is still there."""

import inspect

import numpy as np
import pytest
import uvicorn
from kserve import InferInput
from kserve.protocol.grpc.servicer import InferenceServicer
from kserve.protocol.rest.server import RESTServer as SDKRESTServer

from serving.flags import parser
from serving.server import RESTServer, Server
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


def test_the_port_over_tls_is_that_of_the_flag() -> None:
    flags = ["--http_port=8080", "--ssl_certfile=cert.pem", "--ssl_keyfile=key.pem"]
    assert Server(parser("predictor", "", "").parse_args(flags)).http_port == 8080
