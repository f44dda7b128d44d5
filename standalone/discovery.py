"""What tells ``kubectl`` which kinds of objects there are."""

from standalone.objects import Object

KINDS = {
    "v1": {
        "configmaps": "ConfigMap",
        "events": "Event",
        "namespaces": "Namespace",
        "pods": "Pod",
        "serviceaccounts": "ServiceAccount",
    },
    "batch/v1": {"cronjobs": "CronJob"},
    "networking.k8s.io/v1": {"networkpolicies": "NetworkPolicy"},
    "policy/v1": {"poddisruptionbudgets": "PodDisruptionBudget"},
    "rbac.authorization.k8s.io/v1": {"rolebindings": "RoleBinding", "roles": "Role"},
    "serving.kserve.io/v1beta1": {"inferenceservices": "InferenceService"},
}
SHORT = {
    "ConfigMap": ["cm"],
    "CronJob": ["cj"],
    "Event": ["ev"],
    "InferenceService": ["isvc"],
    "Namespace": ["ns"],
    "NetworkPolicy": ["netpol"],
    "Pod": ["po"],
    "PodDisruptionBudget": ["pdb"],
    "ServiceAccount": ["sa"],
}


def discovery(path: str) -> Object | None:
    """The document that tells ``kubectl`` which kinds there are; ``None`` for any other path."""
    match path.strip("/").split("/"):
        case ["version"]:
            return {"major": "1", "minor": "34", "gitVersion": "v1.34.0-standalone"}
        case ["api"]:
            return {"kind": "APIVersions", "versions": ["v1"]}
        case ["apis"]:
            groups = [_group(*version.split("/")) for version in KINDS if "/" in version]
            return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}
        case ["openapi", "v3"]:
            paths = [f"apis/{gv}" if "/" in gv else f"api/{gv}" for gv in KINDS]
            return {"paths": {gv: {"serverRelativeURL": f"/openapi/v3/{gv}"} for gv in paths}}
        case ["openapi", "v3", _, *version] if "/".join(version) in KINDS:
            return _openapi("/".join(version))
        case ["api" | "apis", *version] if "/".join(version) in KINDS:
            return _resources("/".join(version))
    return None


def _group(name: str, version: str) -> Object:
    versions = {"groupVersion": f"{name}/{version}", "version": version}
    return {"name": name, "versions": [versions], "preferredVersion": versions}


def _resources(version: str) -> Object:
    verbs = ["create", "delete", "get", "list", "patch", "update", "watch"]
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": version,
        "resources": [
            {
                "name": plural,
                "singularName": kind.lower(),
                "kind": kind,
                "verbs": verbs,
                "namespaced": kind != "Namespace",
                "shortNames": SHORT.get(kind, []),
            }
            for plural, kind in KINDS[version].items()
        ],
    }


def _openapi(version: str) -> Object:
    """An OpenAPI document saying that the server validates fields: ``kubectl`` needs no more."""
    group, _, number = version.rpartition("/")
    patch = {
        "parameters": [{"name": name, "in": "query"} for name in ("dryRun", "fieldValidation")],
        "responses": {},
    }
    paths = {
        f"/{plural}": {
            "patch": {
                **patch,
                "x-kubernetes-group-version-kind": {
                    "group": group,
                    "version": number,
                    "kind": kind,
                },
            }
        }
        for plural, kind in KINDS[version].items()
    }
    return {"openapi": "3.0.0", "info": {"title": "Kubernetes", "version": "1"}, "paths": paths}
