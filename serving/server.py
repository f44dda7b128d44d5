"""The model server of both programs: KServe's, with our limits and protocols."""

import argparse
import asyncio
import functools
import logging
import os
import signal
import socket
import sys
import warnings
from collections.abc import Callable
from typing import Any

import httpx
import kserve.model_server
from fastapi import FastAPI
from fastapi.exceptions import FastAPIDeprecationWarning
from grpc import RpcError
from kserve import ModelServer
from kserve.protocol.dataplane import DataPlane as SDKDataPlane
from kserve.protocol.rest.server import RESTServer as SDKRESTServer
from uvicorn.loops.auto import auto_loop_factory

from serving import grpc, http, http2, metrics, tracing
from serving.app import App
from serving.gate import Bodies, InHand
from serving.listener import BACKLOG, Listener, listen
from serving.model import ServedModel
from serving.rest import tell_errors

# The SDK's app answers with a class that FastAPI has deprecated.
warnings.filterwarnings("ignore", category=FastAPIDeprecationWarning)

log = logging.getLogger(__name__)

GRACE = 30
"""Seconds that requests in flight have to finish after SIGTERM."""


class Server(ModelServer):  # type: ignore[misc]
    """Serves one model over REST and gRPC until SIGTERM or SIGINT, then lets requests finish."""

    def __init__(self, args: argparse.Namespace) -> None:
        """Take the address and the limits from ``args``, see ``flags.parser``."""
        if args.workers != 1:
            sys.exit("--workers: must be 1, since requests share batches; scale by replicas")
        if args.ssl_keyfile and not args.ssl_certfile:
            sys.exit("--ssl_keyfile: needs --ssl_certfile; without it, there is no TLS")
        super().__init__(
            http_port=args.http_port,
            grpc_port=args.grpc_port,
            enable_grpc=args.enable_grpc,
            timeout_keep_alive=args.timeout_keep_alive,
            ssl_certfile=args.ssl_certfile,
            ssl_keyfile=args.ssl_keyfile,
        )
        self.http_port = args.http_port  # over TLS the SDK takes 8443 for 8080
        self.dataplane = DataPlane(self.registered_models)
        self._args = args

    def start(self, model: ServedModel, add_routes: Callable[[App], None] | None = None) -> None:
        """Serve ``model`` until SIGTERM or SIGINT, then end the process.

        ``add_routes`` adds endpoints of the program's own.
        """
        self.register_model(model)
        model.start()
        rest = kserve.model_server.app
        rest.router.routes.clear()  # FastAPI's docs, which describe the SDK's endpoints, not ours
        app = App(model, rest)
        if add_routes:
            add_routes(app)
        with asyncio.Runner(loop_factory=auto_loop_factory()) as runner:
            runner.run(self._serve_model(model, app))
            logging.shutdown()
            # Python would wait for a thread that hangs, in a decoder or a look-up of a name.
            os._exit(0)

    async def _serve_model(self, model: ServedModel, app: App) -> None:
        if self._args.metrics_port:
            metrics.serve(self._args.host, self._args.metrics_port)
        try:
            tls = grpc.tls(self.ssl_certfile, self.ssl_keyfile)
        except OSError as error:
            sys.exit(f"--ssl_certfile={self.ssl_certfile} or its key cannot be used: {error}")
        rest = RESTServer(self, app, self._args)
        grpc_server = None
        if self.enable_grpc:
            grpc_server = await grpc.start(
                model,
                self.dataplane,
                host=self._args.host,
                port=self.grpc_port,
                max_receive=self._args.grpc_max_receive_message_length,
                max_send=self._args.grpc_max_send_message_length,
                ssl=tls,
            )
        log.info("%s, version %s", model.name, model.version or "of the predictor")
        # uvicorn handles the signals: it stops listening, lets requests finish, then raises them
        # again for these handlers, which have nothing left to do. A signal that comes earlier
        # stops uvicorn as soon as it has started.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: rest.stop())
        await rest.start(grpc_server)
        await model.close()
        tracing.close()


class DataPlane(SDKDataPlane):  # type: ignore[misc]
    """The SDK's data plane, with correct answers about health, readiness and extensions."""

    async def live(self) -> dict[str, str]:
        """Liveness in V1 and V2: ``alive``, or ``hanging`` if only a restart helps."""
        hangs = any(model.threads.hang() for model in self._model_registry.get_models().values())
        return {"status": "hanging" if hangs else "alive"}

    async def ready(self) -> bool:
        """Readiness, of the predictor too with ``--enable_predictor_health_check``."""
        try:
            return bool(await super().ready())
        except (httpx.HTTPError, RpcError):  # the predictor is unavailable
            return False

    def metadata(self) -> dict[str, Any]:
        """V2 server metadata."""
        return {**super().metadata(), "extensions": ["binary_tensor_data"]}


class RESTServer(SDKRESTServer):  # type: ignore[misc]
    """The SDK's REST server, with settings that it does not offer.

    Overrides hooks of kserve 0.21.0 (``protocol/rest/server.py``) that are not public:
    ``start``, ``_add_middlewares`` and ``_add_exception_handlers``.
    """

    def __init__(self, server: ModelServer, app: App, args: argparse.Namespace) -> None:
        super().__init__(
            app,
            server.dataplane,
            server.model_repository_extension,
            server.http_port,
            grace_period=GRACE,
            timeout_keep_alive=server.timeout_keep_alive,
            ssl_certfile=server.ssl_certfile,
            ssl_keyfile=server.ssl_keyfile,
        )
        self.config.host = args.host  # the SDK's is 0.0.0.0
        self._socket = listen(args.host, server.http_port, "--http_port")
        self._listener = Listener(self._socket)
        self.config.backlog = BACKLOG
        self.config.proxy_headers = False  # the client's address is not used
        self.config.ws = "none"  # a WebSocket would bypass `http.Protocol` and its limits
        self.config.http = functools.partial(
            http.Protocol,
            listener=self._listener,
            app=app,
            in_hand=InHand(args.max_requests),
            bodies=Bodies(args.max_body),
        )

    async def start(self, grpc_server: http2.Server | None) -> None:
        """Serve until a signal, from the socket of the ``Listener``; stop ``grpc_server`` too."""
        self.create_application()
        shutdown = self._server.shutdown

        async def stop(sockets: list[socket.socket]) -> None:
            self._listener.is_closed = True
            other = [grpc_server.stop(GRACE)] if grpc_server else []
            await asyncio.gather(shutdown(sockets), *other)

        self._server.shutdown = stop
        await self._server.serve([self._socket])

    def stop(self) -> None:
        """Stop as soon as it serves."""
        self._server.should_exit = True

    def _add_middlewares(self, app: FastAPI) -> None:
        """None: the SDK's timing middleware matches every route again and logs every request."""

    def _add_exception_handlers(self, app: FastAPI) -> None:
        """Ours: the SDK's log a traceback for each, and show what they were raised with."""
        tell_errors(app)
