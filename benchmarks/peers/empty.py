"""The limits of any server in Python: endpoints that do nothing, served by uvicorn."""

from typing import Any

from fastapi import FastAPI

fastapi = FastAPI()


@fastapi.post("/")
async def empty() -> dict[str, str]:
    """Answer ``{}``."""
    return {}


async def asgi(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Answer ``{}``, without a framework."""
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    headers = [(b"content-type", b"application/json"), (b"content-length", b"2")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"{}"})
