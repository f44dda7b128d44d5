"""FastAPI: decodes and predicts in one process.

The body is read as in https://fastapi.tiangolo.com/advanced/using-request-directly/ for one image,
and as in https://fastapi.tiangolo.com/tutorial/body/ for many.
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


# `async`, not in FastAPI's thread pool: a forward pass takes less time than changing threads.
@app.post("/image")
async def image(request: Request) -> dict[str, Any]:
    """Read one image, which is the body."""
    return classify(read(await request.body())[np.newaxis])[0]


@app.post("/images")
async def images(body: Images) -> list[dict[str, Any]]:
    """Read several images."""
    return classify(np.stack([read(file) for file in body.images]))
