"""The pictures of `report.html` that take more than bars: sparsity, keep counts and agreement, block by block."""

import re
from collections.abc import Mapping, Sequence
from math import ceil, floor
from typing import Final
from xml.etree.ElementTree import Element

from aggregator.results.agreement import agreement
from aggregator.results.svg import LABEL, WIDTH, add, add_columns, add_label, add_picture, add_rect, add_text

ROW: Final = 26
"""The height of a row of the heat map."""


def draw_sparsity(section: Element, shares: Mapping[tuple[str, int], float], low: float, high: float) -> None:
    """Draw a heat map, matrices by blocks, of shares of zeros from `low` to `high`."""
    matrices = list(dict.fromkeys(matrix for matrix, _ in shares))
    blocks = sorted({block for _, block in shares})
    picture = add_picture(section, "Sparsity by weight matrix and block", ROW * len(matrices) + ROW)
    step = (WIDTH - LABEL) / len(blocks)
    gap = min(2, step / 5)
    for row, matrix in enumerate(matrices):
        add_label(picture, matrix, ROW * row + 17)
        for column, block in enumerate(blocks):
            if (matrix, block) not in shares:
                continue
            zeros = shares[matrix, block]
            shade = 0.08 + 0.92 * (zeros - low) / (high - low)
            x = LABEL + column * step
            cell = add_rect(picture, "main", x=x, y=ROW * row, width=step - gap, height=24)
            cell.set("fill-opacity", f"{shade:.3f}")
            add(cell, "title", f"block {block}, {matrix}: {zeros:.2%} zero")
            if step >= 40:
                on = "on" if shade > 0.6 else ""
                add_text(picture, f"{zeros:.0%}", x + (step - gap) / 2, ROW * row + 17, class_=on)
    add_columns(picture, blocks, step, ROW * len(matrices) + 17)


def mean_shares(per_tensor: Mapping[str, float]) -> dict[tuple[str, int], float]:
    """Return the mean of the tensors' values by matrix and block: the experts of a matrix, of one size, are one."""
    values: dict[tuple[str, int], list[float]] = {}
    for name, value in per_tensor.items():
        block, matrix = _place(name)
        values.setdefault((matrix, block), []).append(value)
    return {place: sum(together) / len(together) for place, together in values.items()}


def shade_range(shares: Mapping[tuple[str, int], float]) -> tuple[float, float]:
    """Return the shares of the palest and of the fullest colour: tenths, with half a step of room, so that equal
    shares are of a middling colour.
    """
    low = max(0, floor(min(shares.values()) * 10 - 0.5) / 10)
    high = min(1, ceil(max(shares.values()) * 10 + 0.5) / 10)
    return low, high


def draw_keep_counts(section: Element, totals: Sequence[int]) -> None:
    """Draw a histogram: `totals[c]` weights were kept by c of `len(totals) - 1` silos."""
    silos, weights, most = len(totals) - 1, sum(totals), max(totals)
    picture = add_picture(section, f"Weights by how many of {silos} silos kept them", 236)
    step = WIDTH / (silos + 1)
    for count, total in enumerate(totals):
        height = 170 * total / most
        kind = "main" if count in {0, silos} else "quiet"
        x = count * step + step / 10
        bar = add_rect(picture, kind, x=x, y=190 - height, width=step * 0.8, height=height)
        add(bar, "title", f"kept by {count} of {silos} silos: {total:,} weights")
        if step >= 40:
            add_text(picture, f"{total / weights:.1%}", (count + 0.5) * step, 184 - height)
    add(picture, "line", class_="grid", x1=0, x2=WIDTH, y1=190.5, y2=190.5)
    add_columns(picture, range(silos + 1), step, 208, left=0)
    add_text(picture, f"silos that kept the weight, of {silos}", WIDTH / 2, 230, class_="soft")


def draw_agreement(section: Element, keep_counts: Mapping[str, Sequence[int]]) -> None:
    """Draw by block how far two silos and all silos agree, with a mark where chance alone would bring two."""
    histograms: dict[int, list[Sequence[int]]] = {}
    for name, histogram in keep_counts.items():
        histograms.setdefault(_place(name)[0], []).append(histogram)
    picture = add_picture(section, "Agreement between silos by block", 252)
    step = (WIDTH - 44) / len(histograms)
    for percent in range(0, 101, 25):
        y = 200 - 1.7 * percent + 0.5
        add(picture, "line", class_="grid", x1=44, x2=WIDTH, y1=y, y2=y)
        add_text(picture, f"{percent}%", 36, y + 4, class_="soft", anchor="end")
    for column, block in enumerate(sorted(histograms)):
        _draw_block(picture, block, histograms[block], 44 + column * step, step)
    add_columns(picture, sorted(histograms), step, 218, left=44)
    for x, kind, text in ((44, "main", "two silos alike"), (200, "deep", "all silos alike")):
        add_rect(picture, kind, x=x, y=235, width=12, height=12)
        add_text(picture, text, x + 18, 246, class_="soft", anchor="start")
    add(picture, "line", class_="mark", x1=356, x2=372, y1=241, y2=241)
    add_text(picture, "two silos alike, if they chose at random", 378, 246, class_="soft", anchor="start")


def _draw_block(picture: Element, block: int, histograms: Sequence[Sequence[int]], x: float, step: float) -> None:
    """Draw one block's column of the agreement, `step` wide from `x` on."""
    agreed = agreement(histograms)
    group = add(picture, "g")
    add(
        group,
        "title",
        f"block {block}: two silos alike {agreed.pairwise:.1%}, by chance {agreed.by_chance:.1%}, all alike "
        f"{agreed.unanimous:.1%}",
    )
    for kind, share, inset in (("main", agreed.pairwise, 0.12), ("deep", agreed.unanimous, 0.3)):
        height = 170 * share
        add_rect(group, kind, x=x + inset * step, y=200 - height, width=step * (1 - 2 * inset), height=height)
    y = 200 - 170 * agreed.by_chance
    add(group, "line", class_="mark", x1=x + step * 0.04, x2=x + step * 0.96, y1=y, y2=y)


def _place(name: str) -> tuple[int, str]:
    """Return block and kind of matrix of a prunable tensor: its name's first number, and what follows it, the experts
    of a matrix together.
    """
    parts = re.fullmatch(r"(?:.*?\.)??(\d+)\.(.+?)(?:\.weight)?", name)
    if not parts:
        return 0, name
    return int(parts[1]), re.sub(r"(?<=\.)\d+(?=\.)", "*", parts[2])
