"""Has ONNX Runtime compute a ``torch.export`` program, in a third of the time that torch takes.

The program is translated, operator by operator, when it is loaded; torch is not needed, nor
imported. What a program may call is in ``OPERATORS``. Any other is left to torch
(``predictor.graph``). The figures are in docs/decisions/runtime.md.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from predictor.program import Json, Program, Tensor

OPSET, IR = 18, 10
"""The versions of ONNX's operators and of its format that are written."""
DTYPES: dict[int, np.dtype[Any]] = {
    number: np.dtype(name)
    for number, name in ((1, "u1"), (2, "i1"), (4, "<i4"), (5, "<i8"), (7, "<f4"), (12, "?"))
}
"""Those of the schema that both sides compute with alike."""
FLOAT, BYTES = 7, (1, 2)
"""The schema's numbers for float32, and for types whose numbers float32 has, too."""

PART = 16
"""Images that one thread computes at a time: their numbers stay in the caches of its core."""

Array = NDArray[Any]


class Untranslated(Exception):
    """The program has something that only torch computes; the message names it."""


def open_session(program: Program, *, threads: int) -> Callable[[Array], Any]:
    """``program`` as a function of its one input, which computes on ``threads`` CPU threads.

    Raises:
        Untranslated: something in it is not known here.
    """
    translation = _Translation(program)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3  # errors: a warning is for who wrote the program
    try:
        session = onnxruntime.InferenceSession(
            translation.model(), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # of several kinds, none of them public
        raise Untranslated(error) from error

    def compute(images: Array) -> Any:
        if threads != 1 or len(images) <= PART:
            return session.run(None, {translation.input: images})
        starts = range(0, len(images), PART)
        parts = [session.run(None, {translation.input: images[i : i + PART]}) for i in starts]
        return [np.concatenate(each) for each in zip(*parts, strict=True)]

    return compute


class _Translation:
    """An ONNX graph in the making; its values have the names that the program gives them."""

    def __init__(self, program: Program) -> None:
        module = program.module
        self._values: Json = module["graph"]["tensor_values"]
        self._nodes: list[Any] = []
        self._constants: dict[str, Array] = {}
        inputs = []
        for spec in module["signature"]["input_specs"]:
            ((kind, declared),) = spec.items()
            if kind == "user_input":
                inputs.append(declared["arg"]["as_tensor"]["name"])
            else:
                tensor = program.tensors[declared[f"{kind}_name"]]
                self._constants[declared["arg"]["name"]] = _array(tensor)
        (self.input,) = inputs
        for node in module["graph"]["nodes"]:
            self._translate(node)
        self._outputs = [output["as_tensor"]["name"] for output in module["graph"]["outputs"]]

    def model(self) -> bytes:
        """The model in ONNX's format."""
        graph = helper.make_graph(
            self._nodes,
            "program",
            [self._declared(self.input)],
            [self._declared(name) for name in self._outputs],
            [numpy_helper.from_array(array, name) for name, array in self._constants.items()],
        )
        opset = helper.make_opsetid("", OPSET)
        model = helper.make_model(graph, opset_imports=[opset], ir_version=IR)
        content: bytes = model.SerializeToString()
        return content

    def node(self, operator: str, inputs: list[Any], output: str, **attributes: Any) -> str:
        """Append a node of ONNX's, and return its output.

        Inputs are names of values, constants, or ``None`` for one that is left out.
        """
        given = [each for each in inputs if each is not None]
        names = [each if isinstance(each, str) else self._constant(each) for each in given]
        self._nodes.append(helper.make_node(operator, names, [output], **attributes))
        return output

    def floats(self, value: Any, output: str) -> Any:
        """``value``, a number or the name of a tensor, as float32, for what gives ``output``."""
        if not isinstance(value, str):
            return np.float32(value)
        dtype = self.dtype(value)
        if dtype == FLOAT:
            return value
        if dtype not in BYTES:
            raise ValueError(f"of a tensor of the type {dtype}")
        return self.node("Cast", [value], f"{output} from {value}", to=_onnx(FLOAT))

    def dtype(self, name: str) -> int:
        """The type of a value, as the schema numbers it."""
        number: int = self._values[name]["dtype"]
        return number

    def rank(self, name: str) -> int:
        """The number of dimensions of a value."""
        return len(self._values[name]["sizes"])

    def within(self, name: str, *dims: int) -> None:
        """Check that ``dims`` are within an image: a pass may be computed in parts."""
        if not dims or any(dim % self.rank(name) == 0 for dim in dims):
            raise ValueError("across the images of a batch")

    def _translate(self, node: Json) -> None:
        target = node["target"].removeprefix("torch.ops.aten.")
        if target == "_assert_tensor_metadata.default":
            return  # a check left over from tracing, which computes nothing
        try:
            (output,) = (each["as_tensor"]["name"] for each in node["outputs"])
            arguments = {each["name"]: _value(each["arg"]) for each in node["inputs"]}
            OPERATORS[target](self, output, **arguments)
        except (ArithmeticError, KeyError, TypeError, ValueError) as error:
            raise Untranslated(f"{node['target']} ({error})") from error

    def _constant(self, value: Any) -> str:
        name = f"constant {len(self._constants)}"
        self._constants[name] = np.asarray(value)
        return name

    def _declared(self, name: str) -> Any:
        meta = self._values[name]
        sizes = [size.get("as_int") for size in meta["sizes"]]
        return helper.make_tensor_value_info(name, _onnx(meta["dtype"]), sizes)


def _dtype(number: int) -> np.dtype[Any]:
    if number not in DTYPES:
        raise Untranslated(f"a tensor of the type {number}")
    return DTYPES[number]


def _onnx(number: int) -> int:
    return helper.np_dtype_to_tensor_dtype(_dtype(number))


def _array(tensor: Tensor) -> Array:
    """A view of the numbers; NumPy checks that it lies within them."""
    dtype = _dtype(tensor.dtype)
    strides = [stride * dtype.itemsize for stride in tensor.strides]
    offset = tensor.offset * dtype.itemsize
    array: Array = np.ndarray(tensor.sizes, dtype, tensor.numbers, offset, strides)
    if not np.isfinite(array).all():
        raise Untranslated("weights that are not finite: its pooling would drop them")
    return array


def _value(argument: Json) -> Any:
    """A constant, or the name of a tensor."""
    ((kind, content),) = argument.items()
    match kind:
        case "as_tensor":
            return content["name"]
        case "as_none":
            return None
        case "as_bool" | "as_int" | "as_ints" | "as_float":
            return content
        case _:
            raise ValueError(f"an argument of the kind {kind}")


# Each takes the operator's arguments by their names; those that are not there are not translated.


def _amax(
    to: _Translation, output: str, *, self: str, dim: list[int], keepdim: bool = False
) -> None:
    to.within(self, *dim)
    to.node("ReduceMax", [self, np.array(dim)], output, keepdims=int(keepdim))


def _conv2d(
    to: _Translation,
    output: str,
    *,
    input: str,  # noqa: A002
    weight: str,
    bias: str | None = None,
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1),
    groups: int = 1,
) -> None:
    to.node(
        "Conv",
        [input, weight, bias],
        output,
        strides=stride,
        pads=[*padding, *padding],
        dilations=dilation,
        group=groups,
    )


