"""The published graph: any architecture, by one reader that takes it for nothing but data."""

import io
import json
import pickle
import re
import subprocess
import sys
import warnings
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from predictor import artifact
from predictor.artifact import ArtifactError
from predictor.graph import ATEN, FUNCTIONS, _weights, read_graph
from predictor.program import Program, Tensor
from tests import anything
from tests.versions import NETWORKS, linear_graph, served, write
from training.network import export


@pytest.mark.parametrize("name", NETWORKS)
def test_any_architecture_is_served_by_the_same_loader(tmp_path: Path, name: str) -> None:
    original = served(name)
    digest = write(tmp_path, export(original))
    model = artifact.load(tmp_path, digest=digest)
    assert model.metadata.version == 3
    compute = read_graph(export(original))
    for batch in (1, 2, 7, 64):
        images = torch.randint(0, 256, (batch, 28, 28), dtype=torch.uint8)
        probabilities, accepted = model.graph(images.numpy())
        assert (probabilities.dtype.name, probabilities.shape) == ("float32", (batch, 10))
        assert (accepted.dtype.name, accepted.shape) == ("bool", (batch,))
        expected = original(images)
        np.testing.assert_allclose(probabilities, expected[0], rtol=0, atol=1e-6)
        assert accepted.tolist() == expected[1].tolist()
        in_torch = compute(images)
        assert torch.equal(in_torch[0], expected[0])
        assert torch.equal(in_torch[1], expected[1])


def test_a_relu_overwrites_its_convolution_or_the_pool_behind_it() -> None:
    graph = read_graph(export(served("folded")))
    functions = re.findall(r"\.(conv2d|relu_?|max\w*)[.(]", graph.func.__self__.code)  # type: ignore[attr-defined]
    pooled = ["conv2d", "maximum", "maximum", "relu_"]
    assert functions == [*pooled, *pooled, "conv2d", "relu_"]


@pytest.mark.parametrize("sides", [(4, 6), (5, 4), (4, 5), (11, 3)])
@pytest.mark.parametrize("settings", [(2,), (2, 2), (2, 1), (3, 3), (2, 2, 1), ((1, 2), (1, 2))])
def test_pooling_finds_the_same_maxima(sides: tuple[int, int], settings: tuple[Any, ...]) -> None:
    class Pool(nn.Module):
        def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return (functional.max_pool2d(images, *settings),)

    images = torch.rand(2, 3, *sides)
    images[0, 1, 0, 1] = torch.nan
    file = io.BytesIO()
    with warnings.catch_warnings(action="ignore"):
        torch.export.save(torch.export.export(Pool(), (images,)), file)
    (found,), (expected,) = read_graph(file.getvalue())(images), Pool()(images)
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)


NUMBERS = torch.linspace(-3, 3, 96).reshape(2, 3, 4, 4)
WEIGHT, BIAS = torch.linspace(-1, 1, 54).reshape(6, 1, 3, 3), torch.linspace(0, 1, 6)


CASES: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = [
    (ATEN.amax.default, (NUMBERS, [1, 2], True), {}),
    (ATEN.conv2d.default, (NUMBERS, WEIGHT, BIAS, [2, 1], [0, 1], [1, 2], 3), {}),
    (ATEN.conv2d.default, (NUMBERS, WEIGHT), {"padding": [1, 1], "groups": 3}),
    (ATEN.div.Tensor, (NUMBERS, 7), {}),
    (ATEN.div.Tensor, (NUMBERS.to(torch.uint8), NUMBERS), {}),
    (ATEN.flatten.using_ints, (NUMBERS, 1, 2), {}),
    (ATEN.ge.Scalar, (NUMBERS, 0.5), {}),
    (ATEN.linear.default, (NUMBERS, NUMBERS.reshape(-1, 4)[:6], BIAS), {}),
    (ATEN.maximum.default, (NUMBERS, NUMBERS.flip(0)), {}),
    (ATEN.relu_.default, (NUMBERS,), {}),
    (ATEN.softmax.int, (NUMBERS, 2, torch.float64), {}),
    (ATEN.unsqueeze.default, (NUMBERS, -2), {}),
]


def test_every_function_has_a_case() -> None:
    assert {operator for operator, *_ in CASES} == FUNCTIONS.keys()


@pytest.mark.parametrize(("operator", "arguments", "named"), CASES)
def test_a_function_does_what_its_operator_does(
    operator: Any, arguments: tuple[Any, ...], named: dict[str, Any]
) -> None:
    first, *others = arguments
    expected = operator(first.clone(), *others, **named)
    found = FUNCTIONS[operator](first.clone(), *others, **named)
    assert found.dtype == expected.dtype
    assert torch.equal(found, expected)


def test_torch_itself_reads_the_published_graph() -> None:
    content = export(served("folded"))
    with warnings.catch_warnings(action="ignore"):
        official = torch.export.load(io.BytesIO(content)).module()
    images = torch.randint(0, 256, (5, 28, 28), dtype=torch.uint8)
    for ours, theirs in zip(read_graph(content)(images), official(images), strict=True):
        assert torch.equal(ours, theirs)


def test_all_of_a_graph_is_on_the_device_that_is_asked_for() -> None:
    compute = read_graph(export(served("folded")), device="meta")
    outputs = compute(torch.zeros((5, 28, 28), dtype=torch.uint8, device="meta"))
    assert [output.device.type for output in outputs] == ["meta", "meta"]


def test_the_same_graph_gives_the_same_bytes_without_the_paths_of_this_machine() -> None:
    content = export(served("folded"))
    assert content == export(served("folded"))
    assert str(Path(__file__).parents[1]).encode() not in content


