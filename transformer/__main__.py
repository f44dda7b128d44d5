"""Serve the transformer: ``python -m transformer --help``."""

from serving.start import quick_imports

with quick_imports(__name__):
    import argparse
    import sys

    from kserve import PredictorConfig

    from serving import logs, tracing
    from serving.cpu import cpu_limit
    from serving.flags import parser
    from serving.numbers import positive, seconds
    from serving.server import Server
    from transformer.client import client_for
    from transformer.decode import MAX_PIXELS
    from transformer.model import Transformer
    from transformer.routes import add_routes

EPILOG = """\
example:
  python -m transformer --predictor_host=127.0.0.1:8082
"""


def command_line() -> argparse.ArgumentParser:
    """The flags of the program: KServe's and its own."""
    flags = parser("transformer", "Decode images, ask the predictor, name the digit.", EPILOG)
    flags.add_argument(
        "--max_pixels",
        default=MAX_PIXELS,
        type=positive,
        help="Most pixels in an image; a larger one gets 413.",
    )
    flags.add_argument(
        "--max_pending",
        default=1024,
        type=positive,
        help="Most images decoding, and most waiting for scores; beyond that, requests get 429.",
    )
    flags.add_argument(
        "--max_batch",
        default=64,
        type=positive,
        help="Most images that share a call to the predictor; a larger request has one of its own.",
    )
    flags.add_argument(
        "--max_wait",
        default=0.01,
        type=seconds,
        help="Seconds that a request waits to be merged while a call is under way.",
    )
    flags.add_argument(
        "--max_linger",
        default=0.005,
        type=seconds,
        help="Seconds that a request waits, after a call, while further requests come in.",
    )
    flags.add_argument(
        "--max_calls", default=4, type=positive, help="Most calls to the predictor at a time."
    )
    flags.add_argument(
        "--decode_threads",
        default=cpu_limit(),
        type=positive,
        help="Images decoded at a time; by default the container's CPU limit.",
    )
    return flags


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    args = command_line().parse_args()
    file = args.log_config_file if args.configure_logging else None
    logs.configure(args.log_level, args.log_format, args.access_log, file)
    tracing.configure(f"{args.model_name}-transformer")
    if not args.predictor_host:
        sys.exit("transformer: --predictor_host is missing, such as 127.0.0.1:8082")
    config = PredictorConfig(
        args.predictor_host,
        predictor_protocol=args.predictor_protocol,
        predictor_use_ssl=args.predictor_use_ssl,
        predictor_request_timeout_seconds=args.predictor_request_timeout_seconds,
        predictor_request_retries=args.predictor_request_retries,
    )
    try:
        client = client_for(config, args.model_name)
    except ValueError as error:
        sys.exit(f"transformer: {error}")
    model = Transformer(
        args.model_name,
        client,
        max_instances=args.max_instances,
        max_pixels=args.max_pixels,
        max_pending=args.max_pending,
        max_batch=args.max_batch,
        max_wait=args.max_wait,
        max_linger=args.max_linger,
        max_calls=args.max_calls,
        timeout=args.predictor_request_timeout_seconds,
        decode_threads=args.decode_threads,
    )
    Server(args).start(model, add_routes)


if __name__ == "__main__":
    main()
