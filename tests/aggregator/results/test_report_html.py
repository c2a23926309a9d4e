"""The page of a report: it stands alone, parses, and its pictures show numbers computed here in another way."""

import itertools
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from aggregator.results.report import Behaviour, Perplexity, SparsityRatio
from aggregator.results.report_html import write_report_html
from aggregator.rounds.traffic import Traffic
from crypto.errors import OutputError
from crypto.names import Allocation, Schedule
from support.keep_counts import agreement_by_hand
from support.reports import MASKS, MATRICES, SILOS, report


def page(tmp_path: Path, model: str = "tiny", **changes: Any) -> str:
    write_report_html(report(**changes), model, tmp_path / "report.html")
    return (tmp_path / "report.html").read_text("utf-8")


def pictures(html: str) -> dict[str, ElementTree.Element]:
    """Every SVG by its label; each is XML on its own."""
    pieces = re.findall(r"<svg.*?</svg>", html, re.DOTALL)
    svgs = [ElementTree.fromstring(piece) for piece in pieces]  # noqa: S314, our own
    return {svg.attrib["aria-label"]: svg for svg in svgs}


def texts(svg: ElementTree.Element) -> list[str]:
    return [text.text or "" for text in svg.iter("text")]


def titles(svg: ElementTree.Element) -> list[str]:
    return [title.text or "" for title in svg.iter("title")]


def lengths(svg: ElementTree.Element, side: str) -> list[float]:
    return [float(rect.attrib[side]) for rect in svg.iter("rect")]


