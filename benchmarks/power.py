"""How soon worse canaries are condemned, and how often equal ones: ``python -m benchmarks.power``.

Prints Markdown tables and writes ``docs/power.png``. The canaries are simulated, and the rule of
``rollout.decision`` is applied after every call. Its evidence changes only with a bad call, and
which of the bad calls are the canary's does not depend on how many good ones lie between them; so
only the bad calls are drawn one by one.

Left out: a split that is mistaken for a wrong one holds a canary for a while, whatever the
guardrails say; that happens to at most one canary in 100.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.stats import binom, norm

from benchmarks.flags import flags, in_a_line
from rollout.decision import GUARDRAILS, TESTS, log_e_value

PLOT = Path("docs/power.png")
CANARIES = 10_000
"""Canaries of each kind: the standard error of a printed share is at most 0.5 percentage points."""
HORIZON = 100_000
"""Calls after which a canary is no longer tested."""
SHARES = (0.05, 0.1, 0.25, 0.5)
ALPHA, MINIMUM = 0.05, 100
"""The defaults of ``rollout.decision.judge``."""
SOON, LATE = 1000, 10_000
"""Calls within which the condemned canaries are counted."""
RATES = (0.001, 0.01, 0.05)
"""Shares of bad calls of two equal versions, one for each guardrail."""
LOOK = 100
"""Calls between two z-tests."""


class Effect(NamedTuple):
    """How much worse the canary is: the shares of calls that are bad."""

    stable: float
    """Of the stable version's calls."""
    canary: float
    """Of the canary's calls."""


EFFECTS = (
    *(Effect(0.001, canary) for canary in (0.01, 0.02, 0.05, 0.2, 1.0)),
    *(Effect(0.01, canary) for canary in (0.02, 0.05, 0.1, 0.5)),
    *(Effect(0.05, canary) for canary in (0.1, 0.2, 0.5)),
)
MERGED = tuple((effect, images) for effect in (EFFECTS[5], EFFECTS[9]) for images in (1, 8, 64))
"""Effects as shares of bad images, and the number of images in a call."""
LOSSES = (0.2, 0.5, 1.0)
"""Shares of the canary's calls that get no answer."""


class Condemned(NamedTuple):
    """When each simulated canary was condemned; infinite if not within the horizon."""

    calls: NDArray[np.float64]
    """Calls until then, to both versions."""
    own: NDArray[np.float64]
    """Calls until then, to the canary."""

    def within(self, calls: int) -> float:
        """The share of canaries condemned within ``calls`` calls of both versions."""
        return float((self.calls <= calls).mean())


def simulate(
    share: float,
    effect: Effect,
    random: np.random.Generator,
    *,
    one_sided: bool = True,
    canaries: int = CANARIES,
    horizon: int = HORIZON,
) -> Condemned:
    """Apply one test of the rule to canaries, until it condemns them or the horizon is reached.

    Args:
        share: of the calls that go to the canary.
        effect: the shares of bad calls.
        random: the random number generator.
        one_sided: whether the test is, as a guardrail's; that of the split is two-sided.
        canaries: how many to simulate.
        horizon: calls after which a canary is no longer tested.
    """
    rate = share * effect.canary + (1 - share) * effect.stable
    its = share * effect.canary / rate
    limit = math.log(TESTS / ALPHA)
    bad = np.zeros(canaries, np.int64)
    at = np.zeros(canaries)
    going = np.arange(canaries)
    # Up to more bad calls than practically ever come before the horizon.
    for total in range(1, int(binom.isf(1e-9, horizon, rate)) + 1):
        bad[going] += random.random(len(going)) < its
        least, most = bad[going].min(), bad[going].max()
        counts = np.arange(least, most + 1)
        evidence = log_e_value(counts, total, share, one_sided=one_sided)
        condemned = evidence[bad[going] - least] >= limit
        at[going[condemned]] = total
        going = going[~condemned]
        if not len(going):
            break
    calls, own = np.full(canaries, np.inf), np.full(canaries, np.inf)
    there = at > 0
    good = random.negative_binomial(at[there], rate)
    its_good = min(1.0, share * (1 - effect.canary) / (1 - rate)) if rate < 1 else 0.0
    calls[there] = at[there] + good
    own[there] = bad[there] + random.binomial(good, its_good)
    late = calls > horizon
    calls[late] = own[late] = np.inf
    return Condemned(calls, own)


