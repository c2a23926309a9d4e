"""`report.html`: the report as one page of pictures, with nothing in it from elsewhere and nothing that runs."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, comb, floor
from pathlib import Path
from typing import Any, Final
from xml.etree import ElementTree

from crypto.errors import OutputError
from silo_agent.host.whole_file import write_whole

WIDTH: Final = 860
"""Of every picture, in its own units."""

LABEL: Final = 230
"""Of these, for the names at the left."""

FACTS: Final = (
    *("release", "pruner", "schedule", "comparison_group", "pattern", "allocation", "weight_scaling"),
    *("backend", "threshold", "sparsilo_version", "plan_digest"),
)

ON_DISK: Final = {"dense": "dense model", "model": "sparse model, zeros stored", "bitmask": "bitmask container"}

STYLE: Final = """
:root { color-scheme: light dark; --page: #f6f6f3; --paper: #fdfdfc; --ink: #11110f; --soft: #55544f; --line: #dfded7;
  --quiet: #c2c1b9; --main: #2a6fc9; --deep: #174a8c; --on-main: #ffffff }
@media (prefers-color-scheme: dark) { :root { --page: #111110; --paper: #1b1b1a; --ink: #f3f2ee; --soft: #b5b4ac;
  --line: #343431; --quiet: #5c5b56; --main: #5b9ff0; --deep: #a9cdfa; --on-main: #0b1420 } }
* { box-sizing: border-box }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.55 system-ui, sans-serif }
main { max-width: 960px; margin: 0 auto; padding: 48px 24px 72px }
h1 { font-size: 34px; line-height: 1.2; letter-spacing: -.01em; margin: 4px 0 12px; text-wrap: balance }
h2 { font-size: 20px; margin: 0 0 4px }
p { margin: 0 0 12px; max-width: 68ch; color: var(--soft) }
.over { font-size: 13px; letter-spacing: .08em; text-transform: uppercase; margin: 0 }
.lede { font-size: 18px; color: var(--ink); overflow-wrap: anywhere }
section, .tiles div { background: var(--paper); border: 1px solid var(--line); border-radius: 12px }
section { padding: 24px; margin-top: 20px }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(190px, 1fr)); gap: 12px; margin-top: 24px }
.tiles div { padding: 16px }
.tiles strong { display: block; font-size: 17px; line-height: 1.5; font-weight: 600 }
.tiles span { color: var(--soft); font-size: 14px }
figure { margin: 16px 0 0; overflow-x: auto }
svg { display: block; width: 100%; min-width: 620px; height: auto }
svg text { fill: var(--ink); font-size: 13px; font-variant-numeric: tabular-nums }
svg .soft { fill: var(--soft) }
svg .on { fill: var(--on-main) }
.main { fill: var(--main) }
.deep { fill: var(--deep) }
.quiet { fill: var(--quiet) }
.grid { stroke: var(--line) }
.mark { stroke: var(--ink); stroke-width: 2 }
.scroll { overflow-x: auto }
table { border-collapse: collapse; width: 100%; margin-top: 12px; font-variant-numeric: tabular-nums }
th, td { text-align: right; padding: 7px 12px 7px 0; border-bottom: 1px solid var(--line); white-space: nowrap }
th { font-weight: 500; color: var(--soft); font-size: 14px }
th:first-child, td:first-child { text-align: left }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 6px 24px; margin: 12px 0 0 }
dt { color: var(--soft) }
dd { margin: 0; overflow-wrap: anywhere }
@media print { body { background: none } section { break-inside: avoid } }
"""


@dataclass(frozen=True)
class Agreement:
    """Of silos about the weights of some tensors; each a fraction of the weights, or of pairs of silos and weights."""

    unanimous: float
    """All silos kept the weight, or all zeroed it."""
    pairwise: float
    """Two silos drawn at random decided alike about a weight drawn at random."""
    by_chance: float
    """The same, for silos that keep as large a share of each tensor as these, at random and each on its own."""


def agreement(histograms: Iterable[Sequence[int]]) -> Agreement:
    """From keep counts alone: `histograms[t][c]` is how many weights of tensor t were kept by c of n silos, n >= 2.

    A weight that c of n silos kept has C(c, 2) + C(n - c, 2) of C(n, 2) pairs in agreement.
    """
    weights, unanimous, pairwise, by_chance = 0, 0, 0.0, 0.0
    for histogram in histograms:
        silos, size = len(histogram) - 1, sum(histogram)
        agreeing = sum(n * (comb(c, 2) + comb(silos - c, 2)) for c, n in enumerate(histogram))
        kept = sum(c * n for c, n in enumerate(histogram)) / (silos * size)
        weights += size
        unanimous += histogram[0] + histogram[silos]
        pairwise += agreeing / comb(silos, 2)
        by_chance += size * (kept**2 + (1 - kept) ** 2)
    return Agreement(unanimous / weights, pairwise / weights, by_chance / weights)


def write_report_html(report: Mapping[str, Any], model: str, seen: str, path: Path) -> None:
    """Write the page of a report (docs/formats.md, 6), which may also have `keep_counts` and `bytes_on_disk`.

    `keep_counts` maps a tensor to its histogram: how many of its weights 0, 1, ..., n silos kept. `bytes_on_disk`
    maps `dense`, `model` and `bitmask` to bytes. What the report lacks is left out. `model` is the dense model's name,
    `seen` says what the aggregator saw. The same arguments give the same bytes. Raises OutputError.
    """
    page = ElementTree.Element("html", lang="en")
    head = _add(page, "head")
    _add(head, "meta", charset="utf-8")
    _add(head, "meta", name="viewport", content="width=device-width, initial-scale=1")
    policy = {"http-equiv": "Content-Security-Policy", "content": "default-src 'none'; style-src 'unsafe-inline'"}
    ElementTree.SubElement(head, "meta", policy)
    _add(head, "title", f"{model}: pruning report")
    _add(head, "style", STYLE)
    main = _add(_add(page, "body"), "main")
    _heading(main, report, model)
    if "perplexity" in report:
        _perplexity(main, report)
    _sparsity(main, report["sparsity_ratio"]["per_tensor"])
    if counts := {name: counts for name, counts in report.get("keep_counts", {}).items() if len(counts) > 2}:
        _keep_counts(main, counts)
        _agreement(main, counts)
    if on_disk := report.get("bytes_on_disk"):
        section = _section(main, "Size on disk", "The same sparse model, twice: with its zeros and without them.")
        _bars(
            section,
            "Bytes on disk",
            [(ON_DISK.get(key, key), size, _bytes(size), key == "bitmask") for key, size in on_disk.items()],
        )
    _silos(main, report)
    section = _section(main, "Time", "Seconds in each phase, as the aggregator saw them.")
    _bars(section, "Seconds by phase", [(phase, s, f"{s:.2f} s", True) for phase, s in report["seconds"].items()])
    _section(main, "What the aggregator saw", seen)
    facts = _add(
        _section(main, "What was run", "The settings, and the digest of the plan that every silo checked."), "dl"
    )
    for key in (key for key in FACTS if report.get(key)):
        _add(facts, "dt", key.replace("_", " "))
        _add(facts, "dd", str(report[key]))
    html = f"<!doctype html>\n{ElementTree.tostring(page, encoding='unicode', method='html')}\n"
    try:
        write_whole(path, html.encode())
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error}", hint="check space and permissions") from error


# --- Sections ---------------------------------------------------------------------------------------------------


def _heading(main: ElementTree.Element, report: Mapping[str, Any], model: str) -> None:
    ratio, survivors, silos = report["sparsity_ratio"], report["survivors"], report["silos"]
    _add(main, "p", "Pruning report", class_="over")
    _add(main, "h1", f"{ratio['achieved']:.1%} of the prunable weights removed by {len(survivors)} silos together")
    _add(
        main,
        "p",
        f"{model}: of {report['weights']:,} weights that can be pruned, {ratio['achieved']:.2%} are zero now; "
        f"{report.get('pattern') or ratio['asked']} was asked.",
        class_="lede",
    )
    tiles = {"of the prunable weights are zero": f"{ratio['achieved']:.2%}"}
    tiles["silos in the sum"] = f"{len(survivors)} of {len(silos)}"
    if "perplexity" in report:
        perplexity = report["perplexity"]
        tiles["perplexity, dense to federated"] = f"{perplexity['dense']:.2f} → {perplexity['federated']:.2f}"
    on_disk = report.get("bytes_on_disk", {})
    if {"dense", "bitmask"} <= on_disk.keys():
        tiles["on disk, dense to bitmask"] = f"{_bytes(on_disk['dense'])} → {_bytes(on_disk['bitmask'])}"
    shown = _add(main, "div", class_="tiles")
    for label, value in tiles.items():
        tile = _add(shown, "div")
        _add(tile, "strong", value)
        _add(tile, "span", label)


def _perplexity(main: ElementTree.Element, report: Mapping[str, Any]) -> None:
    perplexity = report["perplexity"]
    section = _section(
        main,
        "How well the model still reads",
        "Perplexity on text that all silos held out. Lower is better; the dense model is the mark to stay close to.",
    )
    named = {
        "dense, not pruned": perplexity["dense"],
        **perplexity["candidates"],
        **{f"{silo} alone": value for silo, value in perplexity["alone"].items()},
        **({"mean of the silos alone": perplexity["alone_mean"]} if perplexity["alone"] else {}),
    }
    rows = [(name, value, f"{value:.2f}", False) for name, value in named.items()]
    federated = perplexity["federated"]
    _bars(section, "Perplexity by model", [*rows, ("federated", federated, f"{federated:.2f}", True)])


def _sparsity(main: ElementTree.Element, per_tensor: Mapping[str, float]) -> None:
    """A heat map, matrices by blocks; the experts of a matrix, which are of one size, are one cell."""
    cells: dict[tuple[str, int], list[float]] = {}
    for name, zeros in per_tensor.items():
        block, matrix = _place(name)
        cells.setdefault((matrix, block), []).append(zeros)
    means = {key: sum(values) / len(values) for key, values in cells.items()}
    # half a step of room, so that equal shares are of a middling colour
    low = max(0, floor(min(means.values()) * 10 - 0.5) / 10)
    high = min(1, ceil(max(means.values()) * 10 + 0.5) / 10)
    section = _section(
        main,
        "What was removed, block by block",
        f"Share of zeros in each weight matrix: the fuller the colour, the more is zero ({low:.0%} to {high:.0%}).",
    )
    matrices = list(dict.fromkeys(matrix for matrix, _ in means))
    blocks = sorted({block for _, block in means})
    svg = _svg(section, "Sparsity by weight matrix and block", 26 * len(matrices) + 26)
    step = (WIDTH - LABEL) / len(blocks)
    for row, matrix in enumerate(matrices):
        _label(svg, matrix, 26 * row + 17)
        for column, block in enumerate(blocks):
            if (matrix, block) not in means:
                continue
            zeros = means[matrix, block]
            shade = 0.08 + 0.92 * (zeros - low) / (high - low)
            x, gap = LABEL + column * step, min(2, step / 5)
            cell = _add(
                svg,
                "rect",
                class_="main",
                x=x,
                y=26 * row,
                width=step - gap,
                height=24,
                rx=2,
                fill_opacity=f"{shade:.3f}",
            )
            _add(cell, "title", f"block {block}, {matrix}: {zeros:.2%} zero")
            if step >= 40:
                on = "on" if shade > 0.6 else ""
                _text(svg, f"{zeros:.0%}", x + (step - gap) / 2, 26 * row + 17, class_=on)
    _columns(svg, blocks, step, 26 * len(matrices) + 17)


def _keep_counts(main: ElementTree.Element, counts: Mapping[str, Sequence[int]]) -> None:
    """One histogram for each number of silos that tensors were summed over: as a rule there is one."""
    section = _section(
        main,
        "How many silos kept each weight",
        "At both ends all silos agree. In the middle they are split, and the count decides which weights stay.",
    )
    for silos in sorted({len(histogram) - 1 for histogram in counts.values()}):
        same = [histogram for histogram in counts.values() if len(histogram) - 1 == silos]
        totals = [sum(each) for each in zip(*same, strict=True)]
        weights, most = sum(totals), max(totals)
        svg = _svg(section, f"Weights by how many of {silos} silos kept them", 236)
        step = WIDTH / (silos + 1)
        for count, total in enumerate(totals):
            height = 170 * total / most
            kind = "main" if count in {0, silos} else "quiet"
            bar = _add(
                svg,
                "rect",
                class_=kind,
                x=count * step + step / 10,
                y=190 - height,
                width=step * 0.8,
                height=height,
                rx=2,
            )
            _add(bar, "title", f"kept by {count} of {silos} silos: {total:,} weights")
            if step >= 40:
                _text(svg, f"{total / weights:.1%}", (count + 0.5) * step, 184 - height)
        _add(svg, "line", class_="grid", x1=0, x2=WIDTH, y1=190.5, y2=190.5)
        _columns(svg, range(silos + 1), step, 208, left=0)
        _text(svg, f"silos that kept the weight, of {silos}", WIDTH / 2, 230, class_="soft")


def _agreement(main: ElementTree.Element, counts: Mapping[str, Sequence[int]]) -> None:
    overall = agreement(counts.values())
    section = _section(
        main,
        "How far the silos agree",
        f"Two silos decide alike about {overall.pairwise:.1%} of the weights; silos that chose at random would about "
        f"{overall.by_chance:.1%}. All agree on {overall.unanimous:.1%}: there the sum tells each silo's choice.",
    )
    blocks: dict[int, list[Sequence[int]]] = {}
    for name, histogram in counts.items():
        blocks.setdefault(_place(name)[0], []).append(histogram)
    svg = _svg(section, "Agreement between silos by block", 252)
    step = (WIDTH - 44) / len(blocks)
    for percent in range(0, 101, 25):
        y = 200 - 1.7 * percent + 0.5
        _add(svg, "line", class_="grid", x1=44, x2=WIDTH, y1=y, y2=y)
        _text(svg, f"{percent}%", 36, y + 4, class_="soft", text_anchor="end")
    for column, block in enumerate(sorted(blocks)):
        found = agreement(blocks[block])
        x = 44 + column * step
        group = _add(svg, "g")
        _add(
            group,
            "title",
            f"block {block}: two silos alike {found.pairwise:.1%}, by chance {found.by_chance:.1%}, all alike "
            f"{found.unanimous:.1%}",
        )
        for kind, share, inset in (("main", found.pairwise, 0.12), ("deep", found.unanimous, 0.3)):
            _add(
                group, "rect", class_=kind, x=x + inset * step, y=200 - 170 * share, width=step * (1 - 2 * inset),
                height=170 * share, rx=2,
            )  # fmt: skip
        y = 200 - 170 * found.by_chance
        _add(group, "line", class_="mark", x1=x + step * 0.04, x2=x + step * 0.96, y1=y, y2=y)
    _columns(svg, sorted(blocks), step, 218, left=44)
    for x, kind, text in ((44, "main", "two silos alike"), (200, "deep", "all silos alike")):
        _add(svg, "rect", class_=kind, x=x, y=235, width=12, height=12, rx=2)
        _text(svg, text, x + 18, 246, class_="soft", text_anchor="start")
    _add(svg, "line", class_="mark", x1=356, x2=372, y1=241, y2=241)
    _text(svg, "two silos alike, if they chose at random", 378, 246, class_="soft", text_anchor="start")


def _silos(main: ElementTree.Element, report: Mapping[str, Any]) -> None:
    section = _section(main, "The silos and what they sent", "Message bytes, without what gRPC and TLS add.")
    table = _add(_add(section, "div", class_="scroll"), "table")
    head = _add(table, "tr")
    for title in ("silo", "up", "down", "fate"):
        _add(head, "th", title)
    for silo in report["silos"]:
        row = _add(table, "tr")
        traffic, dropped = report["bytes"][silo], report["dropped"].get(silo)
        for text in (
            silo,
            _bytes(traffic["up"]),
            _bytes(traffic["down"]),
            f"dropped in {dropped}" if dropped else "in the sum",
        ):
            _add(row, "td", text)


# --- Parts ------------------------------------------------------------------------------------------------------


def _add(parent: ElementTree.Element, tag: str, text: str = "", **attributes: object) -> ElementTree.Element:
    """A child; `class_` is class, `text_anchor` is text-anchor. Escaping is ElementTree's."""
    spelt = {
        key.rstrip("_").replace("_", "-"): f"{value:.2f}" if isinstance(value, float) else str(value)
        for key, value in attributes.items()
    }
    element = ElementTree.SubElement(parent, tag, spelt)
    element.text = text
    return element


