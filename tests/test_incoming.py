"""New labelled images: what is read, what is refused, what is dropped, and what is reported."""

import functools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.digits import STROKES, draw_strokes, encode
from tests.synthetic import digits
from training.data import DataError, Digits
from training.incoming import Incoming, features, read
from training.uploads import LARGEST
from transformer import image

REFERENCE = digits(50, seed=1)
BLANK = encode(Image.new("L", (50, 50), 255))


@functools.cache
def written(number: int) -> tuple[bytes, int]:
    """An image file that is like no other, and the digit in it."""
    random = np.random.default_rng(number)
    digit = (1, 4, 7)[number % 3]
    strokes = [
        [(x + dx, y + dy) for (x, y), (dx, dy) in zip(line, moves, strict=True)]
        for line in STROKES[digit]
        for moves in [random.uniform(-0.06, 0.06, (len(line), 2)).tolist()]
    ]
    return encode(draw_strokes(strokes, 60)), digit


def folder(
    path: Path,
    count: int = 20,
    *,
    others: dict[str, bytes] | None = None,
    lines: Sequence[str] = (),
) -> str:
    """Images 0.png, 1.png, …, and then others, with lines of their own."""
    path.mkdir(exist_ok=True)
    listed = ["image,label"]
    for number in range(count):
        content, digit = written(number)
        (path / f"{number}.png").write_bytes(content)
        listed.append(f"{number}.png,{digit}")
    for name, content in (others or {}).items():
        (path / name).write_bytes(content)
    (path / "labels.csv").write_text("\n".join([*listed, *lines]), encoding="utf-8")
    return str(path)


def take(location: str, *known: Digits, reference: Digits = REFERENCE) -> Incoming:
    return read(location, known=known, reference=reference)


def problems(location: str, *known: Digits) -> list[str]:
    with pytest.raises(DataError) as caught:
        take(location, *known)
    return str(caught.value).splitlines()


def all_of(incoming: Incoming) -> dict[bytes, int]:
    """Label by picture."""
    return {
        pixels.numpy().tobytes(): int(label)
        for part in (incoming.training, incoming.held_out)
        for pixels, label in zip(part.images, part.labels, strict=True)
    }


# Reading


def test_pictures_are_those_that_the_service_sees(tmp_path: Path) -> None:
    incoming = take(folder(tmp_path))
    expected = {
        image.read(content).pixels.tobytes(): label
        for content, label in (written(number) for number in range(20))
    }
    assert all_of(incoming) == expected
    assert len(incoming.training) + len(incoming.held_out) == 20
    for part in (incoming.training, incoming.held_out):
        assert (part.images.dtype, part.labels.dtype) == (torch.uint8, torch.int64)


def test_a_bucket_is_read_like_a_folder(tmp_path: Path) -> None:
    location = folder(tmp_path)
    store = fsspec.filesystem("memory")
    store.put(location, "/bucket/corrections", recursive=True)
    assert all_of(take("memory://bucket/corrections/")) == all_of(take(location))
    store.rm("/bucket", recursive=True)
    assert problems("memory://bucket/corrections") == [
        "memory://bucket/corrections, labels.csv: the file is missing"
    ]


@pytest.mark.parametrize(("encoding", "end"), [("utf-8", "\n"), ("utf-8-sig", "\r\n")])
def test_other_columns_and_ways_of_writing_are_no_matter(
    tmp_path: Path, encoding: str, end: str
) -> None:
    plain = take(folder(tmp_path))
    rows = [f'{written(n)[1]} ,correction,"été {n}/a, b.png"' for n in range(20)]
    for number in range(20):
        (tmp_path / f"été {number}").mkdir()
        (tmp_path / f"{number}.png").rename(tmp_path / f"été {number}" / "a, b.png")
    text = end.join(["label,source,image", *rows, ""])
    (tmp_path / "labels.csv").write_bytes(text.encode(encoding))
    assert all_of(take(str(tmp_path))) == all_of(plain)


def test_three_in_ten_are_held_out(tmp_path: Path) -> None:
    incoming = take(folder(tmp_path, 200))
    # Of 200 it is 60 ± 20, three standard deviations.
    assert 40 <= len(incoming.held_out) <= 80


