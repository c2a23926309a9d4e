"""What a page and its pictures are drawn with: elements, texts, labelled columns and bars. It knows no report."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Final
from xml.etree.ElementTree import Element, SubElement

WIDTH: Final = 860
"""The width of every picture, in its own units."""

LABEL: Final = 230
"""How much of the width is for names, at the left."""


def add(parent: Element, tag: str, text: str = "", **attributes: object) -> Element:
    """Return a new child of `parent`. `class_` is written class, `text_anchor` text-anchor; ElementTree escapes."""
    spelt = {
        key.rstrip("_").replace("_", "-"): f"{value:.2f}" if isinstance(value, float) else str(value)
        for key, value in attributes.items()
    }
    element = SubElement(parent, tag, spelt)
    element.text = text
    return element


def add_picture(section: Element, label: str, height: int) -> Element:
    """Return a new, empty picture, WIDTH wide; `label` says to a screen reader what it shows."""
    return add(add(section, "figure"), "svg", viewBox=f"0 0 {WIDTH} {height}", role="img", aria_label=label)


def add_rect(parent: Element, class_: str, *, x: float, y: float, width: float, height: float, rx: int = 2) -> Element:
    """Return a new rectangle with round corners."""
    return add(parent, "rect", class_=class_, x=x, y=y, width=width, height=height, rx=rx)


def add_text(picture: Element, text: str, x: float, y: float, class_: str = "", anchor: str = "middle") -> Element:
    """Return a new text, of which x is the `anchor`: start, middle or end."""
    return add(picture, "text", text, x=x, y=y, class_=class_, text_anchor=anchor)


def add_label(picture: Element, name: str, y: float) -> None:
    """Add a name at the left; the end of a long name says most."""
    text = name if len(name) <= 30 else f"…{name[-29:]}"
    add(add_text(picture, text, LABEL - 12, y, anchor="end"), "title", name)


def add_columns(picture: Element, numbers: Sequence[int], step: float, y: int, left: int = LABEL) -> None:
    """Add numbers below columns, as many as there is room for."""
    every = ceil(30 / step)
    for column, number in enumerate(numbers):
        if column % every == 0:
            add_text(picture, str(number), left + (column + 0.5) * step, y, class_="soft")


@dataclass(frozen=True)
class Bar:
    """One horizontal bar."""

    name: str
    value: float
    words: str
    """The value as a person reads it."""
    stands_out: bool = True


def add_bars(section: Element, label: str, bars: Sequence[Bar]) -> None:
    """Add a picture of horizontal bars from zero."""
    picture = add_picture(section, label, 30 * len(bars))
    most = max((bar.value for bar in bars), default=0)
    for row, bar in enumerate(bars):
        width = (WIDTH - LABEL - 90) * bar.value / most if most else 0
        add_label(picture, bar.name, 30 * row + 19)
        kind = "main" if bar.stands_out else "quiet"
        add_rect(picture, kind, x=LABEL, y=30 * row + 4, width=width, height=22, rx=3)
        add_text(picture, bar.words, LABEL + width + 8, 30 * row + 20, anchor="start")
