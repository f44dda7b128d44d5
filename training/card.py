"""The model card: a run and its metrics as a page of Markdown."""

import dataclasses
import math
import shlex
from typing import Any

from predictor.metadata import Metrics
from serving.scores import LABELS
from training.config import Config
from training.robustness import DISTURBANCES
from training.run import Run

PAGE = """\
# Model card: handwritten digits

This model reads one handwritten digit in a picture of 28×28 pixels.

| | |
| --- | --- |
| input | `images`, UINT8 [N, 28, 28]: 0 = background, 255 = ink, centred as in MNIST |
| outputs | `probabilities`, FP32 [N, {classes}], calibrated; `accepted`, BOOL [N] |
| size | {run.parameters:,} parameters, {run.multiply_adds:,} multiply-adds per image |
| temperature | {run.temperature:.3f} |
| threshold | an image is accepted if its score is at least {run.threshold:.3f} |

It is meant for single digits that are prepared as MNIST's were: light ink on a dark ground, fitted
into 20×20 pixels, and centred by mass. The transformer prepares users' images in this way. The
model has learned from the handwriting of US census workers and high-school students. A picture of
something else gets probabilities too. Look at `accepted`, which says whether the model is sure
that it sees a digit; how often that is right was measured [below](#what-is-no-digit).

## How it was made

It was made from these data:

{data}

The settings below say which share of the digits was changed at random, which was drawn as users'
images and read back by the transformer, how many outliers (pictures of no digit) there were for
each digit, and over which share of the last steps the weights are an average; 0 means none. The
outliers that are measured further below were made in other ways.

No digit of the writers who were held out was trained on: the temperature and the threshold were
chosen on theirs. Nothing was chosen on the test set: only `evaluate` measures on it.

{configuration}

## What was measured

{summary}

The accuracy is given with its standard error (by Agresti and Coull), as if no two images were by
one writer; as some are, it is somewhat larger. The *calibration error* is the expected calibration
error over 15 bins of confidence. *Accepted* is the share of images of which the model says that it
is sure, and *of these right* is its accuracy on them.
{seeds}{uploads}
### Confidence

{confidence}

The table shows the mean and the median of the confidence, and the share of answers with at least
90%.

![Accuracy by confidence](figures/reliability.png)

### Recall per digit

{recall}

### Confusions on the {test}

Each row is a digit that was written, and each column a digit that was read.

{confusion}

![Confusions](figures/confusion.png)

These are the most confident mistakes, each as written → read, with its confidence:

![The most confident mistakes](figures/mistakes.png)

### Disturbed digits

This is the accuracy on the first {disturbed.images:,} digits of the {test}, all changed in the
same way.

{robustness}

![Accuracy by disturbance](figures/robustness.png)

### What is no digit

Image files that show no single digit were made, and passed through the transformer and the model.
The transformer flags an image in which it sees no digit, or several; the model flags what it does
not accept of the rest. Each is given as a share of the images that it saw, and *flagged* as a
share of all.

{outliers}

The photographs are sections of a single one. The letters are printed ones, without those that may
be read as a digit. The two digits are of the test set.

## Make it again

On the same hardware ({run.provenance.hardware}), the same settings give the same weights.

```
{commands}
```

It was made with {libraries}.
"""


def render(run: Run, metrics: tuple[Metrics, ...]) -> str:
    """Return the page; ``metrics`` are those that ``evaluate`` returns."""
    test, validation, *others, disturbed, outliers = metrics
    uploads = [of_set for of_set in others if "status" in of_set.values]
    libraries = run.provenance.libraries.items()
    return PAGE.format(
        run=run,
        classes=len(LABELS),
        test=test.dataset,
        disturbed=disturbed,
        data=_table(
            ["data set", "SHA-256"],
            [[name, f"`{digest}`"] for name, digest in run.provenance.data.items()],
        ),
        configuration=_table(
            ["setting", "value"],
            [[f"`{key}`", str(value)] for key, value in run.provenance.configuration.items()],
        ),
        summary=_summary([test, validation, *others]),
        seeds=_seeds(test),
        uploads="".join(map(_uploads, uploads)),
        confidence=_confidence([test, validation]),
        recall=_recall([test, validation]),
        confusion=_confusion(test),
        robustness=_robustness(disturbed),
        outliers=_outliers(outliers),
        commands="\n".join(_commands(run, test, uploads)),
        libraries=", ".join(f"{name} {version}" for name, version in libraries),
    )


def _summary(sets: list[Metrics]) -> str:
    header = ["data set", "images", "accuracy", "calibration error", "accepted", "of these right"]
    rows = []
    for of_set in sets:
        values: Any = of_set.values
        error = _standard_error(values["accuracy"], of_set.images)
        shares = (values[key] for key in ("calibration_error", "accepted", "accuracy_of_accepted"))
        accuracy = f"{values['accuracy']:.2%} ± {error:.2%}"
        rows.append([of_set.dataset, f"{of_set.images:,}", accuracy, *map(_percent, shares)])
    return _table(header, rows)


