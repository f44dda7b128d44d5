"""FastAPI: decodes and predicts in one process.

The body is read as https://fastapi.tiangolo.com/advanced/using-request-directly/ does for one
image, and as https://fastapi.tiangolo.com/tutorial/body/ does for many.
"""

from typing import Any

import numpy as np
from fastapi import FastAPI, Request
from pydantic import Base64Bytes, BaseModel

from benchmarks.peers.model import Classifier, read

app = FastAPI()
classify = Classifier()


class Images(BaseModel):
    """Image files in base64."""

    images: list[Base64Bytes]


# `async` and not in FastAPI's pool of threads: a pass is shorter than the way to a thread.
@app.post("/image")
async def image(request: Request) -> dict[str, Any]:
    """One image, which is the body."""
    return classify(read(await request.body())[np.newaxis])[0]


@app.post("/images")
async def images(body: Images) -> list[dict[str, Any]]:
    """Several images."""
    return classify(np.stack([read(file) for file in body.images]))
