"""The V2 inference protocol: bodies and messages to ``InferRequest``, ``InferResponse`` to bodies.

For REST the SDK does this too, but turns every tensor into a list of Python numbers, and treats a
body with wrong lengths as a failure of the server. Protocol:
https://kserve.github.io/website/docs/concepts/architecture/data-plane/v2-protocol and its
binary tensor data extension.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from kserve import InferInput, InferOutput, InferRequest, InferResponse
from kserve.errors import InvalidInput as SDKInvalidInput
from kserve.protocol.grpc.servicer import InferenceServicer
from kserve.protocol.infer_type import GRPC_CONTENT_DATATYPE_MAPPINGS, RequestedOutput
from kserve.utils.numpy_codec import from_np_dtype
from numpy.typing import NDArray

from serving.errors import InvalidInput, TooLarge
from serving.json import LONGEST_NAME, MOST_VALUES, read_json, write_json

MOST_TENSORS = 16
"""Most inputs, and most outputs, that one request may name."""
MOST_DIMENSIONS = 16
"""Most sizes in the shape of an input."""
HEADER_LENGTH = "inference-header-content-length"
"""The header that gives the bytes of JSON in front of the binary tensor data."""


def read_request(body: bytes, header_length: str | None, model_name: str) -> InferRequest:
    """Read the body of ``POST /v2/models/{model_name}/infer``.

    Args:
        body: JSON, followed by the binary data of the inputs with a ``binary_data_size``.
        header_length: value of the header ``Inference-Header-Content-Length``, if any.
        model_name: the model asked for.

    Raises:
        InvalidInput: it is not a V2 request, or its lengths do not add up.
    """
    json_length = _json_length(header_length, len(body))
    request = _json_object(body[:json_length])
    inputs: list[InferInput] = []
    binary: list[bytes | None] = []
    position = json_length
    for entry in _list_of_objects(request, "inputs", at_least=1):
        tensor = _read_input(entry)
        size = _binary_size(tensor)
        if size is None:
            if not isinstance(tensor.data, list):
                raise InvalidInput(
                    f"input '{tensor.name}': expected a list 'data' or 'binary_data_size'"
                )
            binary.append(None)
        else:
            if position + size > len(body):
                raise InvalidInput(
                    f"input '{tensor.name}': 'binary_data_size' is {size}, "
                    f"but {len(body) - position} bytes are left in the body"
                )
            binary.append(body[position : position + size])
            position += size
        inputs.append(tensor)
    if position != len(body):
        raise InvalidInput(f"{len(body) - position} bytes of the body belong to no input")
    return InferRequest(
        model_name,
        inputs,
        request_id=_optional(request, "id", str),
        raw_inputs=binary,
        parameters=_parameters(request, "binary_data_output"),
        request_outputs=[
            RequestedOutput(_required(entry, "name", str), _parameters(entry, "binary_data"))
            for entry in _list_of_objects(request, "outputs", at_least=0)
        ],
    )


def read_message(request: Any) -> InferRequest:
    """Read a ``ModelInferRequest`` of gRPC.

    Raises:
        InvalidInput: its contents are not those of its inputs, or it exceeds a limit above.
        TooLarge: it has more values than JSON may have.
    """
    if max(len(request.inputs), len(request.outputs)) > MOST_TENSORS:
        raise InvalidInput(f"expected at most {MOST_TENSORS} inputs and {MOST_TENSORS} outputs")
    _check_name("id", request.id)
    for output in request.outputs:
        _check_name("name", output.name)
    count = 0
    for tensor in request.inputs:
        _check_name("name", tensor.name)
        _check_shape(tensor.name, tensor.shape)
        field = GRPC_CONTENT_DATATYPE_MAPPINGS.get(tensor.datatype)
        if field is None:
            raise InvalidInput(f"input '{tensor.name}': cannot read datatype '{tensor.datatype}'")
        for found, values in tensor.contents.ListFields():
            if found.name != field:
                raise InvalidInput(f"input '{tensor.name}': expected {field}, got {found.name}")
            count += len(values)
    if count > MOST_VALUES:
        raise TooLarge(f"the inputs have more than {MOST_VALUES} values")
    try:
        InferenceServicer.validate_grpc_request(request)
    except SDKInvalidInput as error:
        raise InvalidInput(str(error)) from None
    return InferRequest.from_grpc(request)


def make_response(
    request: InferRequest,
    outputs: Mapping[str, NDArray[Any]],
    *,
    model_name: str,
    model_version: str,
) -> InferResponse:
    """Answer ``request`` with the outputs it asks for, or with all if it asks for none.

    Args:
        request: the request to answer.
        outputs: the tensors by name; BYTES are object arrays of ``str``.
        model_name: name of the model that answers.
        model_version: its version.

    Raises:
        InvalidInput: the request asks for an output twice, or for one that there is not.
    """
    wanted = [output.name for output in request.request_outputs or ()] or list(outputs)
    if len(set(wanted)) < len(wanted):
        raise InvalidInput("an output is asked for twice")
    if unknown := set(wanted) - outputs.keys():
        raise InvalidInput(f"no output {sorted(unknown)}; there are {list(outputs)}")
    return InferResponse(
        request.id,
        model_name,
        [
            InferOutput(name, list(data.shape), from_np_dtype(data.dtype), data)
            for name, data in ((name, outputs[name]) for name in wanted)
        ],
        model_version=model_version,
    )


def only_input(request: InferRequest, name: str, datatype: str) -> InferInput:
    """The one input of a request, which must have this name and datatype.

    Raises:
        InvalidInput: there are others, or its name or datatype differs.
    """
    if len(request.inputs) != 1 or request.inputs[0].name != name:
        names = [tensor.name for tensor in request.inputs]
        raise InvalidInput(f"expected one input '{name}', got {names}")
    tensor = request.inputs[0]
    if tensor.datatype != datatype:
        raise InvalidInput(f"input '{name}': expected datatype {datatype}, got '{tensor.datatype}'")
    return tensor


def raw_data(tensor: InferInput) -> bytes | None:
    """The raw contents of a tensor that came as binary data or by gRPC.

    kserve 0.21.0 has no public name for them.
    """
    raw: bytes | None = tensor._raw_data
    return raw


def write_response(response: InferResponse, request: InferRequest) -> tuple[bytes, int | None]:
    """Write the answer to ``request`` as a body.

    The outputs that the request wants as binary data (``binary_data`` of one output,
    ``binary_data_output`` of all) follow the JSON.

    Returns:
        The body, and the length of the JSON in bytes if binary data follow it.
    """
    all_binary = (request.parameters or {}).get("binary_data_output")
    wants_binary = {output.name: output.binary_data for output in request.request_outputs or ()}
    entries = []
    binary = []
    for output in response.outputs:
        entry = {"name": output.name, "shape": output.shape, "datatype": output.datatype}
        one_binary = wants_binary.get(output.name)
        if all_binary if one_binary is None else one_binary:
            data = to_bytes(output.data)
            entry["parameters"] = {"binary_data_size": len(data)}
            binary.append(data)
        else:
            # orjson writes an array of numbers as it is, but not one of objects.
            flat = output.data.ravel()
            entry["data"] = flat.tolist() if flat.dtype == object else flat
        entries.append(entry)
    answer = {
        "model_name": response.model_name,
        "model_version": response.model_version,
        "outputs": entries,
    }
    if response.id:
        answer["id"] = response.id
    header = write_json(answer)
    return b"".join((header, *binary)), len(header) if binary else None


def to_bytes(array: NDArray[Any]) -> bytes:
    """A tensor as binary data; each text of a BYTES tensor has its length in front."""
    if array.dtype != object:
        return array.tobytes()
    texts = [text.encode() for text in array.ravel()]
    return b"".join(len(text).to_bytes(4, "little") + text for text in texts)


def _json_length(header_length: str | None, body_length: int) -> int:
    if header_length is None:
        return body_length
    if not _LENGTH.fullmatch(header_length):
        raise InvalidInput(f"{HEADER_LENGTH}: expected a number of bytes, got '{header_length}'")
    length = int(header_length)
    if length > body_length:
        raise InvalidInput(f"{HEADER_LENGTH} is {length}, but the body has {body_length} bytes")
    return length


def _json_object(data: bytes) -> dict[str, Any]:
    value = read_json(data)
    if not isinstance(value, dict):
        raise InvalidInput("the body is not a JSON object")
    return value


def _read_input(entry: dict[str, Any]) -> InferInput:
    name = _required(entry, "name", str)
    shape = _required(entry, "shape", list)
    _check_shape(name, shape)
    if not all(type(size) is int and size >= 0 for size in shape):
        raise InvalidInput(f"input '{name}': 'shape' holds something else than sizes")
    return InferInput(
        name,
        shape,
        _required(entry, "datatype", str),
        data=entry.get("data"),
        parameters=_optional(entry, "parameters", dict),
    )


def _check_shape(name: str, shape: Sequence[Any]) -> None:
    if len(shape) > MOST_DIMENSIONS:
        raise InvalidInput(f"input '{name}': 'shape' has more than {MOST_DIMENSIONS} sizes")


def _binary_size(tensor: InferInput) -> int | None:
    size = (tensor.parameters or {}).get("binary_data_size")
    if size is None:
        return None
    if type(size) is not int or size < 0:
        raise InvalidInput(f"input '{tensor.name}': 'binary_data_size' is no number of bytes")
    if tensor.data is not None:
        raise InvalidInput(f"input '{tensor.name}' has both 'data' and 'binary_data_size'")
    return size


def _parameters(entry: dict[str, Any], flag: str) -> dict[str, Any] | None:
    """The parameters of a request or of an output; ``flag`` is the one that is read."""
    parameters: dict[str, Any] | None = _optional(entry, "parameters", dict)
    _optional(parameters or {}, flag, bool)
    return parameters


def _required(entry: dict[str, Any], key: str, kind: type) -> Any:
    value = entry.get(key)
    if not isinstance(value, kind):
        raise InvalidInput(f"expected '{key}' to be a JSON {_JSON_NAMES[kind]}")
    if isinstance(value, str):
        _check_name(key, value)
    return value


def _check_name(key: str, value: str) -> None:
    if len(value) > LONGEST_NAME:
        raise InvalidInput(f"'{key}' has more than {LONGEST_NAME} characters")


def _optional(entry: dict[str, Any], key: str, kind: type) -> Any:
    return None if entry.get(key) is None else _required(entry, key, kind)


def _list_of_objects(entry: dict[str, Any], key: str, *, at_least: int) -> list[dict[str, Any]]:
    value = [] if at_least == 0 and entry.get(key) is None else entry.get(key)
    if (
        not isinstance(value, list)
        or not at_least <= len(value) <= MOST_TENSORS
        or not all(isinstance(item, dict) for item in value)
    ):
        raise InvalidInput(f"expected '{key}' to be a list of {at_least} to {MOST_TENSORS} objects")
    return value


_LENGTH = re.compile("[0-9]{1,12}")
_JSON_NAMES: dict[type, str] = {bool: "boolean", str: "string", list: "array", dict: "object"}
