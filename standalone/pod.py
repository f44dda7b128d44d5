"""The pod of a revision, as Kubernetes would list it: one process with its arguments."""

from standalone.address import LOOPBACK
from standalone.canary import Revision
from standalone.objects import Object


def path(revision: str) -> str:
    """The path in the API of a revision's pod."""
    return f"/api/v1/namespaces/default/pods/{revision}-deployment-0"


def describe(service: str, component: str, revision: Revision, args: list[str]) -> Object:
    """The pod of ``revision``, with the labels that KServe and Knative give it.

    ``args`` are those of the process, with this machine's ports.
    """
    container = revision.template["spec"]["containers"][0]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": path(revision.name).rpartition("/")[2],
            "namespace": "default",
            "labels": {
                "serving.kserve.io/inferenceservice": service,
                "component": component,
                "serving.knative.dev/revision": revision.name,
            },
        },
        "spec": {"containers": [{**container, "name": "kserve-container", "args": args}]},
        "status": {"phase": "Running", "podIP": LOOPBACK},
    }
