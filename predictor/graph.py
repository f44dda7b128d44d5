"""Has torch compute a ``torch.export`` program: makes a ``torch.fx`` graph of it.

``torch.export.load`` does this too, but imports the compiler stack of torch first, which takes
longer than ``import torch`` itself, and unpickles. The graph made here can call nothing but ATen
operators. The figures are in docs/decisions/artifact.md.
"""

import functools
import operator
import re
from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from predictor.program import Json, Program, read_program

KEYWORD = 2
FILES = ("from_file", "save")
"""ATen operators that read or write any file, which a graph may not call."""
UNCHECKED = "sparse"
"""In the names of operators that a graph may not call either: some take indices as they are, with
which others read and write beyond the tensor."""
DTYPES = {
    1: torch.uint8,
    2: torch.int8,
    3: torch.int16,
    4: torch.int32,
    5: torch.int64,
    6: torch.float16,
    7: torch.float32,
    8: torch.float64,
    12: torch.bool,
    13: torch.bfloat16,
}
MEMORY_FORMATS = {
    1: torch.contiguous_format,
    2: torch.channels_last,
    3: torch.channels_last_3d,
    4: torch.preserve_format,
}

ATEN = torch.ops.aten
FUNCTIONS: dict[Any, Callable[..., Any]] = {
    ATEN.amax.default: torch.amax,
    ATEN.conv2d.default: torch.conv2d,
    ATEN.div.Tensor: torch.div,
    ATEN.flatten.using_ints: torch.flatten,
    ATEN.ge.Scalar: torch.ge,
    ATEN.linear.default: torch.nn.functional.linear,
    ATEN.maximum.default: torch.maximum,
    ATEN.relu_.default: torch.relu_,
    ATEN.softmax.int: torch.softmax,
    ATEN.unsqueeze.default: torch.unsqueeze,
}
"""What torch itself has for an operator, with the same arguments: it is called in less time."""


def read_graph(content: bytes, device: str = "cpu") -> Callable[..., tuple[torch.Tensor, ...]]:
    """The graph in ``content``, a ``.pt2`` archive, as a function of its input tensors.

    Inputs and outputs are on ``device``, whichever device the graph was saved on.

    Raises:
        ValueError: the graph has something that is not supported here; the message names it.
    """
    program = read_program(content)
    module, weights = program.module, _weights(program, device)
    graph = fx.Graph()
    values: dict[str, Any] = {}
    lifted = []  # the graph takes the weights first, and the caller's inputs after them
    for number, spec in enumerate(module["signature"]["input_specs"]):
        ((kind, declared),) = spec.items()
        argument = declared["arg"]
        if kind != "user_input":
            lifted.append(weights[declared[f"{kind}_name"]])
            argument = {"as_tensor": argument}
        # Not the name in the file: fx generates code from names.
        values[_name(argument)] = graph.placeholder(f"input_{number}")
    for node in module["graph"]["nodes"]:
        _add(graph, node, values, device)
    graph.output(tuple(_value(output, values, device) for output in module["graph"]["outputs"]))
    for relu in graph.find_nodes(op="call_function", target=ATEN.relu.default):
        _save_memory(relu)
    if device == "cpu":
        for pool in graph.find_nodes(op="call_function", target=ATEN.max_pool2d.default):
            _pool_by_sides(pool)
    for node in graph.nodes:
        node.target = FUNCTIONS.get(node.target, node.target)
    forward = fx.GraphModule(torch.nn.Module(), graph).forward
    return functools.partial(forward, *lifted)


def _weights(program: Program, device: str) -> dict[str, torch.Tensor]:
    weights = {}
    read: dict[tuple[int, torch.dtype], torch.Tensor] = {}
    for name, tensor in program.tensors.items():
        source = id(tensor.numbers), DTYPES[tensor.dtype]
        if source not in read:
            # The copy has the alignment that torch expects, and is on the device.
            numbers = torch.frombuffer(bytearray(tensor.numbers), dtype=source[1])
            read[source] = numbers.clone().to(device)
        # The strides keep the published layout.
        weights[name] = read[source].as_strided(tensor.sizes, tensor.strides, tensor.offset)
    return weights


