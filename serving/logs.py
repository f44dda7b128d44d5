"""Logging of both programs."""

import logging


def configure() -> None:
    """Log to stderr in one format, our libraries' chatter left out."""
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    logging.getLogger("kserve").setLevel(logging.WARNING)
    # uvicorn asks once whether this logger has handlers, and if not spares the line per request.
    logging.getLogger("uvicorn.access").propagate = False