def _div(to: _Translation, output: str, *, self: str, other: Any) -> None:
    to.node("Div", [to.floats(self, output), to.floats(other, output)], output)


def _flatten(to: _Translation, output: str, *, self: str, start_dim: int) -> None:
    if start_dim != 1:
        raise ValueError("not of all but the first dimension")
    to.node("Flatten", [self], output)


def _ge(to: _Translation, output: str, *, self: str, other: float) -> None:
    if to.dtype(self) != FLOAT:
        raise ValueError("of integers: torch compares as many bits as they have")
    to.node("GreaterOrEqual", [self, np.float32(other)], output)


def _linear(
    to: _Translation,
    output: str,
    *,
    input: str,  # noqa: A002
    weight: str,
    bias: str | None = None,
) -> None:
    if to.rank(input) != 2:
        raise ValueError("of more than two dimensions")
    to.node("Gemm", [input, weight, bias], output, transB=1)


def _max_pool2d(
    to: _Translation,
    output: str,
    *,
    self: str,
    kernel_size: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0, 0),
) -> None:
    to.node(
        "MaxPool",
        [self],
        output,
        kernel_shape=kernel_size,
        strides=stride or kernel_size,
        pads=[*padding, *padding],
    )


def _relu(to: _Translation, output: str, *, self: str) -> None:
    to.node("Relu", [self], output)


def _slice(to: _Translation, output: str, *, self: str, dim: int, start: int, end: int) -> None:
    if (start, end) != (0, 2**63 - 1):  # all of them, as ``x[:, 1]`` says of the images
        to.within(self, dim)
    to.node("Slice", [self, *(np.array([each]) for each in (start, end, dim))], output)


def _softmax(to: _Translation, output: str, *, self: str, dim: int) -> None:
    to.within(self, dim)
    to.node("Softmax", [self], output, axis=dim)


def _unsqueeze(to: _Translation, output: str, *, self: str, dim: int) -> None:
    if dim in (0, -1 - to.rank(self)):
        raise ValueError("before the images of a batch")
    to.node("Unsqueeze", [self, np.array([dim])], output)


OPERATORS: dict[str, Callable[..., None]] = {
    "amax.default": _amax,
    "conv2d.default": _conv2d,
    "div.Tensor": _div,
    "flatten.using_ints": _flatten,
    "ge.Scalar": _ge,
    "linear.default": _linear,
    "max_pool2d.default": _max_pool2d,
    "relu.default": _relu,
    "slice.Tensor": _slice,
    "softmax.int": _softmax,
    "unsqueeze.default": _unsqueeze,
}
"""ATen's operators that are translated."""
