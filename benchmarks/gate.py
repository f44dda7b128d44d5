"""How often the gate lets a candidate pass, simulated: ``python -m benchmarks.gate``.

Prints a Markdown table: the share of candidates that pass with the default limits, if they are as
good as production, worse by a margin, or worse by twice a margin.

Two equally good versions still read some digits differently. The checks see only this discordance,
so that is what is simulated: in half of it the candidate loses, in half it wins, and a worse
candidate loses more. With error rate e and correlation r of the mistakes, the discordance is
2 e (1 − e) (1 − r): 0.8 % for an error rate of 0.6 % and a correlation of a third, 0.4 % for an
error rate of 0.4 % and a correlation of a half.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.flags import flags, in_a_line
from training.gate import Limits
from training.noninferiority import ALPHA, p_value

HELD_OUT = np.array([599, 663, 579, 619, 553, 533, 584, 610, 570, 580])
"""Images of each digit by the writers held out with seed 1, a tenth of MNIST's training set."""
MISTAKES = np.array([7, 1, 9, 11, 7, 17, 11, 9, 12, 17])
"""Version 1's mistakes on each digit, on both data sets of its model card: some are harder."""
HARDEST = 5
DISCORDANCES = (0.004, 0.006, 0.008)
REPLICATES = 20_000


class Passed(NamedTuple):
    """The shares of candidates that pass."""

    overall: float
    per_digit: float
    both: float


def simulate(
    limits: Limits,
    *,
    discordance: float,
    fall: float | NDArray[np.float64] = 0.0,
) -> Passed:
    """Draw candidates; return which shares of them pass the two checks of accuracy.

    Args:
        limits: the gate's; only the margins are used.
        discordance: share of digits that only one of two equal versions reads correctly.
        fall: of the candidate's accuracy, as a share, on all digits or on each of the ten.
    """
    random = np.random.default_rng(0)
    hardness = MISTAKES / HELD_OUT / (MISTAKES.sum() / HELD_OUT.sum())
    shape = (REPLICATES, len(HELD_OUT))
    lost = random.binomial(HELD_OUT, discordance / 2 * hardness + fall, shape)
    won = random.binomial(HELD_OUT, discordance / 2 * hardness, shape)
    overall = p_value(lost.sum(1), won.sum(1), HELD_OUT.sum(), limits.overall) < ALPHA
    per_digit = p_value(lost, won, HELD_OUT, limits.per_digit).max(1) <= ALPHA
    return Passed(
        float(overall.mean()), float(per_digit.mean()), float((overall & per_digit).mean())
    )


def on_one_digit(fall: float) -> NDArray[np.float64]:
    """A fall of accuracy on the hardest digit alone."""
    return np.where(np.arange(10) == HARDEST, fall, 0.0)


def main() -> None:
    """Simulate, and print the table."""
    flags(__doc__).parse_args()
    limits = Limits()
    falls: dict[str, float | NDArray[np.float64]] = {
        "equal": 0.0,
        f"worse by the margin, {limits.overall:.2%}": limits.overall,
        f"worse by twice the margin, {2 * limits.overall:.2%}": 2 * limits.overall,
        f"worse by {limits.per_digit:.1%} on one digit": on_one_digit(limits.per_digit),
        f"worse by {2 * limits.per_digit:.1%} on one digit": on_one_digit(2 * limits.per_digit),
    }
    print("| candidate | discordance | passes overall | per digit | both |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for name, fall in falls.items():
        for discordance in DISCORDANCES:
            shares = simulate(limits, discordance=discordance, fall=fall)
            print(
                f"| {name} | {discordance:.1%} | " + " | ".join(f"{s:.1%}" for s in shares) + " |"
            )


if __name__ == "__main__":
    with in_a_line():
        main()
