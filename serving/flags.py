"""The command line of both programs: KServe's flags, and those of our own that both have."""

import argparse

import kserve.model_server

from serving import access, logs
from serving.numbers import natural, port, positive

UNUSED = {
    "access_log_format", "enable_docs_url", "enable_latency_logging", "event_loop",
    "max_asyncio_workers", "max_threads", "protocol",
}  # fmt: skip
"""KServe's flags that have no effect here; its controller may pass them all the same."""
HELP = {
    "workers": "Must be 1, since requests share batches.",
    "predictor_request_retries": "How often a call is repeated when the connection fails.",
}
"""Instead of what KServe says of these flags, which is not so here."""


def _name(text: str) -> str:
    if not text or "/" in text:
        raise argparse.ArgumentTypeError("must be a name, without a slash")
    return text


TYPES = {
    "model_name": _name,
    "http_port": port,
    "grpc_port": port,
    "timeout_keep_alive": positive,
    "grpc_max_receive_message_length": positive,
    "grpc_max_send_message_length": positive,
    "predictor_request_timeout_seconds": positive,
    "predictor_request_retries": natural,
}
"""Of KServe's flags that take any text or integer: with some no request could be answered."""


class _Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    pass


def parser(program: str, description: str, epilog: str) -> argparse.ArgumentParser:
    """A parser of KServe's standard flags, with the names its controller uses, and of our own."""
    flags = argparse.ArgumentParser(
        prog=f"python -m {program}",
        description=description,
        epilog=epilog,
        parents=[kserve.model_server.parser],
        formatter_class=_Help,
    )
    flags.set_defaults(
        model_name="mnist",
        predictor_protocol="v2",
        predictor_request_timeout_seconds=10,
        predictor_request_retries=1,
    )
    for action in flags._actions:
        action.help = HELP.get(action.dest, action.help)
        action.type = TYPES.get(action.dest, action.type)
        if action.dest in UNUSED:
            action.help = argparse.SUPPRESS
    flags.add_argument(
        "--log_level",
        default="INFO",
        choices=("DEBUG", "INFO", "WARNING", "ERROR"),
        help="The lowest level that is logged.",
    )
    flags.add_argument(
        "--log_format", default="text", choices=logs.FORMATS, help="For people, or for machines."
    )
    flags.add_argument(
        "--access_log",
        default="errors",
        choices=access.CHOICES,
        help="Which inferences are logged; errors includes slow ones, of a second or more.",
    )
    flags.add_argument("--host", default="127.0.0.1", help="The address to listen on.")
    flags.add_argument(
        "--metrics_port", default=0, type=port, help="The port of the metrics; 0 for none."
    )
    flags.add_argument(
        "--max_requests",
        default=80,
        type=positive,
        help="HTTP requests being handled, beyond which a POST gets 429.",
    )
    flags.add_argument(
        "--max_instances", default=256, type=positive, help="Most images in a request, else 413."
    )
    flags.add_argument(
        "--max_body", default=32 * 2**20, type=positive, help="Largest body in bytes, else 413."
    )
    return flags
