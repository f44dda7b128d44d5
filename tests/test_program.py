"""A published program as data: what is read of the archive, and what is refused."""

import io
import zipfile

import pytest

from predictor.program import read_program
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


def test_it_takes_no_more_memory_than_its_file() -> None:
    bomb = rewritten(zipfile.ZIP_DEFLATED, weight_0=bytes(10**6))
    with pytest.raises(ValueError, match="the files in it are larger than it"):
        read_program(bomb)
