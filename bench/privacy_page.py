"""The page that says what noise costs, and its picture, from the rows that bench.privacy_curve keeps."""

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from math import log2
from statistics import fmean

from bench.cost_curve import HEIGHT, WIDTH, line, text
from bench.machine import facts

Rows = Mapping[str, Sequence[float]]
"""By a row's name (`<pruner> <ratio> <epsilon> <records>`) its perplexities, one a seed."""

EPSILONS = ("0.5", "1", "2", "4", "8", "16", "none")
COLOURS = {"100": "#b8705e", "250": "#a58334", "500": "#2f6f9f", "1000": "#6a5a9a", "2000": "#4c8a5b"}
NAMES = {"wanda": "Wanda", "admm": "ADMM"}
NOISES = ("none", "0.25", "0.5", "1", "2", "4")
TOP = 50


def page(rows: Rows) -> str:
    """Return docs/privacy-cost.md, with the rows that were measured."""
    machine = facts()
    tables = "\n\n".join(
        f"## {NAMES[pruner]} at {ratio}\n\n{table(rows, pruner, ratio)}"
        for ratio in ("0.7", "0.8")
        for pruner in NAMES
        if any(name.startswith(f"{pruner} {ratio} ") for name in rows)
    )
    return f"""# What noise costs

`make bench-privacy` measures this page, a row at a time; `python -m bench.privacy_curve --write-docs` rewrites it.

![Perplexity against epsilon, one line for each number of records a silo has](images/privacy-cost.svg)

The demo's model (5 M parameters) is pruned by pooled energies of four silos, whose domains are new to it. A record has
64 tokens and is a unit; delta is 10^-6. Figures are perplexities on held-out text of the same domains, the mean over
seeds of the noise, and from the lowest to the highest where there are several. *No noise* is the exact sum. *Text that
the model wrote* and *alone*, the mean over silos that prune by 500 records of their own, share nothing.

{tables}

## Noise on keep counts

Keep masks of Wanda, of 4 silos with 500 records each and of 16 with 125. Each silo adds noise of so many votes to each
keep count. *None* is FedPrLLM's rule: exact counts, ties at random. With noise, counts are drawn towards those of
weights of like size first. A figure is of one seed, and another one moves it by a few percent.

{votes_table(rows)}

Measured on {machine["cpu"]} with Python {machine["python"]} and torch {version("torch")}. Without a range it is one
seed.
"""


def cell(figures: Sequence[float] | None) -> str:
    """Return a mean, and a range where there are several figures."""
    if not figures:
        return ""
    spread = f" ({min(figures):.1f} to {max(figures):.1f})" if len(figures) > 1 else ""
    return f"{fmean(figures):.1f}{spread}"


def table(rows: Rows, pruner: str, ratio: str) -> str:
    """Return a table of a pruner at a ratio, a row for each number of records that was measured."""
    measured = [count for count in COLOURS if any(row_of(rows, pruner, ratio, how, count) for how in EPSILONS)]
    shown = [how for how in EPSILONS if any(row_of(rows, pruner, ratio, how, count) for count in measured)]
    heads = ["records a silo", *("no noise" if how == "none" else f"epsilon {how}" for how in shown)]
    lines = [f"| {' | '.join(heads)} |", "|--:" * len(heads) + "|"]
    for count in measured:
        cells = [cell(row_of(rows, pruner, ratio, how, count)) for how in shown]
        lines.append(f"| {int(count):,} | {' | '.join(cells)} |")
    alone = {
        "text that the model wrote": row_of(rows, pruner, ratio, "self-text", "0"),
        "alone": row_of(rows, pruner, ratio, "alone", "500"),
    }
    nothing = ", ".join(f"{name} {cell(figures)}" for name, figures in alone.items() if figures)
    return "\n".join(lines) + (f"\n\nSharing nothing: {nothing}." if nothing else "")


