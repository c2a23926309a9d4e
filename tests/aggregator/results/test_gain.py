"""What a report says federating was worth, and what to try next."""

import json
from html import unescape
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from aggregator.results.gain import NEXT_PRUNER, NEXT_RELEASE, make_gain
from aggregator.results.report import Perplexity
from aggregator.results.report_html import write_report_html
from aggregator.results.report_tables import print_report
from crypto.names import Pruner, ReleaseKind
from crypto.pruning.pruners import PRUNERS
from silo_agent.model.paired_difference import PairedDifference
from support.reports import report

BETTER = PairedDifference.of([-0.10, -0.13, -0.07, -0.10])
WORSE = PairedDifference.of([0.10, 0.13, 0.07, 0.10])
UNCLEAR = PairedDifference.of([-0.10, 0.12, 0.08, -0.10])


@pytest.mark.parametrize(
    ("difference", "verdict", "says"),
    [
        (BETTER, "lower", "Federating beat sharing nothing: perplexity is 9.5% ± 3.5% lower."),
        (WORSE, "higher", "Federating did not beat sharing nothing: perplexity is 10.5% ± 4.3% higher."),
        (UNCLEAR, "cannot_be_told_apart", "Federating and sharing nothing cannot be told apart: perplexity is 0.0% ± "),
    ],
)
def test_it_says_whether_federating_beat_sharing_nothing(difference: PairedDifference, verdict: str, says: str) -> None:
    gain = make_gain(ReleaseKind.VOTES, Pruner.WANDA, difference, None)
    assert gain.self_calibrated is not None and gain.own is None
    assert gain.self_calibrated.verdict == verdict
    assert gain.self_calibrated.difference == difference.mean
    assert gain.self_calibrated.standard_error == difference.standard_error
    assert gain.sentences[0].startswith(says)


def test_both_comparisons_are_told() -> None:
    gain = make_gain(ReleaseKind.VOTES, Pruner.WANDA, WORSE, BETTER)
    assert [sentence.split(":")[0] for sentence in gain.sentences] == [
        "Federating did not beat sharing nothing",
        "Federating beat each silo's own text alone",
        "Next to try",
    ]


def test_of_a_model_that_cannot_write_text_it_says_that_something_is_missing() -> None:
    """Pooled statistics need such text too, so they are not what to try next; magnitude misses nothing."""
    gain = make_gain(ReleaseKind.VOTES, Pruner.WANDA, None, BETTER)
    assert [sentence.split(":")[0] for sentence in gain.sentences] == [
        "Whether federating beat sharing nothing is unknown",
        "Federating beat each silo's own text alone",
        "Next to try",
    ]
    assert (gain.next_to_try.release, gain.next_to_try.pruner) == (ReleaseKind.VOTES, Pruner.WANDA)
    document = json.loads(json.dumps(report(gain=gain).document))["gain"]
    assert document["without_self_calibrated"] == gain.sentences[0] and "self_calibrated" not in document
    assert make_gain(ReleaseKind.VOTES, Pruner.MAGNITUDE, None, None).without_self_calibrated is None


def test_what_is_next_to_try() -> None:
    def next_to_try(release: str, pruner: str, difference: PairedDifference | None = BETTER) -> str:
        return make_gain(ReleaseKind(release), Pruner(pruner), difference, None).next_to_try.in_words

    assert next_to_try("votes", "wanda") == (
        "Next to try: gram with admm. Gram matrices take more bytes, and say which words occur."
    )
    assert next_to_try("energies", "admm") == (
        "Next to try: gram with alps. Gram matrices take more bytes, and say which words occur."
    )
    assert next_to_try("votes", "magnitude", None) == next_to_try("votes", "wanda")
    assert next_to_try("gram", "alps") == "Next to try: dense_target with alps."
    assert next_to_try("dense_target", "alps") == "Nothing that was measured lost less than dense_target with alps."
    for difference in (WORSE, UNCLEAR):
        assert next_to_try("votes", "sparsegpt", difference).startswith(
            "Next to try: admm on text that the model writes, which takes no release; gram with admm where"
        )


def test_every_run_comes_to_the_last_step_and_each_on_the_way_can_be_planned() -> None:
    for release in (ReleaseKind.VOTES, ReleaseKind.WEIGHTS, ReleaseKind.ENERGIES, ReleaseKind.GRAM):
        for pruner in Pruner:
            facts = PRUNERS[pruner]
            if (release is ReleaseKind.GRAM and not facts.updates_weights) or not facts.reads_text:
                continue  # votes of magnitude have their own line above
            step, steps = (release, pruner), 0
            while (following := (NEXT_RELEASE.get(step[0], step[0]), NEXT_PRUNER.get(step[1], step[1]))) != step:
                step, steps = following, steps + 1
                assert PRUNERS[step[1]].reads_text  # what energies and gram ask for
                assert step[0] is not ReleaseKind.GRAM or PRUNERS[step[1]].updates_weights
            assert step == (ReleaseKind.DENSE_TARGET, Pruner.ALPS)
            assert steps <= 4


def test_the_document_has_it() -> None:
    gain = make_gain(ReleaseKind.VOTES, Pruner.WANDA, BETTER, None)
    document = json.loads(json.dumps(report(gain=gain).document))["gain"]
    assert document == {
        "self_calibrated": {
            "difference": pytest.approx(-0.1),
            "standard_error": pytest.approx(0.01224745),
            "verdict": "lower",
            "in_words": "Federating beat sharing nothing: perplexity is 9.5% ± 3.5% lower.",
        },
        "next_to_try": {
            "release": "gram",
            "pruner": "admm",
            "in_words": "Next to try: gram with admm. Gram matrices take more bytes, and say which words occur.",
        },
    }
    assert "gain" not in report().document


def test_tables_and_page_tell_it(tmp_path: Path) -> None:
    gain = make_gain(ReleaseKind.VOTES, Pruner.WANDA, WORSE, UNCLEAR)
    perplexity = Perplexity(10.0, {}, None, 15.0, {}, own=18.0, self_calibrated=13.57)
    made = report(gain=gain, perplexity=perplexity)
    stream = StringIO()
    print_report(made, "out/model", Console(file=stream, width=200))
    write_report_html(made, "tiny", tmp_path / "report.html")
    page = unescape((tmp_path / "report.html").read_text())
    for told in (stream.getvalue(), page):
        assert all(sentence in told for sentence in gain.sentences)
        assert "sharing nothing" in told and "13.57" in told
    assert "What federating was worth" in page
    write_report_html(report(), "tiny", tmp_path / "without.html")
    assert "What federating was worth" not in (tmp_path / "without.html").read_text()
