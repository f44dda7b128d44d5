"""Serve one version of the model: ``python -m predictor --help``."""

from serving.start import quick_imports

with quick_imports(__name__):
    import argparse
    import os
    import sys
    from pathlib import Path

    from predictor.artifact import ArtifactError, load, select_directory
    from predictor.model import Predictor
    from predictor.runtime import DEVICES
    from serving import logs, tracing
    from serving.cpu import cpu_limit
    from serving.flags import parser
    from serving.numbers import positive, seconds
    from serving.server import Server

EPILOG = """\
If STORAGE_URI is set, the version served is the one in /mnt/models, where KServe puts it; otherwise
it is the one in /models/<model_name>/$MODEL_VERSION. If MODEL_DIGEST is set, it must be the SHA-256
of the version's model.json.

example:
  MODEL_VERSION=1 python -m predictor --models_dir=models
"""


def command_line() -> argparse.ArgumentParser:
    """The flags of the program: KServe's and its own."""
    flags = parser("predictor", "Serve one version of the model.", EPILOG)
    flags.set_defaults(max_body=4 * 2**20)  # 256 images as JSON have less than 1 MiB
    flags.add_argument(
        "--models_dir",
        default="/models",
        type=Path,
        help="Folder of the versions in the image, used without STORAGE_URI.",
    )
    flags.add_argument(
        "--mount_dir",
        default="/mnt/models",
        type=Path,
        help="Folder where KServe puts the version at STORAGE_URI.",
    )
    flags.add_argument(
        "--max_batch",
        default=64,
        type=positive,
        help="Most images that share one forward pass; a larger request has one of its own.",
    )
    flags.add_argument(
        "--max_pending",
        default=1024,
        type=positive,
        help="Most images waiting or being scored; beyond that, requests get 429.",
    )
    flags.add_argument(
        "--max_linger",
        default=0.005,
        type=seconds,
        help="Seconds that a forward pass waits for the callers of the last one to call again.",
    )
    flags.add_argument(
        "--device", default="cpu", choices=DEVICES, help="Device that runs the graph."
    )
    flags.add_argument(
        "--compute_threads",
        default=cpu_limit(),
        type=positive,
        help="Threads of one forward pass; by default the container's CPU limit.",
    )
    return flags


def main() -> None:
    """Load the version, then serve it until SIGTERM or SIGINT."""
    args = command_line().parse_args()
    file = args.log_config_file if args.configure_logging else None
    logs.configure(args.log_level, args.log_format, args.access_log, file)
    tracing.configure(f"{args.model_name}-predictor")
    if args.device == "cuda":
        import torch  # seconds that the CPU does not need

        if not torch.cuda.is_available():
            sys.exit("predictor: --device=cuda, but there is no GPU here or torch has no CUDA")
    os.environ["OMP_NUM_THREADS"] = str(args.compute_threads)  # torch's, if it is imported at all
    try:
        version = load(
            select_directory(
                os.environ,
                name=args.model_name,
                models_dir=args.models_dir,
                mount_dir=args.mount_dir,
            ),
            digest=os.environ.get("MODEL_DIGEST") or None,
            device=args.device,
            threads=args.compute_threads,
        )
    except ArtifactError as error:
        sys.exit(f"predictor: {error}")
    Server(args).start(
        Predictor(
            args.model_name,
            version,
            max_instances=args.max_instances,
            max_batch=args.max_batch,
            max_pending=args.max_pending,
            max_linger=args.max_linger,
        )
    )


if __name__ == "__main__":
    main()