@pytest.mark.parametrize(("name", "missing"), [("folded", "torch"), ("varied", "torch._dynamo")])
def test_loading_needs_neither_the_training_code_nor_the_compiler(
    tmp_path: Path, name: str, missing: str
) -> None:
    """Nor torch, for what ONNX Runtime knows."""
    write(tmp_path, export(served(name)))
    code = """
import sys
from pathlib import Path
from predictor import artifact
artifact.read_metadata(Path(sys.argv[1]))
assert not {"numpy", "onnxruntime", "torch"} & set(sys.modules)
artifact.load(Path(sys.argv[1]))
print(sorted({"training", "sympy", sys.argv[2]} & set(sys.modules)))
"""
    command = [sys.executable, "-c", code, str(tmp_path), missing]
    root = Path(__file__).parents[1]
    result = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert (result.stdout, result.stderr) == ("[]\n", "")


class Trace:
    """Unpickling this makes a directory."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.mkdir, (self.path,))


def with_pickle(graph: bytes, trace: Path) -> bytes:
    """The archive with every pickle in it, and one weight, replaced by a malicious pickle."""
    result = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(graph)) as source, zipfile.ZipFile(result, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            if name.endswith("model_weights_config.json"):
                config = json.loads(content)
                next(iter(config["config"].values()))["use_pickle"] = True
                content = json.dumps(config).encode()
            elif name.endswith((".pt", "weight_0")):
                content = pickle.dumps(Trace(trace))
            target.writestr(name, content)
    return result.getvalue()


def test_nothing_is_ever_unpickled(tmp_path: Path) -> None:
    trace = tmp_path / "was-here"
    malicious = with_pickle(linear_graph(), trace)
    pickle.loads(pickle.dumps(Trace(trace)))  # noqa: S301 (it works)
    assert trace.exists()
    trace.rmdir()

    version = tmp_path / "3"
    write(version, linear_graph())
    (version / "model.pt2").write_bytes(malicious)
    with pytest.raises(ArtifactError, match="SHA-256 expected"):
        artifact.load(version)
    write(version, malicious)  # digests that fit: whoever can do this can write the store
    with pytest.raises(ArtifactError, match=r"layer\.weight is pickled"):
        artifact.load(version)
    assert not trace.exists()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("torch.ops.aten.linear.default", "os.system", r"os\.system is no ATen operator"),
        (
            "aten.linear.default",
            "aten.from_file.default",
            r"aten\.from_file\.default is no ATen operator that a graph may call",
        ),
        (
            "aten.linear.default",
            "aten.save.default",
            r"aten\.save\.default is no ATen operator that a graph may call",
        ),
        (
            "aten.linear.default",
            "aten._sparse_csr_tensor_unsafe.default",
            r"_sparse_csr_tensor_unsafe\.default is no ATen operator that a graph may call",
        ),
        ("aten.linear.default", "aten.__class__.mro", r"aten\.__class__\.mro is no ATen operator"),
        (
            "aten.linear.default",
            "aten.linear.nothing",
            r"aten\.linear\.nothing is no ATen operator",
        ),
        ("aten.linear.default", "prims.iota.default", r"prims\.iota\.default is no ATen operator"),
        ('"input", "arg"', '"a=exit()", "arg"', r"'a=exit\(\)' is no name of an argument"),
        ('"major": 8', '"major": 9', r"schema version .*, expected 8"),
        ('"as_ints": [1]', '"as_custom_obj": {}', "kind as_custom_obj is not read here"),
    ],
)
def test_a_graph_can_only_call_aten_operators_on_data(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    result = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(linear_graph())) as source,
        zipfile.ZipFile(result, "w") as target,
    ):
        for name in source.namelist():
            content = source.read(name)
            if name.endswith("models/model.json"):
                program = content.decode()
                assert old in program
                content = program.replace(old, new).replace('"kind": 1', '"kind": 2').encode()
            target.writestr(name, content)
    write(tmp_path, result.getvalue())
    with pytest.raises(ArtifactError, match=message):
        artifact.load(tmp_path)


@pytest.fixture(scope="module")
def parts() -> dict[str, bytes]:
    """The files in the archive of a good graph."""
    with zipfile.ZipFile(io.BytesIO(linear_graph())) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_tensors_of_one_file_share_their_memory() -> None:
    tensor = Tensor(np.arange(3, dtype=np.float32).tobytes(), 7, [2], [1], 1)
    weights = _weights(Program({}, {"a": tensor, "b": tensor}), "cpu")
    assert [weight.tolist() for weight in weights.values()] == [[1, 2], [1, 2]]
    assert weights["a"].data_ptr() == weights["b"].data_ptr()


@given(data=st.data(), share=st.floats(0, 1))
def test_any_altered_graph_is_run_or_refused(
    tmp_path_factory: pytest.TempPathFactory,
    parts: dict[str, bytes],
    data: st.DataObject,
    share: float,
) -> None:
    altered = io.BytesIO()
    with zipfile.ZipFile(altered, "w") as archive:
        for name, content in parts.items():
            if name.endswith(".json"):
                content = json.dumps(data.draw(anything.altered(json.loads(content)))).encode()
            elif share < 0.2:
                content = content[: int(len(content) * 5 * share)]
            archive.writestr(name, content)
    directory = tmp_path_factory.getbasetemp() / "altered"
    write(directory, altered.getvalue())  # with the digests of what is written
    with suppress(ArtifactError):
        artifact.load(directory)
