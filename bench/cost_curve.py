"""What a round costs a silo, against the number of silos and of weights.

Run `make bench-cost-curve`; with `--write-docs` it also writes docs/cost.md and docs/images/cost-curve.svg. CPU seconds
are of sessions in one process, without network, every silo surviving. What would take longer than a minute is measured
on some full chunks and multiplied: masking goes chunk by chunk, and bench/streaming.py shows that its time is linear.
Committed words are what AUDIT sends a silo on average. Prints one JSON document, which claims nothing.
"""

import argparse
from collections.abc import Sequence
from copy import copy
from math import log10
from pathlib import Path
from statistics import median
from textwrap import fill
from typing import Any

import numpy as np

from bench.cohort import MASKED, Cost, CountedSilo, CountedWorld, random_votes, votes_plan
from bench.document import progress, publish
from bench.machine import facts
from crypto.encoding.lanes import lane_width
from crypto.encoding.layout import Chunk, Layout, pack_chunk
from crypto.names import Phase
from crypto.primitives import merkle
from crypto.releases.release_spec import layout_of
from sparsilo.v1 import words_pb2
from tests.support.plans import signing_keys

SILOS = (3, 10, 25, 50, 100, 200)
WEIGHTS = (10**6, 10**7, 10**8, 10**9)
WHOLE_SECONDS, QUICK_SECONDS, REPETITIONS, SOME_CHUNKS = 60.0, 2.0, 5, 16
PICTURE, PAGE = Path("docs/images/cost-curve.svg"), Path("docs/cost.md")

KEEP = np.random.default_rng(1).random(1 << 22, np.float32) < 0.5  # as many as the largest chunk has lanes

Point = dict[str, Any]


def curve(silos: int) -> list[Point]:
    """A cohort's round over the fewest weights, and one silo's masking of more."""
    plan = votes_plan(silos, WEIGHTS[0])
    world, lanes = CountedWorld(plan, signing_keys(silos)), random_votes(plan)
    while world.aggregator.phase is not Phase.UPLOAD:
        world.step(lanes)
    masking = []
    for weights in WEIGHTS:
        layout = layout_of(votes_plan(silos, weights), 0)
        masking.append({"silos": silos, "weights": weights, **masked(world.silos[plan.silos[0]], layout)})
        masking[-1] |= wire(layout, silos, weights)
        progress(masking[-1])
    world.run(lanes)
    costs = [silo.cost for silo in world.silos.values()]
    key_setup = sum(cost.key_setup for cost in costs) / silos
    control = sum((cost.up + cost.down)[phase] for cost in costs for phase in Phase) / silos
    return [
        point
        | {
            "key_setup_cpu_seconds": key_setup,
            "control_bytes": control,
            "total_bytes": control + point["upload_bytes"] + point["committed_bytes"],
        }
        for point in masking
    ]


def masked(session: CountedSilo, layout: Layout) -> Point:
    """CPU seconds of one silo for all chunks."""

    def mask(chunks: Sequence[Chunk]) -> Cost:
        silo = copy(session)  # one mask hides one plaintext, so a session takes no second layout's chunks
        silo.cost, silo._leaves = Cost(), {}
        for chunk in chunks:
            lanes = KEEP[: chunk.lanes] if chunk.section == layout.sections[0] else np.ones(chunk.lanes, np.uint64)
            with silo.cost.spent("packing"):
                words = pack_chunk(chunk, lanes)
            data = silo.masked(chunk.index, words)
            with silo.cost.spent("hashing"):
                merkle.leaf(data)  # once more: the session has done so as part of `masked`
        return silo.cost

    mask(layout.chunks[:1])  # fills look-up tables
    estimate = mask(layout.chunks[:1]).cpu.total() * len(layout.chunks)
    chunks = layout.chunks if estimate <= WHOLE_SECONDS else layout.chunks[:SOME_CHUNKS]
    costs = [mask(chunks) for _ in range(REPETITIONS if estimate < QUICK_SECONDS else 1)]
    factor = layout.total_words / sum(chunk.words for chunk in chunks)
    return {
        "measured": "whole" if chunks == layout.chunks else f"{len(chunks)} of {len(layout.chunks)} chunks",
        "packing_masking_cpu_seconds": factor
        * median(cost.cpu["packing"] + cost.cpu[MASKED] - cost.cpu["hashing"] for cost in costs),
        "hashing_cpu_seconds": factor * median(cost.cpu["hashing"] for cost in costs),
    }


