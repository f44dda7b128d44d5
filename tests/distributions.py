"""What pip installs for a list of requirements, going by what is installed here."""

from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, requires

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def named(requirements: Iterable[str]) -> set[str]:
    """The canonical names of the distributions that are required."""
    return {canonicalize_name(Requirement(line).name) for line in requirements}


def closure(names: Iterable[str]) -> set[str]:
    """These distributions and all that they bring, extras included."""
    found: set[str] = set()
    waiting = [Requirement(name) for name in names]
    visited = set()
    while waiting:
        requirement = waiting.pop()
        found.add(canonicalize_name(requirement.name))
        for extra in ("", *requirement.extras):
            if (requirement.name, extra) not in visited:
                visited.add((requirement.name, extra))
                waiting += _brought(requirement.name, extra)
    return found


def _brought(name: str, extra: str) -> list[Requirement]:
    try:
        lines = requires(name) or []
    except PackageNotFoundError:  # a driver of a store that the tests do not use
        return []
    brought = [Requirement(line) for line in lines]
    return [it for it in brought if it.marker is None or it.marker.evaluate({"extra": extra})]
