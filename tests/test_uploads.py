"""Users' images fall into halves by their names."""

import hashlib
from pathlib import Path

import pytest

from benchmarks.data import HWD1000
from tests.digits import NO_HWD1000, write_uploads
from training.uploads import read_uploads


def test_every_upload_is_in_one_half_by_its_name(tmp_path: Path) -> None:
    folder = write_uploads(tmp_path / "scans")
    halves = [read_uploads(folder, half) for half in (0, 1)]
    assert sorted(int(u.name[:-4]) for half in halves for u in half) == list(range(24))
    for half, found in enumerate(halves):
        assert found
        for upload in found:
            assert int(hashlib.sha256(upload.name.encode()).hexdigest(), 16) % 2 == half
            assert upload.content == (folder / upload.name).read_bytes()
            assert upload.label == (1, 4, 7)[int(upload.name[:-4]) % 3]


def test_a_table_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    folder = write_uploads(tmp_path / "scans")
    plain = read_uploads(folder, 0)
    table = folder / "labels.csv"
    table.write_text(table.read_text(encoding="utf-8"), encoding="utf-8-sig")
    assert read_uploads(folder, 0) == plain


@pytest.mark.skipif(not HWD1000.exists(), reason=NO_HWD1000)
@pytest.mark.parametrize(("half", "count"), [(0, 494), (1, 506)])
def test_the_halves_of_hwd1000_stay_the_same(half: int, count: int) -> None:
    assert len(read_uploads(HWD1000, half)) == count
