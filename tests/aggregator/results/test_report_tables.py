"""The report as tables for a person."""

from io import StringIO

from rich.console import Console

from aggregator.results.report import Behaviour, Perplexity, Report
from aggregator.results.report_tables import print_report
from crypto.names import Phase
from support.reports import report


def printed(report: Report, model: str = "out/model") -> str:
    text = StringIO()
    print_report(report, model, Console(file=text, width=160))
    return text.getvalue()


def test_the_tables() -> None:
    text = printed(report(seconds={Phase.PLAN: 1.254, Phase.UPLOAD: 5.0}))
    rows = {line.split("│")[1].strip(): line for line in text.splitlines() if line.count("│") > 2}
    assert "dropped in upload" in rows["west"]
    assert "survived" in rows["east"]
    assert "1,500,001" in rows["south"]
    assert "999" in rows["south"]
    assert "10.00" in rows["dense, not pruned"]
    assert "40.00" in rows["by hand"]
    assert "22.00" in rows["east alone"]
    assert "21.00" in rows["mean of the silos alone"]
    assert "18.00" in rows["each silo's own"]
    assert "15.00" in rows["federated"]
    assert "west alone" not in rows
    assert "1.25" in rows["plan"]
    assert "5.00" in rows["upload"]
    assert "at sparsity ratio 0.5 (lower is better)" in text
    assert "out/model: 51.2345% of 1,234,567 prunable weights are zero, 0.5 was asked" in " ".join(text.split())
    assert " ".join(report().seen.split()) in " ".join(text.split())


def test_names_with_brackets_are_printed_as_they_are() -> None:
    """Such as rich's own markup."""
    perplexity = Perplexity(10.0, {}, None, 15.0, {"theirs [red]": 99.5})
    behaviour = (Behaviour("a [b]", "c [d]", "e [f]"),)
    text = printed(report(perplexity=perplexity, behaviour=behaviour), "out[bold]/x[/]/model")
    for name in ("theirs [red]", "a [b]", "c [d]", "e [f]"):
        assert name in text
    assert "out[bold]/x[/]/model" in text


def test_without_an_evaluation_there_is_no_perplexity() -> None:
    assert "erplexity" not in printed(report(perplexity=None))


def test_without_the_silos_own_models_there_is_no_mean_of_them() -> None:
    text = printed(report(perplexity=Perplexity(dense=10.0, alone={}, alone_mean=None, federated=12.0, candidates={})))
    assert "alone" not in text.split("Silos")[0]
