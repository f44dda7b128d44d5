"""A published program as data: what is read of the archive, and what is refused."""

import io
import json
import zipfile
from typing import Any

import pytest

from predictor.program import Tensor, _tensors, read_program
from tests.versions import linear_graph


def rewritten(compression: int = zipfile.ZIP_STORED, **changes: bytes) -> bytes:
    """The archive of a good program, with other contents of the files whose names end so."""
    result = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(linear_graph())) as source,
        zipfile.ZipFile(result, "w", compression) as target,
    ):
        for name in source.namelist():
            changed = [new for end, new in changes.items() if name.endswith(f"/{end}")]
            target.writestr(name, changed[0] if changed else source.read(name))
    return result.getvalue()


def test_the_weights_are_named_and_have_their_numbers() -> None:
    program = read_program(linear_graph())
    weight = program.tensors["network.layer.weight"]
    assert (weight.sizes, weight.strides, weight.offset) == ([10, 784], [784, 1], 0)
    assert len(weight.numbers) == 4 * 7840
    assert [*program.module["graph"]] == [
        "inputs", "outputs", "nodes", "tensor_values", "sym_int_values", "sym_bool_values",
        "is_single_tensor_return", "custom_obj_values", "sym_float_values",
    ]  # fmt: skip


def test_a_file_is_read_once_for_all_of_its_tensors() -> None:
    entry: dict[str, Any] = {
        "path_name": "weight_0",
        "use_pickle": False,
        "tensor_meta": {
            "dtype": 7,
            "sizes": [{"as_int": 2}],
            "strides": [{"as_int": 1}],
            "storage_offset": {"as_int": 1},
        },
    }
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("w/index.json", json.dumps({"config": {"a": entry, "b": entry}}))
        archive.writestr("w/weight_0", bytes(12))
    with zipfile.ZipFile(content) as archive:
        tensors = _tensors(archive, "w", "index.json")
    assert tensors["a"] == tensors["b"] == Tensor(bytes(12), 7, [2], [1], 1)
    assert tensors["a"].numbers is tensors["b"].numbers


def test_it_takes_no_more_memory_than_its_file() -> None:
    bomb = rewritten(zipfile.ZIP_DEFLATED, weight_0=bytes(10**6))
    with pytest.raises(ValueError, match="the files in it are larger than it"):
        read_program(bomb)
