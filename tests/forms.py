"""The forms in which image files are sent."""

import base64
import json
from typing import Any

V1 = "/v1/models/mnist:predict"
V2 = "/v2/models/mnist/infer"


def b64(file: bytes) -> str:
    return base64.b64encode(file).decode()


def v1_json(*files: bytes) -> dict[str, Any]:
    return {"instances": [{"image": {"b64": b64(file)}} for file in files]}


def v2_json(*files: bytes) -> dict[str, Any]:
    data = [b64(file) for file in files]
    tensor = {"name": "images", "datatype": "BYTES", "shape": [len(files)], "data": data}
    return {"inputs": [tensor]}


def v2_binary(*files: bytes) -> dict[str, Any]:
    binary = b"".join(len(file).to_bytes(4, "little") + file for file in files)
    tensor = {
        "name": "images",
        "datatype": "BYTES",
        "shape": [len(files)],
        "parameters": {"binary_data_size": len(binary)},
    }
    header = json.dumps({"inputs": [tensor]}).encode()
    return {
        "content": header + binary,
        "headers": {"Inference-Header-Content-Length": str(len(header))},
    }
