"""Logging of both programs."""

import logging
from datetime import UTC, datetime

import orjson


class _JSON(logging.Formatter):
    """A record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        event = {
            "time": datetime.fromtimestamp(record.created, UTC),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            event["exception"] = self.formatException(record.exc_info)
        return orjson.dumps(event, option=orjson.OPT_UTC_Z).decode()


FORMATS = {
    "text": logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"),
    "json": _JSON(),
}


def configure(level: str = "INFO", style: str = "text") -> None:
    """Log to stderr in one of ``FORMATS``, our libraries' chatter left out."""
    handler = logging.StreamHandler()
    handler.setFormatter(FORMATS[style])
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for chatter in ("kserve", "asyncio", "httpcore", "httpx", "python_multipart"):
        logging.getLogger(chatter).setLevel(logging.WARNING)
    # uvicorn asks once whether this logger has handlers, and if not spares the line per request.
    logging.getLogger("uvicorn.access").propagate = False