def _section(main: ElementTree.Element, title: str, text: str) -> ElementTree.Element:
    section = _add(main, "section")
    _add(section, "h2", title)
    _add(section, "p", text)
    return section


def _svg(section: ElementTree.Element, label: str, height: int) -> ElementTree.Element:
    return _add(_add(section, "figure"), "svg", viewBox=f"0 0 {WIDTH} {height}", role="img", aria_label=label)


def _text(
    svg: ElementTree.Element, text: str, x: float, y: float, class_: str = "", text_anchor: str = "middle"
) -> ElementTree.Element:
    return _add(svg, "text", text, x=x, y=y, class_=class_, text_anchor=text_anchor)


def _label(svg: ElementTree.Element, name: str, y: float) -> None:
    """At the left; the end of a long name says most."""
    text = name if len(name) <= 30 else f"…{name[-29:]}"
    _add(_text(svg, text, LABEL - 12, y, text_anchor="end"), "title", name)


def _columns(svg: ElementTree.Element, numbers: Sequence[int], step: float, y: int, left: int = LABEL) -> None:
    """Numbers below columns, as many as there is room for."""
    every = ceil(30 / step)
    for column, number in enumerate(numbers):
        if column % every == 0:
            _text(svg, str(number), left + (column + 0.5) * step, y, class_="soft")


