"""A ``torch.export`` program (``.pt2``) as data: the graph as JSON, and the weights as raw numbers.

``torch.export.load`` unpickles, and imports torch's compiler. Here the archive is a zip file and no
more. The format is that of ``torch/_export/serde/schema.py``, version 8 (torch 2.13).
"""

import io
import json
import zipfile
from typing import Any, NamedTuple

SCHEMA = 8
FLOAT, BYTES = 7, (1, 2)
"""The schema's numbers for float32, and for types whose numbers float32 has, too."""

Json = dict[str, Any]


class Tensor(NamedTuple):
    """A weight or a constant: a part of ``numbers``, which several may share."""

    numbers: bytes
    """The numbers of the whole storage, little-endian."""
    dtype: int
    """As the schema numbers them."""
    sizes: list[int]
    strides: list[int]
    """In numbers, not bytes."""
    offset: int
    """Likewise."""


class Program(NamedTuple):
    """What a program computes, and with which weights."""

    module: Json
    """The schema's ``GraphModule``: the graph, and which of its inputs are weights."""
    tensors: dict[str, Tensor]
    """Weights and constants, by the names that ``module`` has for them."""


def read_program(content: bytes) -> Program:
    """Read the archive in ``content``.

    Raises:
        ValueError: it has something that is not supported here; the message names it.
    """
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        if sum(entry.file_size for entry in archive.infolist()) > len(content):
            raise ValueError("the files in it are larger than it: torch does not compress them")
        root = archive.namelist()[0].partition("/")[0]
        program = json.loads(archive.read(f"{root}/models/model.json"))
        if program["schema_version"]["major"] != SCHEMA:
            raise ValueError(f"schema version {program['schema_version']}, expected {SCHEMA}")
        tensors = _tensors(archive, f"{root}/data/weights", "model_weights_config.json")
        tensors |= _tensors(archive, f"{root}/data/constants", "model_constants_config.json")
    return Program(program["graph_module"], tensors)


def _tensors(archive: zipfile.ZipFile, folder: str, index: str) -> dict[str, Tensor]:
    tensors = {}
    read: dict[str, bytes] = {}
    for name, entry in json.loads(archive.read(f"{folder}/{index}"))["config"].items():
        if entry["use_pickle"]:
            raise ValueError(f"{name} is pickled")
        path, meta = entry["path_name"], entry["tensor_meta"]
        if path not in read:
            read[path] = archive.read(f"{folder}/{path}")
        tensors[name] = Tensor(
            read[path],
            meta["dtype"],
            [size["as_int"] for size in meta["sizes"]],
            [stride["as_int"] for stride in meta["strides"]],
            meta["storage_offset"]["as_int"],
        )
    return tensors