def _add(graph: fx.Graph, node: Json, values: dict[str, Any], device: str) -> None:
    """Append ``node`` to ``graph`` and its results to ``values``."""
    found = re.fullmatch(r"torch\.ops\.aten\.(\w+)\.(\w+)", node["target"])
    function = found and getattr(getattr(ATEN, found[1], None), found[2], None)
    forbidden = not found or found[1] in FILES or UNCHECKED in found[1]
    if forbidden or not isinstance(function, torch._ops.OpOverload):
        raise ValueError(f"{node['target']} is no ATen operator that a graph may call")
    if function is ATEN._assert_tensor_metadata.default:
        return  # a check left over from tracing, which computes nothing
    positional, keyword = [], {}
    for argument in node["inputs"]:
        value = _value(argument["arg"], values, device)
        if argument["kind"] == KEYWORD:
            if not argument["name"].isidentifier():
                raise ValueError(f"{argument['name']!r} is no name of an argument")
            keyword[argument["name"]] = value
        else:
            positional.append(value)
    result = graph.call_function(function, tuple(positional), keyword)
    outputs = node["outputs"]
    if "as_tensors" in outputs[0]:
        outputs = [{"as_tensor": tensor} for tensor in outputs[0]["as_tensors"]]
    elif len(outputs) == 1:
        values[_name(outputs[0])] = result
        return
    for number, output in enumerate(outputs):
        values[_name(output)] = graph.call_function(operator.getitem, (result, number))


def _save_memory(relu: fx.Node) -> None:
    """Let a ReLU after a convolution work in place, and move it behind a pooling that follows.

    The results stay the same: ReLU and maximum can be swapped. A large batch needs no memory for a
    second output, which together with the first would exceed a core's cache.
    """
    (convolution,) = relu.all_input_nodes
    # The memory of a view, or of an input of the graph, may be read elsewhere.
    if convolution.target is not ATEN.conv2d.default or len(convolution.users) > 1:
        return
    relu.target = ATEN.relu_.default
    if [user.target for user in relu.users] != [ATEN.max_pool2d.default]:
        return
    (pool,) = relu.users
    # With a dilation, the fifth argument, a window may hold only padding, minus infinity.
    if len(pool.args) < 5 and not pool.kwargs:
        relu.replace_all_uses_with(convolution)
        pool.replace_all_uses_with(relu)
        relu.update_arg(0, pool)
        pool.append(relu)


def _pool_by_sides(pool: fx.Node) -> None:
    """Take the maximum of 2×2 pixels as that of two rows, and then of two columns.

    The operator also notes where each maximum was, which nobody asks for: that takes three times
    as long.
    """
    if pool.args[1:] != ([2, 2], [2, 2]) or pool.kwargs:
        return
    (found,) = pool.all_input_nodes
    with pool.graph.inserting_before(pool):
        for rest in ((slice(None),), ()):  # rows, then columns
            first, second = (  # of an odd number, the last one is left out
                pool.graph.call_function(operator.getitem, (found, (..., half, *rest)))  # type: ignore[arg-type]
                for half in (slice(0, -1, 2), slice(1, None, 2))
            )
            found = pool.graph.call_function(ATEN.maximum.default, (first, second))
    pool.replace_all_uses_with(found)
    pool.graph.erase_node(pool)


def _name(output: Json) -> str:
    ((_, content),) = output.items()
    name: str = content.get("name") or content["as_name"]
    return name


def _value(argument: Json, values: dict[str, Any], device: str) -> Any:
    """The value of a node's argument: a constant, or an earlier result."""
    ((kind, content),) = argument.items()
    match kind:
        case "as_none":
            return None
        case "as_bool" | "as_bools" | "as_int" | "as_ints" | "as_float" | "as_floats" | "as_string":
            return content
        case "as_tensor":
            return values[content["name"]]
        case "as_tensors":
            return [values[tensor["name"]] for tensor in content]
        case "as_name":
            return values[content]
        case "as_sym_int" | "as_optional_tensor":
            return _value(content, values, device)
        case "as_sym_ints" | "as_optional_tensors":
            return [_value(item, values, device) for item in content]
        case "as_scalar_type":
            return DTYPES[content]
        case "as_memory_format":
            return MEMORY_FORMATS[content]
        case "as_device":
            return torch.device(device)
        case _:
            raise ValueError(f"an argument of the kind {kind} is not read here")
