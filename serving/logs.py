"""Logging of both programs: one line per event, with the ids of the request it belongs to."""

import logging
import logging.config
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import kserve.model_server
import orjson
import yaml

from serving import access, context


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    """What a line has besides its message: the ids of the request, and ``extra["fields"]``."""
    request = context.current()
    ids = {"request_id": request.request_id, "trace_id": request.trace_id}
    return {name: value for name, value in ids.items() if value} | getattr(record, "fields", {})


class _Text(logging.Formatter):
    """A record as a line for a person, its fields at the end."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        fields = (f" {name}={value}" for name, value in _fields(record).items())
        return super().formatMessage(record) + "".join(fields)


class _JSON(logging.Formatter):
    """A record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        event = {
            "time": datetime.fromtimestamp(record.created, UTC),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            event["exception"] = self.formatException(record.exc_info)
        return orjson.dumps(event, option=orjson.OPT_UTC_Z).decode()


FORMATS = {
    "text": _Text("%(asctime)s %(levelname)s %(name)s: %(message)s"),
    "json": _JSON(),
}


def configure(
    level: str = "INFO", style: str = "text", inferences: str = "errors", file: str | None = None
) -> None:
    """Log to stderr in one of ``FORMATS``; some libraries log only warnings and errors.

    Args:
        level: the lowest level that is logged.
        style: a key of ``FORMATS``.
        inferences: which inferences are logged, a key of ``access.CHOICES``, whatever the level.
        file: a configuration of Python's logging, in place of ``level`` and ``style``.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(FORMATS[style])
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for chatter in ("kserve", "asyncio", "httpcore", "httpx", "python_multipart"):
        logging.getLogger(chatter).setLevel(logging.WARNING)
    # The SDK's client has a traceback for each call by gRPC that fails; ours says that in a line.
    logging.getLogger("kserve.trace").setLevel(logging.CRITICAL)
    access.log.setLevel(access.CHOICES[inferences])
    # uvicorn checks once whether this logger has handlers; if not, it logs no line per request.
    logging.getLogger("uvicorn.access").propagate = False
    # Neither format shows these, so they need not be looked up for every line.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    if file:
        _read(file)


def _read(file: str) -> None:
    # The SDK would do it later, by Python's default, which silences the loggers that there are.
    kserve.model_server.args.configure_logging = False
    try:
        text = Path(file).read_text(encoding="utf-8")
        found = orjson.loads(text) if file.endswith(".json") else yaml.safe_load(text)
        logging.config.dictConfig({"disable_existing_loggers": False, **found})
    except Exception as error:  # of any kind, by what the file holds
        sys.exit(f"--log_config_file={file} cannot be used: {error}")