def test_more_images_do_not_move_any_to_the_other_part(tmp_path: Path) -> None:
    first = take(folder(tmp_path, 20))
    table = Path(folder(tmp_path, 60), "labels.csv")
    head, *rows = table.read_text().splitlines()
    table.write_text("\n".join([head, *reversed(rows)]))
    later = take(str(tmp_path))
    for before, after in ((first.training, later.training), (first.held_out, later.held_out)):
        assert {pixels.numpy().tobytes() for pixels in before.images} <= {
            pixels.numpy().tobytes() for pixels in after.images
        }


def test_the_order_of_the_rows_is_no_matter(tmp_path: Path) -> None:
    first = take(folder(tmp_path))
    table = tmp_path / "labels.csv"
    head, *rows = table.read_text().splitlines()
    table.write_text("\n".join([head, *reversed(rows)]))
    again = take(str(tmp_path))
    assert again.training.digest == first.training.digest
    assert again.held_out.digest == first.held_out.digest


# Refusing


def test_all_problems_are_reported_at_once(tmp_path: Path) -> None:
    location = folder(
        tmp_path,
        others={"text.png": b"hello", "cut.png": written(0)[0][:100], "again.png": written(0)[0]},
        lines=["gone.png,4", "text.png,4", "cut.png,4", "1.png,ten", "again.png,7", "2.png", ",3"],
    )
    assert problems(location) == [
        f"{location}: correct these and try again:",
        "- line 22, gone.png: the file is missing",
        "- line 23, text.png: not an image: expected PNG, JPEG, WebP, BMP, GIF or TIFF, "
        "got bytes that begin with b'hello'",
        "- line 24, cut.png: the PNG image is damaged or truncated",
        "- line 25, 1.png: the label must be 0 to 9, found 'ten'",
        "- line 27, 2.png: the label must be 0 to 9, found ''",
        "- line 28, : expected a path below the folder of labels.csv",
        "- line 26, again.png: the label is 7, but the same picture has 1 in line 2",
    ]


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    location = folder(tmp_path, lines=["large.png,1"])
    with (tmp_path / "large.png").open("wb") as file:
        file.truncate(LARGEST + 1)
    assert problems(location)[1:] == ["- line 22, large.png: the file is larger than 32 MiB"]


@pytest.mark.parametrize("name", ["pipe.png", "labels.csv"])
def test_a_pipe_that_nobody_writes_to_is_not_waited_for(tmp_path: Path, name: str) -> None:
    location = folder(tmp_path, lines=["pipe.png,1"])
    (tmp_path / name).unlink(missing_ok=True)
    os.mkfifo(tmp_path / name)
    with pytest.raises(DataError, match=f"{name}: .*it is not a regular file"):
        take(location)


def test_a_table_of_too_many_images_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.uploads.MOST_ROWS", 20)
    take(folder(tmp_path))
    with pytest.raises(DataError, match=r"labels\.csv: more than 20 images are listed"):
        take(folder(tmp_path, lines=["0.png,1"]))


@pytest.mark.parametrize(
    ("count", "end"),
    [(20, "- line 41, none19.png: the file is missing"), (21, "- and 1 more")],
)
def test_of_many_problems_twenty_are_shown(tmp_path: Path, count: int, end: str) -> None:
    found = problems(folder(tmp_path, lines=[f"none{number}.png,1" for number in range(count)]))
    assert len(found) == 1 + count
    assert found[-1] == end