def votes_table(rows: Rows) -> str:
    """Return a table of keep counts, a row for each ratio and number of silos."""
    heads = ["ratio", "silos", *("none" if noise == "none" else f"{noise} votes" for noise in NOISES)]
    lines = [f"| {' | '.join(heads)} |", "|--:" * len(heads) + "|"]
    for ratio in ("0.7", "0.8"):
        for silos in ("4", "16"):
            figures = [rows.get(f"votes {ratio} {noise} {silos} silos") for noise in NOISES]
            if any(figures):
                lines.append(f"| {ratio} | {silos} | {' | '.join(map(cell, figures))} |")
    return "\n".join(lines)


def row_of(rows: Rows, pruner: str, ratio: str, how: str, records: str) -> Sequence[float] | None:
    """Return the figures of one row; None where it was not measured."""
    return rows.get(f"{pruner} {ratio} {how} {records}")


def picture(rows: Rows) -> str:
    """Return an SVG picture with a panel for each pruner, at a ratio of 0.7."""
    panels = panel(70, rows, "wanda") + panel(510, rows, "admm")
    return f"""<svg xmlns="http://www.w3.org/2000/svg" width="900" height="380" viewBox="0 0 900 380" \
font-family="Helvetica, Arial, 'DejaVu Sans', sans-serif" role="img" aria-labelledby="title desc">
<title id="title">What noise costs</title>
<desc id="desc">Two panels, Wanda and ADMM at a sparsity ratio of 0.7: perplexity against epsilon, one line for each \
number of records a silo, with dashed lines for what shares nothing. The numbers are in privacy-cost.md.</desc>
<rect width="900" height="380" fill="#ffffff"/>
{panels}</svg>
"""


def panel(left: int, rows: Rows, pruner: str) -> str:
    """Return one panel: epsilon is logarithmic, and no noise stands one step beyond the largest."""
    places = {how: 5.0 if how == "none" else log2(float(how)) for how in EPSILONS}
    lines = {
        count: [(places[how], fmean(of)) for how in EPSILONS if (of := row_of(rows, pruner, "0.7", how, count))]
        for count in COLOURS
    }
    nothing = {name: rows.get(f"{pruner} 0.7 {name}") for name in ("self-text 0", "alone 500")}
    levels = {name.split()[0]: fmean(of) for name, of in nothing.items() if of}
    heights = [height for of_count in lines.values() for _, height in of_count] + [*levels.values()]
    low, high = min(heights) - 0.5, max(heights) + 0.5

    def x(place: float) -> float:
        return round(left + (place + 1) / 6 * WIDTH, 1)

    def y(value: float) -> float:
        return round(TOP + (high - value) / (high - low) * HEIGHT, 1)

    parts = [text(left, 30, f"{NAMES[pruner]}, perplexity at 0.7", "start", bold=True)]
    parts.append(text(left + WIDTH / 2, TOP + HEIGHT + 42, "epsilon", "middle"))
    for how, place in places.items():
        parts += [line(x(place), TOP, x(place), TOP + HEIGHT), text(x(place), TOP + HEIGHT + 20, how, "middle")]
    for step in range(5):
        value = low + (high - low) * step / 4
        parts += [line(left, y(value), left + WIDTH, y(value)), text(left - 8, y(value) + 4, f"{value:.1f}", "end")]
    for name, level in levels.items():
        ends = f'x1="{left}" y1="{y(level)}" x2="{left + WIDTH}" y2="{y(level)}"'
        parts.append(f'<line {ends} stroke="#1f2a37" stroke-width="1.2" stroke-dasharray="5 4"/>')
        parts.append(text(left + 4, y(level) - 4, name, "start", "#1f2a37"))
    for count, of_count in lines.items():
        if of_count:
            at = " ".join(f"{x(place)},{y(value)}" for place, value in of_count)
            parts.append(f'<polyline points="{at}" fill="none" stroke="{COLOURS[count]}" stroke-width="1.8"/>')
            place, value = of_count[-1]
            parts.append(text(x(place) + 6, y(value) + 4, f"{int(count):,}", "start", COLOURS[count]))
    return "\n".join(parts) + "\n"