class Tags(HTMLParser):
    """Every tag closed in its turn; collects tags, attributes and the text a person reads."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += attrs
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text += data + "\n"


# --- The page ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optional", ["all", "none"])
def test_it_parses_and_holds_nothing_that_runs_or_comes_from_elsewhere(optional: str, tmp_path: Path) -> None:
    left_out = {"perplexity": None, "keep_counts": {}} if optional == "none" else {}
    html = page(tmp_path, **left_out)
    assert html.startswith("<!doctype html>\n<html lang=")
    tags = Tags(html)
    assert not tags.tags & {"script", "link", "img", "iframe", "object", "embed", "use", "image", "a", "base"}
    assert not any(name in {"src", "href", "style"} or name.startswith("on") for name, _ in tags.attributes)
    assert not re.search(r"url\(|@import|https?:|javascript:", html)
    assert ("content", "default-src 'none'; style-src 'unsafe-inline'") in tags.attributes
    assert "prefers-color-scheme: dark" in html
    assert len(pictures(html)) == (6 if optional == "all" else 3)


def test_every_colour_is_given_for_light_and_for_dark(tmp_path: Path) -> None:
    [style] = re.findall(r"<style>(.*?)</style>", page(tmp_path), re.DOTALL)
    light, dark = re.findall(r":root \{(.*?)\}", style, re.DOTALL)
    given_light, given_dark = (set(re.findall(r"(--[\w-]+):", rules)) for rules in (light, dark))
    assert given_light == given_dark
    assert set(re.findall(r"var\((--[\w-]+)\)", style)) <= given_light


def test_a_round_without_counts_or_evaluation_is_told_without(tmp_path: Path) -> None:
    """As make_report gives it for kinds of release that count nothing."""
    html = page(tmp_path, keep_counts={}, perplexity=None)
    assert set(pictures(html)) == {"Sparsity by weight matrix and block", "Bytes on disk", "Seconds by phase"}
    text = Tags(html).text
    assert "51.2% of the prunable weights removed by 3 silos together" in text
    assert "of 1,234,567 weights that can be pruned, 51.23% are zero now; 0.5 was asked" in text
    assert "3 of 4" in text
    assert "4 MB → 1.4 MB" in text
    assert "perplexity" not in text
    assert "weight scaling" not in text  # what is off or empty is no setting
    assert "\npattern\n" not in text


def test_what_was_run_and_what_was_seen_are_told(tmp_path: Path) -> None:
    changes = {"pattern": "2:4", "allocation": Allocation.OWL, "schedule": Schedule.ITERATIVE, "weight_scaling": True}
    text = Tags(page(tmp_path, **changes)).text
    for told in (
        report().seen,
        "2:4 was asked",
        "release\nvotes",
        "pruner\nwanda",
        "schedule\niterative",
        "comparison group\nrow",
        "pattern\n2:4",
        "allocation\nowl",
        "weight scaling\nTrue",
        "backend\ndouble_masking",
        "threshold\n3",
        "sparsilo version\n0.1.0",
        "plan digest\n" + "ab" * 32,
        "10.00 → 15.00",
    ):
        assert told in text
    assert "dropped in upload" in text
    assert text.count("in the sum") == 4  # three silos, and the tile
    assert "1.5 MB" in text
    assert "999 B" in text


def test_text_is_escaped_everywhere(tmp_path: Path) -> None:
    evil = "<script>alert('&amp;\"')</script>"
    changes: dict[str, Any] = {
        "silos": (evil,),
        "survivors": (evil,),
        "dropped": {},
        "pattern": evil,
        "bytes": {evil: Traffic(1, 1)},
        "perplexity": Perplexity(10.0, {evil: 20.0}, 20.0, 15.0, {evil: 3.0}),
        "behaviour": (Behaviour(evil, evil, evil),),
        "sparsity_ratio": SparsityRatio("0.5", 0.5, {f"layers.0.{evil}.weight": 0.5}),
    }
    html = page(tmp_path, model=evil, **changes)
    tags = Tags(html)
    assert "<script" not in html
    assert "script" not in tags.tags
    # title, lede and its pattern, the setting, the silo, three texts of a behaviour, two bars, two labels'
    # tooltips, the heat map's label
    assert tags.text.count(evil) >= 9
    assert pictures(html)


def test_the_same_report_gives_the_same_bytes(tmp_path: Path) -> None:
    assert page(tmp_path) == page(tmp_path)


def test_a_place_that_cannot_be_written_is_an_output_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"report\.html: cannot be written"):
        write_report_html(report(), "m", tmp_path / "nowhere" / "report.html")


# --- The pictures -----------------------------------------------------------------------------------------------


def test_bars_are_as_long_as_what_they_show(tmp_path: Path) -> None:
    shown = pictures(page(tmp_path))
    for label, values, words in (
        (
            "Perplexity by model",
            [10, 40, 20, 21, 22, 21, 18, 15],
            ["10.00", "40.00", "20.00", "21.00", "22.00", "18.00", "15.00"],
        ),
        ("Bytes on disk", [4_000_000, 4_000_100, 1_400_000], ["4 MB", "1.4 MB"]),
        ("Seconds by phase", [1.25, 5], ["1.25 s", "5.00 s"]),
    ):
        widths = lengths(shown[label], "width")
        assert widths == pytest.approx([value / max(values) * max(widths) for value in values], abs=0.01)
        assert set(words) <= set(texts(shown[label]))
    standing_out = [rect.attrib["class"] == "main" for rect in shown["Perplexity by model"].iter("rect")]
    assert standing_out == [False] * 7 + [True]
    names = [text for text in texts(shown["Perplexity by model"]) if not re.fullmatch(r"[\d.]+", text)]
    alone = [f"{silo} alone" for silo in SILOS[:3]]
    own = "each silo's own"
    assert names == ["dense, not pruned", "by hand", *alone, "mean of the silos alone", own, "federated"]


def test_the_heat_map_has_every_matrix_where_it_belongs(tmp_path: Path) -> None:
    svg = pictures(page(tmp_path))["Sparsity by weight matrix and block"]
    zeros = report().sparsity_ratio.per_tensor
    cells = {}
    for rect in svg.iter("rect"):
        [title] = rect
        cells[title.text] = rect.attrib
    expected = {
        f"block {block}, {matrix}: {zeros[f'model.layers.{block}.{matrix}.weight']:.2%} zero": (matrix, block)
        for block, matrix in itertools.product((2, 10), MATRICES)
    }
    assert cells.keys() == expected.keys()
    rows = {
        matrix: {cells[title]["y"] for title, place in expected.items() if place[0] == matrix} for matrix in MATRICES
    }
    columns = {
        block: {float(cells[title]["x"]) for title, place in expected.items() if place[1] == block} for block in (2, 10)
    }
    assert all(len(places) == 1 for places in (*rows.values(), *columns.values()))
    assert max(columns[2]) < min(columns[10])  # by number, not by spelling
    by_zeros = sorted(
        expected, key=lambda title: zeros[f"model.layers.{expected[title][1]}.{expected[title][0]}.weight"]
    )
    shades = [float(cells[title]["fill-opacity"]) for title in by_zeros]
    assert shades == sorted(shades)
    assert all(0 < shade <= 1 for shade in shades)


@pytest.mark.parametrize("everywhere", [0.0, 0.5, 0.55, 1.0])
def test_a_heat_map_of_one_value_has_one_colour(everywhere: float, tmp_path: Path) -> None:
    ratio = SparsityRatio("0.5", everywhere, {f"h.{block}.fc.weight": everywhere for block in range(60)})
    svg = pictures(page(tmp_path, sparsity_ratio=ratio))["Sparsity by weight matrix and block"]
    assert len(list(svg.iter("rect"))) == 60
    assert len({rect.attrib["fill-opacity"] for rect in svg.iter("rect")}) == 1
    assert all(0 < float(rect.attrib["fill-opacity"]) <= 1 for rect in svg.iter("rect"))


def test_experts_of_a_matrix_are_one_cell_and_short_blocks_leave_gaps(tmp_path: Path) -> None:
    per_tensor = {
        "model.layers.0.moe.experts.0.w1.weight": 0.4,
        "model.layers.0.moe.experts.1.w1.weight": 0.7,
        "model.layers.1.mlp.w1.weight": 0.6,
        "odd": 0.5,
    }
    ratio = SparsityRatio("0.5", 0.5, per_tensor)
    svg = pictures(page(tmp_path, sparsity_ratio=ratio))["Sparsity by weight matrix and block"]
    cells = [title.text for rect in svg.iter("rect") for title in rect]
    assert cells == [
        "block 0, moe.experts.*.w1: 55.00% zero",
        "block 1, mlp.w1: 60.00% zero",
        "block 0, odd: 50.00% zero",
    ]


def test_the_histogram_of_keep_counts(tmp_path: Path) -> None:
    svg = pictures(page(tmp_path))["Weights by how many of 3 silos kept them"]
    counts = np.concatenate([masks.sum(axis=0) for masks in MASKS.values()])
    totals = [int((counts == count).sum()) for count in range(4)]
    assert titles(svg) == [f"kept by {count} of 3 silos: {total:,} weights" for count, total in enumerate(totals)]
    heights = lengths(svg, "height")
    assert heights == pytest.approx([total / max(totals) * max(heights) for total in totals], abs=0.01)
    assert {f"{total / len(counts):.1%}" for total in totals} <= set(texts(svg))


def test_tensors_summed_over_other_numbers_of_silos_are_not_mixed(tmp_path: Path) -> None:
    counts = {
        "h.0.a.weight": [1, 2, 3],
        "h.0.b.weight": [4, 0, 0, 1],
        "h.1.b.weight": [0, 1, 1, 0],
        "h.1.c.weight": [9, 9],
    }
    shown = pictures(page(tmp_path, keep_counts=counts))
    assert [title.split(": ")[1] for title in titles(shown["Weights by how many of 2 silos kept them"])] == [
        "1 weights",
        "2 weights",
        "3 weights",
    ]
    assert [title.split(": ")[1] for title in titles(shown["Weights by how many of 3 silos kept them"])] == [
        "4 weights",
        "1 weights",
        "1 weights",
        "1 weights",
    ]
    assert "Weights by how many of 1 silos kept them" not in shown  # nobody to agree with


def test_agreement_is_shown_by_block_and_over_all(tmp_path: Path) -> None:
    html = page(tmp_path)
    svg = pictures(html)["Agreement between silos by block"]
    groups = svg.findall("g")
    assert len(groups) == 2
    for block, group in zip((2, 10), groups, strict=True):
        unanimous, pairwise, chance = agreement_by_hand(
            [MASKS[f"model.layers.{block}.{matrix}.weight"] for matrix in MATRICES]
        )
        title = f"block {block}: two silos alike {pairwise:.1%}, by chance {chance:.1%}, all alike {unanimous:.1%}"
        assert [title_element.text for title_element in group.iter("title")] == [title]
        [two, everyone] = [float(rect.attrib["height"]) for rect in group.iter("rect")]
        [line] = group.iter("line")
        scale = two / pairwise  # units of one
        assert everyone == pytest.approx(unanimous * scale, abs=0.01)
        assert float(line.attrib["y1"]) == pytest.approx(200 - chance * scale, abs=0.01)
        middle = (float(line.attrib["x1"]) + float(line.attrib["x2"])) / 2
        [number] = [text for text in svg.iter("text") if text.text == str(block)]
        assert float(number.attrib["x"]) == pytest.approx(middle, abs=0.02)
        grid = {text.text: float(text.attrib["y"]) for text in svg.iter("text") if str(text.text).endswith("%")}
        assert grid["0%"] - grid["100%"] == pytest.approx(scale, abs=0.1)
    unanimous, pairwise, chance = agreement_by_hand(list(MASKS.values()))
    assert f"Two silos decide alike about {pairwise:.1%} of the weights" in Tags(html).text
    assert f"silos that chose at random would about {chance:.1%}" in Tags(html).text
    assert f"All agree on {unanimous:.1%}" in Tags(html).text