def merged(effect: Effect, images: int) -> Effect:
    """Turns shares of bad images into shares of bad calls: those with a bad image."""
    return Effect(*(1 - (1 - rate) ** images for rate in effect))


def answered(loss: float) -> Effect:
    """The effect that the split's test sees: the canary does not answer all of its calls."""
    return Effect(1.0, 1 - loss)


def false_alarms(
    share: float, random: np.random.Generator, *, canaries: int = CANARIES, horizon: int = HORIZON
) -> float:
    """The share of equal canaries that any guardrail condemns, each at its own rate of bad calls.

    Args:
        share: of the calls that go to the canary.
        random: the random number generator.
        canaries: how many to simulate.
        horizon: calls after which a canary is no longer tested.
    """
    condemned = np.zeros(canaries, bool)
    for _, rate in zip(GUARDRAILS, RATES, strict=True):
        found = simulate(share, Effect(rate, rate), random, canaries=canaries, horizon=horizon)
        condemned |= np.isfinite(found.calls)
    return float(condemned.mean())


def z_test(share: float, rate: float, random: np.random.Generator) -> tuple[float, float]:
    """The share of equal canaries that a z-test of level α condemns: applied once, and repeatedly.

    Once is after ``LATE`` calls. Repeatedly is after every ``LOOK`` calls until then, as soon as
    the canary has had ``MINIMUM`` of them.
    """
    shape = (CANARIES, LATE // LOOK)
    routed = random.binomial(LOOK, share, shape)
    pairs = [(calls, random.binomial(calls, rate)) for calls in (routed, LOOK - routed)]
    (canary, its_bad), (stable, other_bad) = (
        (calls.cumsum(1), bad.cumsum(1)) for calls, bad in pairs
    )
    pooled = (its_bad + other_bad) / (canary + stable)
    error = np.sqrt(pooled * (1 - pooled) * (1 / canary.clip(1) + 1 / stable.clip(1)))
    difference = its_bad / canary.clip(1) - other_bad / stable.clip(1)
    alarm = (difference > norm.isf(ALPHA) * error) & (canary >= MINIMUM)
    return float(alarm[:, -1].mean()), float(alarm.any(1).mean())


def percent(share: float) -> str:
    """In percent, without decimals; what is only close to 0 or 100 is <1 or >99."""
    if 0 < share < 0.01:
        return "<1"
    if 0.99 < share < 1:
        return ">99"
    return f"{100 * share:.0f}"


def quantile(calls: NDArray[np.float64], level: float) -> str:
    """A quantile to two digits, which are what can be trusted; a dash if beyond the horizon."""
    found = float(np.quantile(calls, level, method="inverted_cdf"))
    return f"{float(f'{found:.2g}'):,.0f}" if math.isfinite(found) else "–"


def quantiles(calls: NDArray[np.float64]) -> str:
    """The median and the 90th percentile."""
    return f"{quantile(calls, 0.5)} / {quantile(calls, 0.9)}"


def words(effect: Effect) -> str:
    """The effect in percent."""
    return f"{100 * effect.stable:.3g} → {100 * effect.canary:.3g}"


def print_table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table in Markdown, numbers aligned to the right."""
    print(f"\n{title}:\n\n| {' | '.join(head)} |")
    print("| --- |" + " ---: |" * (len(head) - 1))
    for row in rows:
        print(f"| {' | '.join(row)} |")


def draw(results: Mapping[tuple[Effect, float], Condemned]) -> Figure:
    """Plot the share of canaries that are condemned by the number of calls routed.

    Each rate of bad calls of the stable version has a row of panels, each split a column.
    """
    rates = sorted({effect.stable for effect, _ in results})
    shares = sorted({share for _, share in results})
    figure = Figure(figsize=(10, 6), dpi=80, layout="constrained")
    panels = figure.subplots(len(rates), len(shares), sharex=True, sharey=True, squeeze=False)
    for (effect, share), found in results.items():
        panel = panels[rates.index(effect.stable), shares.index(share)]
        calls = np.sort(found.calls)
        condemned = np.arange(1, len(calls) + 1) / len(calls)
        there = np.isfinite(calls)
        panel.step(calls[there], condemned[there], label=f"{100 * effect.canary:.3g} %")
        panel.set(xscale="log", xlim=(1, HORIZON), ylim=(0, 1.02))
    for row, rate in zip(panels, rates, strict=True):
        row[0].set_ylabel(f"condemned\n(stable: {100 * rate:.3g} % bad)")
        row[-1].legend(title="canary", loc="center left", bbox_to_anchor=(1, 0.5))
        for panel, share in zip(row, shares, strict=True):
            panel.axvline(MINIMUM / share, color="0.6", linewidth=1)
    for panel, share in zip(panels[0], shares, strict=True):
        panel.set_title(f"split {share:.0%}", fontsize=10)
    for panel in panels[-1]:
        panel.set_xlabel("calls routed")
    return figure


def main() -> None:
    """Print the tables and draw the plot."""
    flags(__doc__).parse_args()
    random = np.random.default_rng(0)
    head = [f"{share:.0%}" for share in SHARES]
    results = {(e, share): simulate(share, e, random) for e in EFFECTS for share in SHARES}
    cells: dict[str, Callable[[Condemned], str]] = {
        f"Condemned within the canary's first {MINIMUM} calls, %": (
            lambda found: percent((found.own <= MINIMUM).mean())
        ),
        f"Condemned within {SOON:,} / {LATE:,} calls of both, %": (
            lambda found: f"{percent(found.within(SOON))} / {percent(found.within(LATE))}"
        ),
        "Calls of both until it is condemned, median / 90th percentile": (
            lambda found: quantiles(found.calls)
        ),
        "The canary's own among them": lambda found: quantiles(found.own),
    }
    for title, cell in cells.items():
        print_table(
            title,
            ["bad calls, %: stable → canary", *head],
            [[words(e), *(cell(results[e, share]) for share in SHARES)] for e in EFFECTS],
        )
    rows = []
    for effect, images in MERGED:
        of_calls = merged(effect, images)
        found = simulate(0.1, of_calls, random, horizon=LATE)
        shown = [percent(found.within(SOON)), percent(found.within(LATE))]
        rows.append([words(effect), str(images), words(of_calls), *shown])
    print_table(
        f"Merged calls, at 10%: condemned within {SOON:,} / {LATE:,} calls of both, %",
        ["bad images, %", "images in a call", "bad calls, %", f"{SOON:,}", f"{LATE:,}"],
        rows,
    )
    rows = []
    for loss in LOSSES:
        each = [simulate(share, answered(loss), random, one_sided=False) for share in SHARES]
        rows.append([f"{loss:.0%}", *(quantiles(found.calls) for found in each)])
    print_table(
        "Calls until the split shows that the canary loses calls, median / 90th percentile",
        ["of its calls it loses", *head],
        rows,
    )

    looked = [z_test(share, RATES[-1], random) for share in SHARES]
    print_table(
        "Condemned although they are as good",
        ["test", *head],
        [
            [
                f"{len(GUARDRAILS)} guardrails, after each of {HORIZON:,} calls",
                *(f"{false_alarms(share, random):.1%}" for share in SHARES),
            ],
            [f"a z-test, once after {LATE:,} calls", *(f"{once:.1%}" for once, _ in looked)],
            [
                f"a z-test, every {LOOK} of {LATE:,} calls",
                *(f"{often:.1%}" for _, often in looked),
            ],
        ],
    )

    # Without the user's matplotlibrc, so that the same simulation gives the same bytes.
    with matplotlib.rc_context(matplotlib.rcParamsDefault):
        draw(results).savefig(PLOT, metadata={"Software": None})


if __name__ == "__main__":
    with in_a_line():
        main()
