"""The CPU limit is that of the container, not of the node."""

import os
from pathlib import Path

import pytest

from serving.cpu import cpu_limit


@pytest.fixture(autouse=True)
def node(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node with 16 processors."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)


@pytest.mark.parametrize(
    ("cpu_max", "limit"),
    [("200000 100000", 2), ("250000 100000", 2), ("50000 100000", 1), ("max 100000", 16)],
)
def test_cgroup_v2(tmp_path: Path, cpu_max: str, limit: int) -> None:
    (tmp_path / "cpu.max").write_text(f"{cpu_max}\n")
    assert cpu_limit(tmp_path) == limit


@pytest.mark.parametrize(("quota", "limit"), [("300000", 3), ("-1", 16), ("6400000", 16)])
def test_cgroup_v1(tmp_path: Path, quota: str, limit: int) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text(f"{quota}\n")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert cpu_limit(tmp_path) == limit


def test_without_a_cgroup_it_is_the_affinity(tmp_path: Path) -> None:
    assert cpu_limit(tmp_path) == 16
