"""The report as tables on a terminal."""

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from aggregator.results.report import Behaviour, Perplexity, Report


def print_report(report: Report, model: str, console: Console) -> None:
    """Print what the run came to: models, silos, phases, the sparse model (`model` is its folder), and what the
    aggregator saw.
    """
    ratio = report.sparsity_ratio
    if report.perplexity is not None:
        console.print(_perplexities(report.perplexity, ratio.asked))
    for sentence in report.gain.sentences if report.gain else ():
        console.print(sentence, highlight=False)
    if report.unevaluated:
        console.print(report.unevaluated)
    console.print(_silos(report))
    phases = Table("phase", Column("seconds", justify="right"), title="Phases")
    for phase, seconds in report.seconds.items():
        phases.add_row(phase, f"{seconds:.2f}")
    console.print(phases)
    console.print(
        f"Sparse model: {escape(model)}: {ratio.achieved:.4%} of {report.weights:,} prunable weights are zero, "
        f"{ratio.asked} was asked"
    )
    for behaviour in report.behaviour:
        console.print(_behaviour(behaviour))
    console.print(report.seen)


def _silos(report: Report) -> Table:
    table = Table("silo", Column("bytes up", justify="right"), Column("bytes down", justify="right"), "", title="Silos")
    for silo in report.silos:
        traffic = report.bytes[silo]
        fate = f"dropped in {report.dropped[silo]}" if silo in report.dropped else "survived"
        table.add_row(silo, f"{traffic.up:,}", f"{traffic.down:,}", fate)
    return table


def _behaviour(behaviour: Behaviour) -> Table:
    table = Table("model", "goes on", title=escape(behaviour.prompt))
    table.add_row("dense", escape(behaviour.dense))
    table.add_row("sparse", escape(behaviour.sparse))
    return table


def _perplexities(perplexity: Perplexity, asked: str) -> Table:
    title = f"Perplexity on all silos' held-out text, at sparsity ratio {asked} (lower is better)"
    table = Table("model", Column("perplexity", justify="right"), title=title)
    table.add_row("dense, not pruned", f"{perplexity.dense:.2f}")
    for name, value in perplexity.candidates.items():
        table.add_row(escape(name), f"{value:.2f}")
    for silo, value in perplexity.alone.items():
        table.add_row(f"{silo} alone", f"{value:.2f}")
    if perplexity.alone_mean is not None:
        table.add_row("mean of the silos alone", f"{perplexity.alone_mean:.2f}")
    if perplexity.own is not None:
        table.add_row("each silo's own", f"{perplexity.own:.2f}")
    if perplexity.self_calibrated is not None:
        table.add_row("sharing nothing", f"{perplexity.self_calibrated:.2f}")
    table.add_row("federated", f"{perplexity.federated:.2f}", style="bold")
    return table