def wire(layout: Layout, silos: int, weights: int) -> Point:
    """Bytes of messages, without the frames of gRPC and TLS."""
    upload = committed = 0
    path = [bytes(merkle.DIGEST_BYTES)] * (len(layout.chunks) - 1).bit_length()
    for chunk in layout.chunks:
        words = bytes(8 * chunk.words)
        upload += words_pb2.WordChunk(round=bytes(32), index=chunk.index, words=words).ByteSize()
        piece = words_pb2.CommittedChunk(silo="silo-000", words=words, path=path).ByteSize()
        committed += piece * 2 * (silos + 1) / silos  # without colluders; every upload and the sum
    return {"upload_bytes": upload, "upload_bytes_per_weight": upload / weights, "committed_bytes": committed}


# The page


def of_colluders() -> str:
    """The table of what AUDIT sends, where the plan reckons with colluders: every upload of a chunk and its sum, to
    each of its auditors (docs/protocol.md, 3.7.4).
    """
    rows = [
        "| silos | colluders | auditors a chunk | AUDIT, times the upload | MB at 10^9 weights |",
        "|--:|--:|--:|--:|--:|",
    ]
    for silos, colluders in ((5, 1), (10, 0), (10, 3), (25, 8), (50, 16), (100, 33), (200, 66)):
        auditors = max(2, colluders + 1)
        times = auditors * (silos + 1) / silos
        upload = 8000 / (64 // lane_width(silos))
        rows.append(f"| {silos} | {colluders} | {auditors} | {times:.1f} | {times * upload:,.0f} |")
    return "\n".join(rows)


def page(points: list[Point]) -> str:
    machine = facts()
    rows = "\n".join(
        f"| {point['silos']} | {power(point['weights'])} | {point['key_setup_cpu_seconds']:.3f} "
        f"| {point['packing_masking_cpu_seconds']:.3g} | {point['hashing_cpu_seconds']:.3g} "
        f"| {point['upload_bytes_per_weight']:.3f} | {point['upload_bytes'] / 1e6:.4g} "
        f"| {point['total_bytes'] / 1e6:.4g} | {point['measured']} |"
        for point in points
    )
    at = {(point["silos"], point["weights"]): point for point in points}
    few, many = at[10, WEIGHTS[-1]], at[SILOS[-1], WEIGHTS[-1]]
    said = (
        "Masking and its bytes grow in proportion to the weights. CPU time also grows with the silos, since a silo "
        f"adds one mask for every other: 10^9 weights take {few['packing_masking_cpu_seconds']:.1f} s among 10 silos "
        f"and {many['packing_masking_cpu_seconds']:.0f} s among {SILOS[-1]}, whose key setup takes "
        f"{many['key_setup_cpu_seconds']:.2f} s whatever the model. Bytes grow only with the lane width: "
        f"{few['upload_bytes_per_weight']:.2f} a weight up among 10 silos, {many['upload_bytes_per_weight']:.2f} "
        f"among {SILOS[-1]}. AUDIT sends a silo on average 2 to 2.7 times its upload, more than all else; where a "
        f"release has few chunks, few silos get all of that. Measured on {machine['cpu']}, {machine['cores']} cores "
        f"of which one is used, with Python {machine['python']}, cryptography {machine['cryptography']} and numpy "
        f"{machine['numpy']}, suite `default`."
    )
    return f"""# What a round costs a silo

`make bench-cost-curve` measures this page; `python -m bench.cost_curve --write-docs` rewrites it.

![CPU seconds and megabytes of one silo against weights, one line for each number of silos](images/cost-curve.svg)

{fill(said, 110)}

Times are CPU seconds of one silo, without network. Bytes are messages, without the frames of gRPC and TLS. Masking is
packing and masking; hashing is the Merkle leaves of the upload. The total is everything up and down, AUDIT included.
The last column says what was measured whole, and what on some full chunks and multiplied.

| silos | weights | key setup, s | masking, s | hashing, s | up, bytes a weight | up, MB | total, MB | measured |
|--:|--:|--:|--:|--:|--:|--:|--:|---|
{rows}

## What colluders cost

The table above is of plans that reckon with no colluders. Where they reckon with c, every chunk is recomputed by c + 1
silos, so that one of them is honest. Each is sent all uploads of the chunk and its sum: with k signers that is
(c + 1) (k + 1) / k times the upload. So a plan for many colluders is paid for in bytes. `silo-agent pending` says how
many before anybody agrees.

{of_colluders()}
"""


def power(weights: int) -> str:
    return f"10^{round(log10(weights))}"


INK, GRID, WIDTH, HEIGHT = "#44546a", "#d5dbe3", 320, 270
COLOURS = ("#2f6f9f", "#4c8a5b", "#a58334", "#b8705e", "#6a5a9a", "#1f2a37")


def picture(points: list[Point]) -> str:
    seconds = {(p["silos"], p["weights"]): p["packing_masking_cpu_seconds"] + p["hashing_cpu_seconds"] for p in points}
    megabytes = {(p["silos"], p["weights"]): p["total_bytes"] / 1e6 for p in points}
    panels = panel(70, "CPU seconds of one silo, masking and hashing", seconds)
    panels += panel(510, "MB of one silo, up and down, AUDIT included", megabytes)
    return f"""<svg xmlns="http://www.w3.org/2000/svg" width="900" height="380" viewBox="0 0 900 380" \
font-family="Helvetica, Arial, 'DejaVu Sans', sans-serif" role="img" aria-labelledby="title desc">
<title id="title">What a round costs a silo</title>
<desc id="desc">Two panels with logarithmic axes: CPU seconds and megabytes of one silo against the number of weights, \
one line for each number of silos. Cost is nearly proportional to weights. The numbers are in cost.md.</desc>
<rect width="900" height="380" fill="#ffffff"/>
{panels}</svg>
"""


def panel(left: int, title: str, values: dict[tuple[int, int], float]) -> str:
    """Both axes logarithmic, whole powers of ten at the edges."""
    top, bottom = 50, 50 + HEIGHT
    low, high = int(np.floor(log10(min(values.values())))), int(np.ceil(log10(max(values.values()))))
    first, last = log10(WEIGHTS[0]), log10(WEIGHTS[-1])

    def x(weights: float) -> float:
        return round(left + (log10(weights) - first) / (last - first) * WIDTH, 1)

    def y(value: float) -> float:
        return round(bottom - (log10(value) - low) / (high - low) * HEIGHT, 1)

    parts = [text(left, 30, title, "start", bold=True), text(left + WIDTH / 2, bottom + 42, "weights", "middle")]
    for weights in WEIGHTS:
        parts += [line(x(weights), top, x(weights), bottom), text(x(weights), bottom + 20, power(weights), "middle")]
    for exponent in range(low, high + 1):
        at = y(10.0**exponent)
        label = f"{10**exponent:,}" if exponent >= 0 else f"{10.0**exponent:.{-exponent}f}"
        parts += [line(left, at, left + WIDTH, at), text(left - 8, at + 4, label, "end")]
    ends: list[float] = []
    for silos, colour in zip(SILOS, COLOURS, strict=True):
        at = " ".join(f"{x(weights)},{y(values[silos, weights])}" for weights in WEIGHTS)
        parts.append(f'<polyline points="{at}" fill="none" stroke="{colour}" stroke-width="1.8"/>')
        ends.append(min(y(values[silos, WEIGHTS[-1]]) + 4, ends[-1] - 13 if ends else bottom))  # labels do not touch
        parts.append(
            text(left + WIDTH + 6, ends[-1], f"{silos}{' silos' if silos == SILOS[-1] else ''}", "start", colour)
        )
    return "\n".join(parts) + "\n"


def text(x: float, y: float, words: str, anchor: str, colour: str = INK, *, bold: bool = False) -> str:
    weight = "bold" if bold else "normal"
    return (
        f'<text x="{x}" y="{y}" font-size="12" fill="{colour}" font-weight="{weight}" text-anchor="{anchor}">'
        f"{words}</text>"
    )


def line(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="{GRID}" stroke-width="1"/>'


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="What a round costs a silo.")
    parser.add_argument("--write-docs", action="store_true", help=f"write {PAGE} and {PICTURE}")
    given = parser.parse_args()
    points = [point for silos in SILOS for point in curve(silos)]
    if given.write_docs:
        PAGE.write_text(page(points))
        PICTURE.write_text(picture(points))
    publish({}, points=points)
