"""`report.html`: the report as one page of pictures, with nothing in it from elsewhere and nothing that runs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final
from xml.etree.ElementTree import Element, SubElement, tostring

from aggregator.results.agreement import agreement
from aggregator.results.gain import Gain
from aggregator.results.report import Behaviour, BytesOnDisk, Perplexity, Report
from aggregator.results.report_pictures import (
    draw_agreement,
    draw_keep_counts,
    draw_sparsity,
    mean_shares,
    shade_range,
)
from aggregator.results.svg import Bar, add, add_bars
from crypto.errors import OutputError
from silo_agent.host.whole_file import write_whole

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


def write_report_html(report: Report, model: str, path: Path) -> None:
    """Write the page of a report. `model` is the dense model's name.

    What the report lacks (an evaluation, keep counts) is left out. The same arguments give the same bytes.
    Raises OutputError.
    """
    page = tostring(_page(report, model), encoding="unicode", method="html")
    try:
        write_whole(path, f"<!doctype html>\n{page}\n".encode())
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error}", hint="check space and permissions") from error


def _page(report: Report, model: str) -> Element:
    page = Element("html", lang="en")
    head = add(page, "head")
    add(head, "meta", charset="utf-8")
    add(head, "meta", name="viewport", content="width=device-width, initial-scale=1")
    policy = {"http-equiv": "Content-Security-Policy", "content": "default-src 'none'; style-src 'unsafe-inline'"}
    SubElement(head, "meta", policy)
    add(head, "title", f"{model}: pruning report")
    add(head, "style", STYLE)
    main = add(add(page, "body"), "main")
    _heading(main, report, model)
    if report.perplexity is not None:
        _perplexity(main, report.perplexity)
    if report.gain is not None:
        _gain(main, report.gain)
    if report.unevaluated:
        _section(main, "Evaluation", report.unevaluated)
    if report.behaviour:
        _behaviour(main, report.behaviour)
    _sparsity(main, report.sparsity_ratio.per_tensor)
    # with fewer than two silos there is nobody to agree with
    if keep_counts := {name: counts for name, counts in report.keep_counts.items() if len(counts) > 2}:
        _keep_counts(main, keep_counts)
        _agreement(main, keep_counts)
    _bytes_on_disk(main, report.bytes_on_disk)
    _silos(main, report)
    section = _section(main, "Time", "Seconds in each phase, as the aggregator saw them.")
    add_bars(section, "Seconds by phase", [Bar(phase, s, f"{s:.2f} s") for phase, s in report.seconds.items()])
    _section(main, "What the aggregator saw", report.seen)
    _settings(main, report)
    return page


def _section(main: Element, title: str, text: str) -> Element:
    section = add(main, "section")
    add(section, "h2", title)
    add(section, "p", text)
    return section


def _behaviour(main: Element, behaviours: Sequence[Behaviour]) -> None:
    section = _section(
        main,
        "Behaviour",
        "How both models go on from the prompts that were given. A model can be made so that it misbehaves only once "
        "it is pruned: read what the sparse one says.",
    )
    for behaviour in behaviours:
        listed = add(section, "dl")
        texts = {"prompt": behaviour.prompt, "dense": behaviour.dense, "sparse": behaviour.sparse}
        for name, text in texts.items():
            add(listed, "dt", name)
            add(listed, "dd", text)


def _heading(main: Element, report: Report, model: str) -> None:
    ratio, on_disk = report.sparsity_ratio, report.bytes_on_disk
    add(main, "p", "Pruning report", class_="over")
    add(main, "h1", f"{ratio.achieved:.1%} of the prunable weights removed by {len(report.survivors)} silos together")
    add(
        main,
        "p",
        f"{model}: of {report.weights:,} weights that can be pruned, {ratio.achieved:.2%} are zero now; "
        f"{report.pattern or ratio.asked} was asked.",
        class_="lede",
    )
    tiles = {
        "of the prunable weights are zero": f"{ratio.achieved:.2%}",
        "silos in the sum": f"{len(report.survivors)} of {len(report.silos)}",
    }
    if report.perplexity is not None:
        dense, federated = report.perplexity.dense, report.perplexity.federated
        tiles["perplexity, dense to federated"] = f"{dense:.2f} → {federated:.2f}"
    tiles["on disk, dense to bitmask"] = f"{_in_bytes(on_disk.dense)} → {_in_bytes(on_disk.bitmask)}"
    row = add(main, "div", class_="tiles")
    for label, value in tiles.items():
        tile = add(row, "div")
        add(tile, "strong", value)
        add(tile, "span", label)


def _perplexity(main: Element, perplexity: Perplexity) -> None:
    section = _section(
        main,
        "How well the model still reads",
        "Perplexity on text that all silos held out. Lower is better; the dense model is the mark to stay close to.",
    )
    others = {
        "dense, not pruned": perplexity.dense,
        **perplexity.candidates,
        **{f"{silo} alone": value for silo, value in perplexity.alone.items()},
        **({} if perplexity.alone_mean is None else {"mean of the silos alone": perplexity.alone_mean}),
        **({} if perplexity.own is None else {"each silo's own": perplexity.own}),
        **({} if perplexity.self_calibrated is None else {"sharing nothing": perplexity.self_calibrated}),
    }
    bars = [Bar(name, value, f"{value:.2f}", stands_out=False) for name, value in others.items()]
    add_bars(
        section, "Perplexity by model", [*bars, Bar("federated", perplexity.federated, f"{perplexity.federated:.2f}")]
    )


def _gain(main: Element, gain: Gain) -> None:
    section = _section(
        main,
        "What federating was worth",
        "Sharing nothing is what every silo gets from text that the model writes itself. What follows ± bounds 95% of "
        "the uncertainty over all silos' held-out sequences, as if none were alike.",
    )
    for sentence in gain.sentences:
        add(section, "p", sentence)


def _sparsity(main: Element, per_tensor: Mapping[str, float]) -> None:
    shares = mean_shares(per_tensor)
    low, high = shade_range(shares)
    section = _section(
        main,
        "What was removed, block by block",
        f"Share of zeros in each weight matrix: the fuller the colour, the more is zero ({low:.0%} to {high:.0%}).",
    )
    draw_sparsity(section, shares, low, high)


def _keep_counts(main: Element, keep_counts: Mapping[str, Sequence[int]]) -> None:
    """One histogram for each number of silos that tensors were summed over: as a rule there is one."""
    section = _section(
        main,
        "How many silos kept each weight",
        "At both ends all silos agree. In the middle they are split, and the count decides which weights stay.",
    )
    for length in sorted({len(histogram) for histogram in keep_counts.values()}):
        together = [histogram for histogram in keep_counts.values() if len(histogram) == length]
        draw_keep_counts(section, [sum(column) for column in zip(*together, strict=True)])


def _agreement(main: Element, keep_counts: Mapping[str, Sequence[int]]) -> None:
    overall = agreement(keep_counts.values())
    section = _section(
        main,
        "How far the silos agree",
        f"Two silos decide alike about {overall.pairwise:.1%} of the weights; silos that chose at random would about "
        f"{overall.by_chance:.1%}. All agree on {overall.unanimous:.1%}: there the sum tells each silo's choice.",
    )
    draw_agreement(section, keep_counts)


def _bytes_on_disk(main: Element, on_disk: BytesOnDisk) -> None:
    section = _section(main, "Size on disk", "The same sparse model, twice: with its zeros and without them.")
    bars = [
        Bar("dense model", on_disk.dense, _in_bytes(on_disk.dense), stands_out=False),
        Bar("sparse model, zeros stored", on_disk.model, _in_bytes(on_disk.model), stands_out=False),
        Bar("bitmask container", on_disk.bitmask, _in_bytes(on_disk.bitmask)),
    ]
    add_bars(section, "Bytes on disk", bars)


def _silos(main: Element, report: Report) -> None:
    section = _section(main, "The silos and what they sent", "Message bytes, without what gRPC and TLS add.")
    table = add(add(section, "div", class_="scroll"), "table")
    head = add(table, "tr")
    for title in ("silo", "up", "down", "fate"):
        add(head, "th", title)
    for silo in report.silos:
        traffic = report.bytes[silo]
        fate = f"dropped in {report.dropped[silo]}" if silo in report.dropped else "in the sum"
        row = add(table, "tr")
        for text in (silo, _in_bytes(traffic.up), _in_bytes(traffic.down), fate):
            add(row, "td", text)


def _settings(main: Element, report: Report) -> None:
    section = _section(main, "What was run", "The settings, and the digest of the plan that every silo checked.")
    settings = {
        "release": report.release,
        "pruner": report.pruner,
        "schedule": report.schedule,
        "comparison group": report.comparison_group,
        "pattern": report.pattern,
        "allocation": report.allocation,
        "weight scaling": report.weight_scaling,
        "backend": report.backend,
        "threshold": report.threshold,
        "sparsilo version": report.sparsilo_version,
        "plan digest": report.plan_digest,
    }
    terms = add(section, "dl")
    for term, value in settings.items():
        if value:
            add(terms, "dt", term)
            add(terms, "dd", str(value))


def _in_bytes(count: int) -> str:
    """Return a number of bytes in at most three digits and a unit, such as 1.5 MB."""
    value, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 999.5:
            break
        value, unit = value / 1000, larger
    return f"{count} B" if unit == "B" else f"{value:.3g} {unit}"
