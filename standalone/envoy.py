"""Envoy's configuration: Knative's ingress on one machine.

As in the cluster there are two doors: the public one leads to the transformer, the cluster-local
one to the predictor. The revisions behind them and their weights are in files; when one is
replaced by a move, Envoy reads it again without losing a request.
"""

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from standalone.canary import Target

CONNECT_TIMEOUT = "2s"
REQUEST_TIMEOUT = "60s"
IDLE_TIMEOUT = "60s"
"""Less than the 65 s after which the programs close an idle connection."""
MANY = 100_000
TYPES = "type.googleapis.com/envoy"


class Door(NamedTuple):
    """An address on which Envoy listens for a component, ``<service>-<component>``."""

    component: str
    host: str
    port: int
    http2: bool = False
    """Whether the revisions speak HTTP/2, as gRPC does."""

    @property
    def name(self) -> str:
        """The name of its routes; those of its clusters begin with it."""
        return f"{self.component}-grpc" if self.http2 else self.component


def find_envoy() -> str | None:
    """The path of this Python environment's Envoy; ``None`` if this machine has no build."""
    return shutil.which("envoy", path=str(Path(sys.executable).parent))


def bootstrap(doors: Sequence[Door], folder: Path) -> dict[str, Any]:
    """The configuration to start with, without admin port; the rest is read from ``folder``."""
    source = {"path_config_source": {"path": str(folder / "clusters.json")}}
    return {
        "node": {"id": "standalone", "cluster": "standalone"},
        "dynamic_resources": {"cds_config": source},
        "static_resources": {"listeners": [_listener(door, folder) for door in doors]},
    }


def write_clusters(ports: dict[Door, dict[str, int]], folder: Path) -> None:
    """Tell Envoy on which port each revision listens, by name.

    A revision must be among them before it gets traffic, and until its last request is answered.
    """
    clusters = [
        _cluster(door, name, port) for door, found in ports.items() for name, port in found.items()
    ]
    _write(folder / "clusters.json", "config.cluster.v3.Cluster", clusters)


def write_routes(traffic: dict[Door, list[Target]], folder: Path) -> None:
    """Split the traffic of each door; one without any answers 503."""
    for door, targets in traffic.items():
        path = folder / f"{door.name}.json"
        _write(path, "config.route.v3.RouteConfiguration", [_routes(door, targets)])


def _write(path: Path, kind: str, resources: list[dict[str, Any]]) -> None:
    typed = [{"@type": f"{TYPES}.{kind}", **each} for each in resources]
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps({"resources": typed}), encoding="utf-8")
    draft.replace(path)  # Envoy only notices moves


def _routes(door: Door, targets: list[Target]) -> dict[str, Any]:
    split: dict[str, Any] = {"direct_response": {"status": 503}}
    if targets:
        split = {"route": {"weighted_clusters": {"clusters": [
            {"name": _cluster_name(door, each.revision), "weight": each.percent} for each in targets
        ]}, "timeout": REQUEST_TIMEOUT}}  # fmt: skip
    hosts = [{"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, **split}]}]
    for each in targets:
        if each.tag:
            host = f"{each.tag}-{door.component}"
            route = {"cluster": _cluster_name(door, each.revision), "timeout": REQUEST_TIMEOUT}
            hosts.append({
                "name": each.tag,
                "domains": [host, f"{host}.*", f"{host}:*"],
                "routes": [{"match": {"prefix": "/"}, "route": route}],
            })  # fmt: skip
    return {"name": door.name, "virtual_hosts": hosts}


def _listener(door: Door, folder: Path) -> dict[str, Any]:
    routes = {"path_config_source": {"path": str(folder / f"{door.name}.json")}}
    router = {"@type": f"{TYPES}.extensions.filters.http.router.v3.Router"}
    manager = {
        "@type": f"{TYPES}.extensions.filters.network.http_connection_manager.v3"
        ".HttpConnectionManager",
        "stat_prefix": door.name,
        "codec_type": "AUTO",
        "use_remote_address": True,
        # Else the log lines of transformer and predictor would have different ids.
        "preserve_external_request_id": True,
        "rds": {"route_config_name": door.name, "config_source": routes},
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": router}],
    }
    name = "envoy.filters.network.http_connection_manager"
    return {
        "name": door.name,
        "address": _address(door.host, door.port),
        "filter_chains": [{"filters": [{"name": name, "typed_config": manager}]}],
    }


def _cluster(door: Door, revision: str, port: int) -> dict[str, Any]:
    name = _cluster_name(door, revision)
    protocol = "http2_protocol_options" if door.http2 else "http_protocol_options"
    return {
        "name": name,
        "connect_timeout": CONNECT_TIMEOUT,
        # The programs have limits of their own, and their answers say more than Envoy's.
        "circuit_breakers": {
            "thresholds": [
                {"max_connections": MANY, "max_pending_requests": MANY, "max_requests": MANY}
            ]
        },
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [
                {"lb_endpoints": [{"endpoint": {"address": _address("127.0.0.1", port)}}]}
            ],
        },
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": f"{TYPES}.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {protocol: {}},
                "common_http_protocol_options": {"idle_timeout": IDLE_TIMEOUT},
            }
        },
    }


def _cluster_name(door: Door, revision: str) -> str:
    return f"{door.name}/{revision}"


def _address(host: str, port: int) -> dict[str, Any]:
    return {"socket_address": {"address": host, "port_value": port}}
