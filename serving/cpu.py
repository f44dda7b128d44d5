"""How many processors this process may use."""

import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


def cpu_limit(cgroup: Path = CGROUP) -> int:
    """The CPU limit of the container, rounded down, at least 1.

    Kubernetes' CPU limit shows only in the cgroup: ``os.cpu_count()`` counts the node's
    processors. It is read from ``cpu.max`` (cgroup v2) or ``cpu.cfs_quota_us`` and
    ``cpu.cfs_period_us`` (v1). The processors that the process may run on are an upper bound, and
    the result if there is no limit.
    """
    affinity = getattr(os, "sched_getaffinity", None)  # only on Linux
    cpus = len(affinity(0)) if affinity else os.cpu_count() or 1
    quota = _quota(cgroup)
    return cpus if quota is None else max(1, min(cpus, int(quota)))


def _quota(cgroup: Path) -> float | None:
    try:
        quota, period = (cgroup / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota = (cgroup / "cpu" / "cpu.cfs_quota_us").read_text()
            period = (cgroup / "cpu" / "cpu.cfs_period_us").read_text()
        except OSError:
            return None
    try:
        share = int(quota) / int(period)
    except ValueError:  # "max": no limit
        return None
    return share if share > 0 else None  # v1 says -1 for no limit