@pytest.mark.parametrize(("count", "end"), [(20, "0.png."), (21, "0.png and 1 more.")])
def test_of_many_dropped_images_twenty_are_named(tmp_path: Path, count: int, end: str) -> None:
    report = take(folder(tmp_path, lines=[f"0.png,{written(0)[1]}"] * count)).report
    assert f"Dropped, there twice ({count}): line 22, 0.png; " in report
    assert f"; line 41, {end}\n" in report


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "expected the columns image and label in the first line, found none"),
        (b"picture,label\na.png,1\n", "found picture, label"),
        (b"image,label,label\na.png,1,2\n", "found image, label, label"),
        (b'image,label,note\na.png,1,"faint\nb.png,2,\n', "is a quotation mark not closed?"),
        (b"image,label\n", "no images are listed"),
        (b"image,label\n\xff.png,1\n", "byte 12 is not UTF-8; save it as UTF-8"),
        (b"image,label\n" + b"x" * 200_000, "field larger than field limit"),
        (b"image,label\na\0.png,1\n", r"line 2, a\?.png: expected a path below the folder"),
        (b"image,label\n" + b"x" * 5000 + b",1\n", r"x{100}…: the file cannot be read"),
        (b"image,label\n.,1\n", "expected a path below the folder"),
        (b"image,label\nempty.png,1\n", "the image is empty: 0 bytes"),
    ],
)
def test_a_useless_file_of_labels_is_refused(tmp_path: Path, content: bytes, problem: str) -> None:
    (tmp_path / "labels.csv").write_bytes(content)
    (tmp_path / "empty.png").touch()
    with pytest.raises(DataError, match=problem):
        take(str(tmp_path))


@pytest.mark.parametrize("label", ["10", "-1", "1.0", "seven", "", "٣", "²", "1e0"])
def test_a_label_is_one_digit(tmp_path: Path, label: str) -> None:
    found = problems(folder(tmp_path, lines=[f"0.png,{label}"]))
    assert found[1:] == [f"- line 22, 0.png: the label must be 0 to 9, found '{label}'"]


@pytest.mark.parametrize("name", ["../out.png", "a/../../out.png", "..\\out.png", "{out}", "C:out"])
def test_no_image_outside_the_folder_is_read(tmp_path: Path, name: str) -> None:
    out = tmp_path / "out.png"
    out.write_bytes(written(30)[0])
    (tmp_path / "in" / "a").mkdir(parents=True)
    found = problems(folder(tmp_path / "in", lines=[f"{name.format(out=out)},1"]))
    assert len(found) == 2
    assert found[1].endswith("expected a path below the folder of labels.csv")


def test_a_label_that_contradicts_a_known_one_is_refused(tmp_path: Path) -> None:
    location = folder(tmp_path)
    one = take(location).training
    known = Digits("known digits", one.images[:1], (one.labels[:1] + 1) % 10)
    (problem,) = problems(location, known)[1:]
    expected = f"label is {one.labels[0]}, but the same picture has {known.labels[0]} in the known"
    assert expected in problem


@pytest.mark.parametrize(
    ("location", "problem"),
    [
        ("nonsense://bucket/new", "Protocol not known"),
        ("box://bucket/new", "install"),
        ("s3://no bucket/new", "labels.csv: the file cannot be read: .* Invalid bucket name"),
        ("no/such/folder", "labels.csv: the file is missing"),
    ],
)
def test_a_place_that_cannot_be_opened_is_named(
    location: str, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "made-up")
    with pytest.raises(DataError, match=f"{location}.*{problem}"):
        take(location)


# Dropping


def test_what_does_not_count_is_dropped_and_said(tmp_path: Path) -> None:
    four = draw_strokes(STROKES[4], 100)
    two = Image.new("L", (200, 100), 255)
    two.paste(four, (0, 0))
    two.paste(four, (100, 0))
    location = folder(
        tmp_path,
        others={"blank.png": BLANK, "two.png": encode(two), "again.png": written(3)[0]},
        lines=["blank.png,3", "blank.png,5", "two.png,4", "again.png,1"],
    )
    whole = take(folder(tmp_path / "without"))
    known = Digits("known", whole.training.images[:2], whole.training.labels[:2])
    incoming = take(location, known)
    assert len(all_of(incoming)) == 18
    assert all_of(incoming).items() < all_of(whole).items()
    for line in (
        "24 images read, 6 dropped, 18 kept",
        "Dropped, no digit is seen (2): line 22, blank.png; line 23, blank.png.",
        "Dropped, several digits are seen (1): line 24, two.png.",
        "Dropped, there twice (1): line 25, again.png.",
        "Dropped, known already (2): line ",
    ):
        assert line in incoming.report