def _bars(section: ElementTree.Element, label: str, rows: Sequence[tuple[str, float, str, bool]]) -> None:
    """Horizontal bars from zero: name, value, the value in words, whether it stands out."""
    svg = _svg(section, label, 30 * len(rows))
    most = max((value for _, value, _, _ in rows), default=0)
    for row, (name, value, text, stands_out) in enumerate(rows):
        width = (WIDTH - LABEL - 90) * value / most if most else 0
        _label(svg, name, 30 * row + 19)
        kind = "main" if stands_out else "quiet"
        _add(svg, "rect", class_=kind, x=LABEL, y=30 * row + 4, width=width, height=22, rx=3)
        _text(svg, text, LABEL + width + 8, 30 * row + 20, text_anchor="start")


def _place(name: str) -> tuple[int, str]:
    """Block and kind of matrix of a prunable tensor: its name's first number, and what follows, experts together."""
    found = re.fullmatch(r"(?:.*?\.)??(\d+)\.(.+?)(?:\.weight)?", name)
    if not found:
        return 0, name
    return int(found[1]), re.sub(r"(?<=\.)\d+(?=\.)", "*", found[2])


def _bytes(count: int) -> str:
    value, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 999.5:
            break
        value, unit = value / 1000, larger
    return f"{count} B" if unit == "B" else f"{value:.3g} {unit}"