def _seeds(test: Metrics) -> str:
    values: Any = test.values
    if "seeds" not in values:
        return ""
    spread = values["seeds"]
    rows = []
    for name in ("accuracy", "calibration_error"):
        of_name = spread[name]
        shares = (*of_name["values"], of_name["mean"], of_name["standard_deviation"])
        rows.append([name.replace("_", " "), *map(_precise, shares)])
    header = [f"seed {seed}" for seed in spread["seeds"]]
    table = _table(["", *header, "mean", "standard deviation"], rows)
    return f"\nThis is what other seeds give on the {test.dataset}:\n\n{table}\n"


def _uploads(uploads: Metrics) -> str:
    status: Any = uploads.values["status"]
    table = _table([f"`{name}`" for name in status], [[f"{count:,}" for count in status.values()]])
    return f"\nThe status of the answers for {uploads.dataset}:\n\n{table}\n"


def _confidence(sets: list[Metrics]) -> str:
    rows = []
    for of_set in sets:
        for answers in ("right", "wrong"):
            found: Any = of_set.values[f"confidence_when_{answers}"] or {}
            shares = (found.get(key) for key in ("mean", "median", "at_least_0.9"))
            rows.append([f"{of_set.dataset}, {answers} answers", *map(_percent, shares)])
    return _table(["", "mean", "median", "90% or more"], rows)


def _recall(sets: list[Metrics]) -> str:
    rows = []
    for of_set in sets:
        recall: Any = of_set.values["recall"]
        rows.append([of_set.dataset, *map(_percent, recall)])
    return _table(["data set", *LABELS], rows)


def _confusion(test: Metrics) -> str:
    counts: Any = test.values["confusion"]
    rows = [
        [digit, *(str(count) if count else "·" for count in row)]
        for digit, row in zip(LABELS, counts, strict=True)
    ]
    return _table(["", *LABELS], rows)


def _robustness(disturbed: Metrics) -> str:
    tables = []
    for name, levels in disturbed.values.items():
        accuracies: Any = levels
        header = [f"{name} ({DISTURBANCES[name].unit})", *accuracies]
        tables.append(_table(header, [["accuracy", *(f"{a:.1%}" for a in accuracies.values())]]))
    return "\n\n".join(tables)


def _outliers(outliers: Metrics) -> str:
    rows = []
    for kind, counts in outliers.values.items():
        of_kind: Any = counts
        images, by_transformer = of_kind["images"], of_kind["flagged_by_transformer"]
        passed = images - by_transformer
        by_model = f"{of_kind['flagged_by_model'] / passed:.1%} of {passed:,}" if passed else "none"
        flagged = f"{of_kind['flagged'] / images:.1%}"
        rows.append([kind, f"{images:,}", f"{by_transformer / images:.1%}", by_model, flagged])
    return _table(["kind", "images", "by the transformer", "by the model", "flagged"], rows)


def _commands(run: Run, test: Metrics, uploads: list[Metrics]) -> list[str]:
    """Return the commands that make this card, with a flag for each setting not at its default."""
    if len(run.provenance.data) > 2:  # more than the two parts of MNIST's training set
        return ["python -m training retrain <the new images>"]
    defaults = {setting.name: setting.default for setting in dataclasses.fields(Config)}
    flags = "".join(
        f" --{name.replace('_', '-')} {value}"
        for name, value in run.provenance.configuration.items()
        if name != "seed" and value != defaults.get(name)
    )
    seeds: Any = test.values.get("seeds", {"seeds": [run.provenance.seed]})
    own, *others = seeds["seeds"]
    train = f"python -m training train{flags}"
    commands = [train if own == defaults["seed"] else f"{train} --seed {own}"]
    commands += [f"{train} --seed {seed} --run runs/{seed}" for seed in others]
    evaluate = "python -m training evaluate"
    if others:
        evaluate += f" --seeds {' '.join(f'runs/{seed}' for seed in others)}"
    if uploads:
        folder = uploads[0].dataset.rsplit(", ", 2)[0]
        evaluate += f" --uploads {shlex.quote(folder)}"
    return [*commands, evaluate, "python -m training publish"]


def _standard_error(share: float, images: int) -> float:
    """Return the standard error of a share, by Agresti and Coull 1998 (Am. Statistician 52:119).

    They add two images of each kind, so that it is not 0 if there are no mistakes.
    """
    counted = images + 4
    adjusted = (share * images + 2) / counted
    return math.sqrt(adjusted * (1 - adjusted) / counted)


def _percent(share: float | None) -> str:
    return "none" if share is None else f"{share:.2%}"


def _precise(share: float) -> str:
    return f"{share:.3%}"


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
