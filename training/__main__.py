"""``python -m training``: the commands and their flags."""

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from predictor.artifact import ArtifactError
from training.data import DataError
from training.evaluate import evaluate
from training.publish import PublishError, publish
from training.run import RunError
from training.train import Config, ConfigError, train

EXAMPLES = """\
examples:
  python -m training train                 a few minutes on two cores
  python -m training train --epochs 1      a quick look
  python -m training evaluate              prints the metrics, writes the model card
  python -m training publish               models/mnist/<the next number>

exit status: 0 done, 1 not done (the message says why), 2 wrong flags
"""


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line; every setting of ``Config`` is a flag of ``train``."""
    parser = argparse.ArgumentParser(
        prog="python -m training",
        description="Train, evaluate and publish the classifier of digits.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name: str, summary: str, example: str) -> argparse.ArgumentParser:
        added = commands.add_parser(
            name,
            help=summary,
            description=summary,
            epilog=f"example: python -m training {example}",
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        )
        added.add_argument("--run", type=Path, default=Path("runs/latest"), help="directory")
        return added

    def add_data(to: argparse.ArgumentParser) -> None:
        to.add_argument(
            "--data", type=Path, default=Path("data/mnist"), help="directory; downloaded if missing"
        )

    training = command("train", "train and calibrate: begins a run", "train --seed 2 --run runs/2")
    add_data(training)
    for field in dataclasses.fields(Config):
        training.add_argument(
            f"--{field.name.replace('_', '-')}",
            type=type(field.default),
            default=field.default,
            help=field.metadata["help"],
        )
    add_data(command("evaluate", "measure a run and write its model card", "evaluate --run runs/2"))
    publishing = command("publish", "make a run the next version", "publish --run runs/2")
    publishing.add_argument(
        "--models", type=Path, default=Path("models/mnist"), help="directory of the versions"
    )
    publishing.add_argument("--version", type=int, help="if not the next one")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    flags = vars(parse(arguments))
    try:
        match flags["command"]:
            case "train":
                names = [field.name for field in dataclasses.fields(Config)]
                train(flags["run"], flags["data"], Config(**{name: flags[name] for name in names}))
                print(f"trained; next: python -m training evaluate --run {flags['run']}")
            case "evaluate":
                for metrics in evaluate(flags["run"], flags["data"]):
                    print(f"{metrics.values['accuracy']:.2%} right, {metrics.dataset}")
            case "publish":
                path, digest = publish(flags["run"], flags["models"], version=flags["version"])
                print(f"{path}\nMODEL_DIGEST={digest}")
    except (ArtifactError, ConfigError, DataError, PublishError, RunError, OSError) as error:
        print(f"python -m training {flags['command']}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
