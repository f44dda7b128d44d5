"""A ``torch.export`` program in ONNX's format, operator by operator.

What a program may call is in ``predictor.operators``; any other is left to torch.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from predictor.operators import OPERATORS, VIEWS
from predictor.program import BYTES, FLOAT, Json, Program, Tensor

OPSET, IR = 18, 10
"""The versions of ONNX's operators and of its format that are written."""
DTYPES: dict[int, np.dtype[Any]] = {
    number: np.dtype(name)
    for number, name in ((1, "u1"), (2, "i1"), (4, "<i4"), (5, "<i8"), (7, "<f4"), (12, "?"))
}
"""Those of the schema that both sides compute with alike."""
UNSAID = ("_assert_tensor_metadata.default", "sym_size.int")
"""A check left over from tracing, which computes nothing, and a size, which each value has."""
FIRST = ("input", "self", "tensors")
"""What ATen calls the first argument of an operator."""

Array = NDArray[Any]


class Untranslated(Exception):
    """The program has something that only torch computes; the message names it."""


class Translation:
    """An ONNX graph in the making; its values have the names that the program gives them."""

    def __init__(self, program: Program) -> None:
        module = program.module
        self._values: Json = module["graph"]["tensor_values"]
        self._nodes: list[Any] = []
        self._constants: dict[str, Array] = {}
        self._views: dict[str, set[str]] = {}
        """The names of what is in the same memory in torch, for each that a node has made."""
        self._overwritten: set[str] = set()
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
        if not self._overwritten.isdisjoint(self._outputs):
            raise Untranslated("an output that is overwritten")

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
        if any(each in self._overwritten for each in given if isinstance(each, str)):
            raise ValueError("of what is overwritten before")
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

    def sizes(self, name: str) -> list[Any]:
        """The sizes of a value; ``None`` is the number of images, or follows from it."""
        return [size.get("as_int") for size in self._values[name]["sizes"]]

    def _translate(self, node: Json) -> None:
        target = node["target"].removeprefix("torch.ops.aten.")
        if target in UNSAID:
            return
        name, _, overload = target.partition(".")
        try:
            (output,) = (each["as_tensor"]["name"] for each in node["outputs"])
            first, *others = (_value(each["arg"]) for each in node["inputs"])
            called, *names = (each["name"] for each in node["inputs"])
            if called not in FIRST:
                raise ValueError(f"{called} is no name of a first argument")
            function = OPERATORS[f"{name.removesuffix('_')}.{overload}"]
            self._check_images(output)
            function(self, output, first, **dict(zip(names, others, strict=True)))
            self._note_memory(output, first, view=function in VIEWS, in_place=name.endswith("_"))
        except (ArithmeticError, KeyError, TypeError, ValueError) as error:
            raise Untranslated(f"{node['target']} ({error})") from error

    def _check_images(self, name: str) -> None:
        """Check that a value has the images of a batch first: a pass may be computed in parts.

        Sizes that are not numbers are made of the batch's. Of ``[N] / [N, 1]`` there are two.
        """
        (images, *_), sizes = self._values[self.input]["sizes"], self._values[name]["sizes"]
        if sizes[:1] != [images] or None in self.sizes(name)[1:]:
            raise ValueError("across the images of a batch")

    def _note_memory(self, output: str, first: Any, *, view: bool, in_place: bool) -> None:
        """Note whose memory ``output`` is in, and what an operator in place has overwritten.

        In ONNX nothing is overwritten, so by its other names it may not be read any more.
        """
        if in_place:
            if first not in self._views:
                raise ValueError("overwrites an input or a weight")
            self._overwritten |= self._views[first]
        if not view:
            self._views[output] = {output}
        elif first in self._views:
            self._views[output] = self._views[first]
            self._views[output].add(output)

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
        case "as_tensors":
            return [each["name"] for each in content]
        case "as_sym_ints":
            return [each.get("as_int") for each in content]
        case "as_bool" | "as_int" | "as_ints" | "as_float" | "as_string":
            return content
        case _:
            raise ValueError(f"an argument of the kind {kind}")
