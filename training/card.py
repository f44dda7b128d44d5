"""The model card: a run and its metrics as a page of Markdown."""

import math
from typing import Any

from predictor.artifact import Metrics
from training.run import Run

PAGE = """\
# Model card: handwritten digits

Reads one handwritten digit from a picture of 28×28 pixels.

| | |
| --- | --- |
| input | `images`, UINT8 [N, 28, 28]: 0 = background, 255 = ink, centred as in MNIST |
| outputs | `probabilities`, FP32 [N, 10], calibrated; `accepted`, BOOL [N] |
| size | {run.parameters:,} parameters, {run.multiply_adds:,} multiply-adds per image |
| temperature | {run.temperature:.3f} |
| threshold | accepted from a confidence of {run.threshold:.3f} on |

It is meant for single digits prepared as MNIST's were: light ink on dark ground, fitted into 20×20
pixels, centred by mass. It was trained on digits alone, so a letter or a smear may well get a high
probability, and on the handwriting of US census workers and high-school students.

## How it was made

Trained on MNIST's 60,000 training images, less those of a part of their writers (QMNIST's labels
name them). Temperature and threshold were chosen on these writers. The weights are those of the
last epoch, and nothing was chosen on the test set.

{configuration}

## What was measured

{summary}

Accuracy is given with its standard error. *Calibration error*: expected calibration error over 15
bins of confidence. *Accepted*: the share of images of which the model says that it is sure; *of
these right*: its accuracy on them.

### Recall per digit

{recall}

### Confusions on the {test}

Rows: the digit that was written. Columns: the digit that was read.

{confusion}

## Make it again

The settings above are flags of `train`; the same ones give the same weights on the same machine.

```
python -m training train --seed {run.provenance.seed}
python -m training evaluate
python -m training publish
```

Made with {libraries}.
"""


def render(run: Run, metrics: tuple[Metrics, ...]) -> str:
    """The page; ``metrics`` begin with those of the test set."""
    measured: list[dict[str, Any]] = [of_set.values for of_set in metrics]
    names = [of_set.dataset for of_set in metrics]
    digits = [str(digit) for digit in range(10)]
    return PAGE.format(
        run=run,
        test=names[0],
        configuration=_table(
            ["setting", "value"],
            [[f"`{key}`", str(value)] for key, value in run.provenance.configuration.items()],
        ),
        summary=_table(
            ["data set", "images", "accuracy", "calibration error", "accepted", "of these right"],
            [
                [
                    of_set.dataset,
                    f"{of_set.images:,}",
                    _accuracy(values["accuracy"], of_set.images),
                    _percent(values["calibration_error"]),
                    _percent(values["accepted"]),
                    _percent(values["accuracy_of_accepted"]),
                ]
                for of_set, values in zip(metrics, measured, strict=True)
            ],
        ),
        recall=_table(
            ["data set", *digits],
            [
                [name, *(_percent(share) for share in values["recall"])]
                for name, values in zip(names, measured, strict=True)
            ],
        ),
        confusion=_table(
            ["", *digits],
            [
                [digit, *(str(count) if count else "·" for count in row)]
                for digit, row in zip(digits, measured[0]["confusion"], strict=True)
            ],
        ),
        libraries=", ".join(f"{name} {v}" for name, v in run.provenance.libraries.items()),
    )


def _accuracy(share: float, images: int) -> str:
    return f"{share:.2%} ± {math.sqrt(share * (1 - share) / images):.2%}"


def _percent(share: float | None) -> str:
    return "none" if share is None else f"{share:.2%}"


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
