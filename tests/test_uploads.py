"""Users' images fall into halves by their names."""

import hashlib
from pathlib import Path

import pytest

from benchmarks.data import HWD1000
from tests.digits import NO_HWD1000, write_uploads
from training.data import DataError
from training.uploads import read_rows, read_uploads


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


def test_the_folder_of_an_upload_does_not_change_its_half(tmp_path: Path) -> None:
    flat, nested = write_uploads(tmp_path / "flat"), write_uploads(tmp_path / "nested")
    (nested / "more").mkdir()
    lines = ["image,label"]
    for index in range(24):
        (nested / f"{index}.png").rename(nested / f"more/{index}.png")
        lines.append(f"more/{index}.png,1")
    (nested / "labels.csv").write_text("\n".join(lines), encoding="utf-8")
    for half in (0, 1):
        names = [upload.name for upload in read_uploads(flat, half)]
        assert [upload.name for upload in read_uploads(nested, half)] == [
            f"more/{name}" for name in names
        ]


@pytest.mark.parametrize(
    "text", ["\x1b[2J", "`code`", "<img>", "a | b", "x" * 200], ids=lambda text: repr(text[:6])
)
def test_what_a_label_or_a_name_says_to_who_shows_it_is_not_repeated(
    tmp_path: Path, text: str
) -> None:
    (tmp_path / "labels.csv").write_text(f"image,label\n{text},{text}\n", encoding="utf-8")
    half = int(hashlib.sha256(text.encode()).hexdigest(), 16) % 2
    with pytest.raises(DataError, match="the label must be 0 to 9") as refused:
        read_uploads(tmp_path, half)
    assert str(refused.value).isprintable()
    assert text not in str(refused.value)


def test_a_line_that_is_too_short_has_no_name(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("label,image\n7\n", encoding="utf-8")
    (row,), fetch = read_rows(str(tmp_path))
    with pytest.raises(DataError, match="expected a path"):
        fetch(row.name)


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
