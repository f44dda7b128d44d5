"""Access to an InferenceService, its record, pods and events, through the Kubernetes client."""

import json
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import kubernetes.config
import urllib3
from kubernetes import client
from kubernetes.client.exceptions import ApiException

from rollout.cluster import MANAGER
from rollout.errors import ClusterError, Conflict, Unreachable
from rollout.record import Record, name_of, now
from rollout.template import Object

TIMEOUT = 10
"""Seconds to wait for an answer of the API server."""
RETRIES = urllib3.Retry(3, read=0)
"""For connections. What was sent is not sent again, so a silent server costs ``TIMEOUT`` once."""
ATTEMPTS = 5
"""Tries per change: others, above all the controller, change the same objects."""
GROUP, API_VERSION, PLURAL = "serving.kserve.io", "v1beta1", "inferenceservices"
SERVICE_LABEL = "serving.kserve.io/inferenceservice"
INSIDE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


class API:
    """One InferenceService, accessed with the rights of the kubeconfig or service account."""

    def __init__(
        self,
        name: str,
        namespace: str | None = None,
        *,
        context: str | None = None,
        server: str | None = None,
    ) -> None:
        """Connect to ``server`` if given, as ``kubectl --server`` does; else by the kubeconfig.

        Inside a pod, without ``KUBECONFIG``, the pod's service account is used.

        Raises:
            ClusterError: there is no kubeconfig, or no such context.
        """
        try:
            self._client, preset = _connect(context, server)
        except kubernetes.config.ConfigException as error:
            raise ClusterError(f"no cluster is configured: {error}") from None
        self.name = name
        self.namespace = namespace or preset
        self._custom = client.CustomObjectsApi(self._client)
        self._core = client.CoreV1Api(self._client)
        self._record = name_of(name)
        self._place = (GROUP, API_VERSION, self.namespace, PLURAL, name)

    def service(self) -> Object:
        """Return the live InferenceService."""
        with self._explained():
            found: Any = self._custom.get_namespaced_custom_object(
                *self._place, _request_timeout=TIMEOUT
            )
        return dict(found)

    def patch(self, change: Object, *, dry_run: bool = False) -> None:
        """Apply a merge patch.

        Raises:
            Conflict: the object has changed since the version that the patch names.
        """
        with self._explained():
            self._custom.patch_namespaced_custom_object(
                *self._place,
                body=change,
                field_manager=MANAGER,
                _content_type="application/merge-patch+json",
                _request_timeout=TIMEOUT,
                dry_run="All" if dry_run else None,
            )

    def record(self) -> Record:
        """Return the record, an empty one if there is no ConfigMap yet."""
        try:
            with self._explained():
                found: Any = self._core.read_namespaced_config_map(
                    self._record, self.namespace, _request_timeout=TIMEOUT
                )
        except _NotFound:
            return Record()
        return Record.read(found.data or {}, found.metadata.resource_version)

    def save(self, record: Record) -> None:
        """Write ``record``.

        Raises:
            Conflict: it has changed since it was read.
        """
        metadata = client.V1ObjectMeta(name=self._record, resource_version=record.version)
        body = client.V1ConfigMap(metadata=metadata, data=record.data())
        flags: dict[str, Any] = {"field_manager": MANAGER, "_request_timeout": TIMEOUT}
        with self._explained():
            if record.version is None:
                self._core.create_namespaced_config_map(self.namespace, body, **flags)
            else:
                flags["_content_type"] = "application/merge-patch+json"
                self._core.patch_namespaced_config_map(self._record, self.namespace, body, **flags)

    def update(self, change: Callable[[Record], None]) -> None:
        """Apply ``change`` to the record, again after a conflict.

        Raises:
            Conflict: every one of ``ATTEMPTS`` tries met a change by somebody else.
        """
        for _ in range(ATTEMPTS):
            record = self.record()
            change(record)
            with suppress(Conflict):
                self.save(record)
                return
        raise Conflict(
            f"somebody else changes the ConfigMap {self._record} all the time; try again"
        )

    def pods(self) -> dict[str, Object]:
        """Return the pods of the service by name."""
        with self._explained():
            found = self._core.list_namespaced_pod(
                self.namespace,
                label_selector=f"{SERVICE_LABEL}={self.name}",
                _request_timeout=TIMEOUT,
            )
        made: Any = self._client.sanitize_for_serialization(found)  # type: ignore[no-untyped-call]
        return {each["metadata"]["name"]: each for each in made["items"]}

    def announce(
        self, service: Object, reason: str, message: str, *, warning: bool = False
    ) -> None:
        """Create a Kubernetes Event on the InferenceService; ``kubectl describe`` shows it.

        If the API server is unreachable the event is dropped: it only reports what was done.
        """
        event = client.CoreV1Event(
            metadata=client.V1ObjectMeta(name=f"{self.name}.{uuid.uuid4().hex[:16]}"),
            involved_object=client.V1ObjectReference(
                api_version=f"{GROUP}/{API_VERSION}",
                kind="InferenceService",
                name=self.name,
                namespace=self.namespace,
                uid=service["metadata"]["uid"],
            ),
            reason=reason,
            message=message[:1024],  # the limit of Kubernetes
            type="Warning" if warning else "Normal",
            source=client.V1EventSource(component=MANAGER),
            first_timestamp=now(),
            last_timestamp=now(),
            count=1,
        )
        with suppress(Unreachable), self._explained():
            self._core.create_namespaced_event(self.namespace, event, _request_timeout=TIMEOUT)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn the client's errors into those of ``rollout.errors``."""
        try:
            yield
        except ApiException as error:
            message = f"the API server: {_message(error)}"
            if error.status == 404:
                raise _NotFound(message) from None
            if error.status == 409:
                raise Conflict(message) from None
            if error.status == 429 or (error.status or 0) >= 500:
                raise Unreachable(message) from None
            raise ClusterError(message) from None
        except (urllib3.exceptions.HTTPError, OSError) as error:
            host = self._client.configuration.host
            raise Unreachable(f"the API server at {host} does not answer: {error}") from None


class _NotFound(ClusterError):
    pass


def _connect(context: str | None, server: str | None) -> tuple[client.ApiClient, str]:
    """Return a client and its default namespace."""
    configuration = client.Configuration(retries=RETRIES)
    if server:
        configuration.host = server.rstrip("/")
        return client.ApiClient(configuration), "default"
    if "KUBERNETES_SERVICE_HOST" in os.environ and "KUBECONFIG" not in os.environ:
        kubernetes.config.load_incluster_config(  # type: ignore[no-untyped-call]
            client_configuration=configuration
        )
        return client.ApiClient(configuration), INSIDE.read_text(encoding="utf-8").strip()
    contexts, active = kubernetes.config.list_kube_config_contexts()  # type: ignore[no-untyped-call]
    chosen = next((each for each in contexts if each["name"] == context), active)
    made = kubernetes.config.new_client_from_config(  # type: ignore[no-untyped-call]
        context=context, client_configuration=configuration
    )
    return made, chosen["context"].get("namespace", "default")


def _message(error: ApiException) -> str:
    """Return the message in the server's answer, a Status object, or the HTTP status."""
    try:
        return str(json.loads(error.body or "")["message"])
    except (ValueError, KeyError, TypeError):
        return f"{error.status} {error.reason}"
