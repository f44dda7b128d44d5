"""Envoy's configuration: Knative's ingress on one machine.

Two doors as in the cluster: the public one leads to the transformer, the cluster-local one to
the predictor's revisions, each with its weight in the traffic.
"""

import shutil
import sys
from pathlib import Path
from typing import Any, NamedTuple

CONNECT_TIMEOUT = "2s"
REQUEST_TIMEOUT = "60s"
IDLE_TIMEOUT = "60s"
"""Less than the 65 s after which the programs close an idle connection."""
MANY = 100_000


class Revision(NamedTuple):
    """A running process that takes a share of the traffic."""

    name: str
    port: int
    weight: int


class Door(NamedTuple):
    """An address on which Envoy listens, and who is behind it."""

    name: str
    host: str
    port: int
    revisions: list[Revision]
    http2: bool = False
    """Whether the revisions speak HTTP/2, as gRPC does."""


def find_envoy() -> str | None:
    """The Envoy that belongs to this Python environment, if there is a build for this machine."""
    return shutil.which("envoy", path=str(Path(sys.executable).parent))


def bootstrap(doors: list[Door]) -> dict[str, Any]:
    """Envoy's bootstrap configuration for ``doors``; there is no admin port."""
    return {
        "static_resources": {
            "listeners": [_listener(door) for door in doors],
            "clusters": [_cluster(door, revision) for door in doors for revision in door.revisions],
        }
    }


def _listener(door: Door) -> dict[str, Any]:
    manager = {
        "@type": "type.googleapis.com/envoy.extensions.filters.network."
        "http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": door.name,
        "codec_type": "AUTO",
        "use_remote_address": True,
        "route_config": {
            "virtual_hosts": [
                {
                    "name": door.name,
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": _split(door)}],
                }
            ]
        },
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
                },
            }
        ],
    }
    return {
        "name": door.name,
        "address": _address(door.host, door.port),
        "filter_chains": [
            {
                "filters": [
                    {
                        "name": "envoy.filters.network.http_connection_manager",
                        "typed_config": manager,
                    }
                ]
            }
        ],
    }


def _split(door: Door) -> dict[str, Any]:
    return {
        "weighted_clusters": {
            "clusters": [
                {"name": _cluster_name(door, revision), "weight": revision.weight}
                for revision in door.revisions
            ]
        },
        "timeout": REQUEST_TIMEOUT,
    }


def _cluster(door: Door, revision: Revision) -> dict[str, Any]:
    name = _cluster_name(door, revision)
    protocol = "http2_protocol_options" if door.http2 else "http_protocol_options"
    return {
        "name": name,
        "connect_timeout": CONNECT_TIMEOUT,
        # The programs have limits of their own, and answer better than Envoy's "no".
        "circuit_breakers": {
            "thresholds": [
                {"max_connections": MANY, "max_pending_requests": MANY, "max_requests": MANY}
            ]
        },
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [
                {"lb_endpoints": [{"endpoint": {"address": _address("127.0.0.1", revision.port)}}]}
            ],
        },
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/"
                "envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {protocol: {}},
                "common_http_protocol_options": {"idle_timeout": IDLE_TIMEOUT},
            }
        },
    }


def _cluster_name(door: Door, revision: Revision) -> str:
    return f"{door.name}/{revision.name}"


def _address(host: str, port: int) -> dict[str, Any]:
    return {"socket_address": {"address": host, "port_value": port}}