def test_if_nothing_is_left_there_is_nothing_to_train_on(tmp_path: Path) -> None:
    location = folder(tmp_path, 0, others={"blank.png": BLANK}, lines=["blank.png,1"])
    (problem,) = problems(location)
    assert "too few images to train and to judge on, bring more. 1 images read, 1 drop" in problem


def test_one_image_is_too_few_for_two_parts(tmp_path: Path) -> None:
    assert "1 kept" in problems(folder(tmp_path, 1))[0]


# Reporting


def test_the_report_counts_each_digit(tmp_path: Path) -> None:
    incoming = take(folder(tmp_path, 21))
    for digit in range(10):
        training, held_out = (
            int((part.labels == digit).sum()) for part in (incoming.training, incoming.held_out)
        )
        assert f"| {digit} | {training} | {held_out} |" in incoming.report
        assert training + held_out == (7 if digit in STROKES else 0)
    # Seven of each of three digits: χ² = 49 with 9 degrees of freedom.
    assert "p = 1.7e-07 (chi-square)" in incoming.report
    assert "There is none of 0, 2, 3, 5, 6, 8, 9." in incoming.report


def test_the_report_says_which_features_differ(tmp_path: Path) -> None:
    incoming = take(folder(tmp_path, 60))
    parts = incoming.training, incoming.held_out
    images = torch.cat([part.images for part in parts])
    labels = torch.cat([part.labels for part in parts])
    again = take(str(tmp_path), reference=Digits("the same", images, labels))
    assert again.report.count("| 0.00 | 1 | alike |") == 4
    fainter = take(str(tmp_path), reference=Digits("fainter", images // 2, labels)).report
    (ink,) = (line for line in fainter.splitlines() if line.startswith("| ink"))
    assert ink.endswith("| differs |")


def bars(*, width: int = 2, lean: float = 0.0) -> np.ndarray:
    """A picture of a bar of 20 pixels' height."""
    picture = np.zeros((1, 28, 28), np.uint8)
    for row in range(4, 24):
        start = 13 + round(lean * (row - 13.5))
        picture[0, row, start : start + width] = 255
    return picture


@pytest.mark.parametrize("width", [2, 4])
def test_features_are_those_of_a_bar(width: int) -> None:
    found = {name: float(values[0]) for name, values in features(bars(width=width)).items()}
    assert found["ink, pixels"] == 20 * width
    assert found["slant"] == pytest.approx(0)
    assert found["width / height"] == width / 20
    assert found["stroke, pixels"] == pytest.approx(8 / np.pi * 20 * width / (40 + 2 * width))


@pytest.mark.parametrize("lean", [-0.4, 0.4])
def test_the_slant_is_the_shear(lean: float) -> None:
    assert features(bars(lean=lean))["slant"][0] == pytest.approx(lean, abs=0.02)


def test_a_blank_picture_has_features() -> None:
    found = features(np.zeros((2, 28, 28), np.uint8))
    assert [values.tolist() for values in found.values()] == [[0.0, 0.0]] * 4


# Whatever labels.csv holds

CELLS = st.sampled_from(["0.png", "blank.png", "gone.png", "1", "7", "image", "", '"', "\r"])
TABLES = st.lists(st.lists(CELLS | st.text(max_size=5), max_size=4).map(",".join)).map("\n".join)
HEADED = TABLES.map(lambda table: f"image,label\n{table}".encode("utf-8", "surrogatepass"))
GOOD = "".join(f"{number}.png,{written(number)[1]}\n" for number in range(20)).encode()
LONGER = st.binary(max_size=9).map(lambda end: b"image,label\n" + GOOD + end)


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    location = folder(tmp_path_factory.mktemp("new"), others={"blank.png": BLANK})
    store = fsspec.filesystem("memory")
    store.put(location, "/any", recursive=True)
    yield "memory://any"
    store.rm("/any", recursive=True)


@given(st.binary(max_size=200) | HEADED | LONGER)
def test_any_file_of_labels_is_read_or_refused(bucket: str, content: bytes) -> None:
    fsspec.filesystem("memory").pipe_file("/any/labels.csv", content)
    try:
        incoming = take(bucket)
    except DataError:
        return
    assert min(len(incoming.training), len(incoming.held_out)) >= 1
