"""``python -m training``: the commands and their flags."""

import importlib.util
import sys

from serving.start import interruptible_imports

if __name__ == "__main__" and not importlib.util.find_spec("matplotlib"):
    sys.exit("training: first python -m pip install -c constraints.txt -e '.[training]'")

with interruptible_imports(__name__):  # they take seconds
    import argparse
    import dataclasses
    import signal
    from collections.abc import Sequence
    from pathlib import Path
    from typing import Any, TypeVar

    import torch

    from predictor.artifact import ArtifactError
    from training.checkpoint import CHECKPOINT_FILE, CheckpointError
    from training.compare import CompareError, compare
    from training.config import Config, ConfigError, Settings
    from training.data import DataError
    from training.evaluate import evaluate
    from training.gate import Limits
    from training.publish import Published, publish
    from training.retrain import RetrainError, retrain
    from training.run import RunError
    from training.store import Store, StoreError
    from training.train import train

EXAMPLES = """\
examples:
  python -m training train                         long on two cores, minutes on a GPU
  python -m training train --network plain --epochs 2    a quick look
  python -m training evaluate                      prints the metrics, writes the model card
  python -m training publish                       models/mnist/<the next number>
  python -m training compare 1 2                   is version 2 as good as version 1?
  python -m training retrain corrections/          train on new images too, judge, publish

exit status: 0 done, 1 not done (the message says why), 2 wrong flags, 3 not good enough,
130 interrupted
"""

PROBLEMS = (
    ArtifactError, CheckpointError, CompareError, ConfigError, DataError,
    OSError, RetrainError, RunError, StoreError,
)  # fmt: skip
GOES_ON = ("train", "retrain")
"""The commands that go on from a checkpoint."""
NOT_GOOD_ENOUGH = 3
INTERRUPTED = 130
"""The status that shells give for SIGINT."""

Kind = TypeVar("Kind", bound=Settings)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line; every setting of ``Config`` is a flag of ``train``."""
    parser = argparse.ArgumentParser(
        prog="python -m training",
        description="Train, evaluate and publish the classifier of digits.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name: str, summary: str, example: str) -> argparse.ArgumentParser:
        return commands.add_parser(
            name,
            help=summary,
            description=summary,
            epilog=f"example: python -m training {example}",
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        )

    training = command(
        "train", "train and calibrate a network: begins a run", "train --seed 2 --run runs/2"
    )
    _add(training, "run", "data", "device")
    _add_settings(training, Config)

    evaluating = command(
        "evaluate", "measure a run and write its model card", "evaluate --seeds runs/2 runs/3"
    )
    _add(evaluating, "run", "data")
    evaluating.add_argument(
        "--seeds",
        type=Path,
        nargs="+",
        default=(),
        help="other runs, trained with the same settings and other seeds",
    )
    evaluating.add_argument(
        "--uploads",
        type=Path,
        help="folder of users' images with labels.csv; half of them are measured",
    )

    publishing = command("publish", "make a run the next version", "publish --run runs/2")
    _add(publishing, "run", "store")
    publishing.add_argument(
        "--version", type=int, help="number of the version, if not the next one"
    )

    comparing = command(
        "compare",
        "compare two versions on digits of held-out writers",
        "compare 1 2 --overall 0.003",
    )
    _add(comparing, "store", "data")
    comparing.add_argument("production", type=int, help="number of the version in use")
    comparing.add_argument("candidate", type=int, help="number of the version to judge")
    _add_settings(comparing, Limits)

    retraining = command(
        "retrain",
        "train on new images too, compare with the production version, publish if good enough",
        "retrain s3://bucket/corrections --store s3://bucket/mnist",
    )
    retraining.add_argument("new", help="folder or URL of new images, with labels.csv")
    _add(retraining, "run", "store", "data", "device")
    retraining.add_argument(
        "--production", type=int, help="number of the version in use, if not the latest"
    )
    _add_settings(retraining, Limits)
    return parser.parse_args(arguments)


def _add(to: argparse.ArgumentParser, *names: str) -> None:
    """Add those flags of ``names`` that several commands share."""
    if "run" in names:
        to.add_argument(
            "--run", type=Path, default=Path("runs/latest"), help="directory of the run"
        )
    if "data" in names:
        meaning = "directory of MNIST; what is missing is downloaded"
        to.add_argument("--data", type=Path, default=Path("data/mnist"), help=meaning)
    if "store" in names:
        meaning = "directory or URL of the versions; its last part is the model's name"
        to.add_argument("--store", default="models/mnist", help=meaning)
    if "device" in names:
        found = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)
        to.add_argument("--device", choices=found, default=found[-1], help="device to train on")


def _add_settings(to: argparse.ArgumentParser, kind: type[Settings]) -> None:
    for setting in dataclasses.fields(kind):
        to.add_argument(
            f"--{setting.name.replace('_', '-')}",
            type=type(setting.default),
            default=setting.default,
            choices=setting.metadata["choices"],
            help=setting.metadata["help"],
        )


def _settings(kind: type[Kind], flags: dict[str, Any]) -> Kind:
    return kind(**{setting.name: flags[setting.name] for setting in dataclasses.fields(kind)})


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status."""
    flags = vars(parse(arguments))
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a pod is stopped as by Ctrl-C
    try:
        return run(flags)
    except PROBLEMS as error:
        print(f"python -m training {flags['command']}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        said = "interrupted"
        if flags["command"] in GOES_ON and (flags["run"] / CHECKPOINT_FILE).exists():
            said += "; what was trained goes on from its last epoch with the same command"
        print(f"\npython -m training {flags['command']}: {said}", file=sys.stderr)
        return INTERRUPTED


def run(flags: dict[str, Any]) -> int:
    """Run the command that the flags name and return the exit status."""
    match flags["command"]:
        case "train":
            config = _settings(Config, flags)
            train(flags["run"], flags["data"], config, device=flags["device"])
            print(f"trained; next: python -m training evaluate --run {flags['run']}")
        case "evaluate":
            measured = evaluate(
                flags["run"], flags["data"], seeds=flags["seeds"], uploads=flags["uploads"]
            )
            for metrics in measured:
                if "accuracy" in metrics.values:
                    print(f"{metrics.values['accuracy']:.2%} right, {metrics.dataset}")
            print(f"the card: {flags['run'] / 'MODEL.md'}")
        case "publish":
            store = Store(flags["store"])
            _announce(publish(flags["run"], store, version=flags["version"]))
        case "compare":
            verdict = compare(
                Store(flags["store"]),
                flags["production"],
                flags["candidate"],
                data_directory=flags["data"],
                limits=_settings(Limits, flags),
            )
            print(verdict.render())
            return 0 if verdict.passed else NOT_GOOD_ENOUGH
        case "retrain":
            outcome = retrain(
                flags["new"],
                Store(flags["store"]),
                production=flags["production"],
                directory=flags["run"],
                data_directory=flags["data"],
                limits=_settings(Limits, flags),
                device=flags["device"],
            )
            print(outcome.report)
            if outcome.published:
                _announce(outcome.published)
            elif outcome.is_new:
                return NOT_GOOD_ENOUGH
    return 0


def _announce(published: Published) -> None:
    """Print what a manifest needs to serve the version."""
    print(f"STORAGE_URI={published.uri}\nMODEL_DIGEST={published.digest}")


if __name__ == "__main__":
    sys.exit(main())
