"""What a round starts from, against calculations by hand: the chain of inputs, cohorts, ratios, exponents, and what
votes and weights rounds make of the model.

Sums are made from keep masks in Python's integers; no code of a silo is used.
"""

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from hashlib import sha256
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from crypto.errors import CorruptSum, UnexpectedMessage
from crypto.names import ComparisonGroup, ReleaseKind
from crypto.plan import Plan
from crypto.plan_rules import checked_plan
from crypto.pruning.sparsity import Pattern, Sparsity
from crypto.releases.release_spec import layout_of
from crypto.secagg.round import Round
from silo_agent.opened_sums.opened_rounds import Start
from silo_agent.opened_sums.opened_sum import OpenedRound
from silo_agent.opened_sums.together import Together
from silo_agent.pruning.expansion import ExpandedTensor
from silo_agent.releases.silo_side import expanded_tensors
from silo_agent.rounds.offer_checks import check_start
from support.importance import importance
from support.opened import Tensors, opened, planned

WEIGHTS = ReleaseKind.WEIGHTS
A, B, C, D, E = (f"silo-{index:03d}" for index in range(5))
ROOTS = [bytes([index + 1] * 32) for index in range(9)]
BLOCKS: Tensors = {f"blocks.{block}.weight": (block, (2, 3), False) for block in range(4)}

Counts = dict[str, NDArray[np.uint64]]


# The chain of inputs.


def plan_digest(plan: Plan) -> bytes:
    return sha256(b"sparsilo/1 plan" + plan.message.SerializeToString(deterministic=True)).digest()


def zeros(plan: Plan, index: int) -> dict[str, list[int]]:
    return {section.name: [0] * section.lanes for section in layout_of(plan, index).sections}


@pytest.mark.clause("2.2.2", "2.2.3")
def test_each_round_starts_from_the_one_before_by_hand(tmp_path: Path) -> None:
    plan = planned(BLOCKS, allocation="owl", cohort_floor=3, capacities=(4, 2, 2, 2, 2))
    found: list[OpenedRound] = []
    before = b""
    for index in range(6):  # sampling, outliers, votes of four blocks
        start = Start(plan, found)
        input_ = sha256(b"sparsilo/1 input" + before + ROOTS[index - 1]).digest() if index else b""
        drawn = b""
        if index >= 2:
            assert len(start.round.cohort) == 3 == len({*start.round.cohort} & {A, B, C, D, E})
            drawn = bytes(silo in start.round.cohort for silo in (A, B, C, D, E))
        assert (start.index, start.input_digest, start.round.input_digest) == (index, input_, input_)
        before = sha256(b"sparsilo/1 round" + plan_digest(plan) + bytes([index, 0, 0, 0]) + input_ + drawn).digest()
        assert start.round.digest == before
        sums = zeros(plan, index) | ({"coin": [5, 6, 7, 2**64 - 1]} if index == 0 else {})
        round_ = start.round
        found.append(opened(round_, sums, len(round_.silos), tmp_path, ROOTS[index]))


def test_an_evaluation_starts_from_nothing_wherever_it_stands(tmp_path: Path) -> None:
    message = planned(BLOCKS).message
    message.rounds.add().evaluation.sequences = 1
    message.rounds[-1].evaluation.candidates.add(name="dense", dense=True)
    plan = checked_plan(message)
    first = opened(Start(plan).round, zeros(plan, 0), 5, tmp_path, ROOTS[0])
    assert Start(plan, [first]).input_digest == Start(plan).input_digest == b""
    assert Start(plan, [first]).round.digest != Start(plan).round.digest


# Cohorts.


def cohorts_by_hand(words: Sequence[int], capacities: dict[str, int], blocks: int) -> list[set[str]]:
    """docs/formats.md, section 11, with the coin of docs/protocol.md, 2.6.1."""
    coin = sha256(b"sparsilo/1 sampling coin" + struct.pack("<4Q", *words)).digest()
    digests = (sha256(b"sparsilo/1 layer sampling" + coin + struct.pack("<Q", at)).digest() for at in range(999))
    numbers = chain.from_iterable(struct.unpack("<4Q", digest) for digest in digests)

    def shuffled(items: list[Any]) -> list[Any]:
        for last in range(len(items) - 1, 0, -1):
            number = next(number for number in numbers if number < 2**64 // (last + 1) * (last + 1))
            items[last], items[number % (last + 1)] = items[number % (last + 1)], items[last]
        return items

    circle = shuffled(list(range(blocks)))
    turns = [silo for silo in shuffled(list(capacities)) for _ in range(capacities[silo])]
    return [{silo for at, silo in enumerate(turns) if circle[at % blocks] == block} for block in range(blocks)]


@pytest.mark.clause("2.6.1")
@pytest.mark.parametrize("seed", range(12))
def test_cohorts_follow_from_the_opened_coin(seed: int, tmp_path: Path) -> None:
    capacities = {A: 4, B: 1, C: 2, D: 4, E: 3}
    plan = planned(BLOCKS, cohort_floor=3, capacities=tuple(capacities.values()))
    words = [int(word) for word in np.random.default_rng(seed).integers(0, 2**64, 4, np.uint64)]
    start = Start(plan, [opened(Start(plan).round, {"coin": words}, 4, tmp_path)])
    expected = cohorts_by_hand(words, capacities, 4)
    assert [set(start.cohort(1 + block)) for block in range(4)] == expected
    assert all(list(start.cohort(1 + block)) == sorted(start.cohort(1 + block)) for block in range(4))
    assert start.cohort(0) == ()
    assert start.round.cohort == start.cohort(1)
    sampled = {(silo, block) for silo in plan.silos for block in range(4) if start.is_sampled_for(silo, block)}
    assert sampled == {(silo, block) for block, cohort in enumerate(expected) for silo in cohort}
    other = Start(plan, [opened(Start(plan).round, {"coin": [*words[:3], words[3] ^ 1]}, 4, tmp_path / "other")])
    assert [set(other.cohort(1 + block)) for block in range(4)] == cohorts_by_hand(
        [*words[:3], words[3] ^ 1], capacities, 4
    )


def test_without_layer_sampling_everybody_prunes_everything() -> None:
    start = Start(planned(BLOCKS, schedule="iterative"))
    assert all(start.cohort(index) == () for index in range(4))
    assert all(start.is_sampled_for(silo, block) for silo in (A, E) for block in range(4))


# Sparsity ratios.


def test_ratios_are_the_plans_and_silos_have_their_own(tmp_path: Path) -> None:
    plan = planned(BLOCKS, own_ratios={B: "0.25"}, comparison_group="row")
    start = Start(plan)
    assert start.sparsity(2) == Sparsity(Decimal("0.5"), ComparisonGroup.ROW)
    assert start.silo_sparsity(A, 2) == Sparsity(Decimal("0.5"), ComparisonGroup.ROW)
    assert start.silo_sparsity(B, 2) == Sparsity(Decimal("0.25"), ComparisonGroup.ROW)


def test_a_pattern_is_the_same_in_every_block() -> None:
    tensors = {name: (block, (2, 4), turned) for name, (block, _, turned) in BLOCKS.items()}
    start = Start(planned(tensors, pattern="1:2", sparsity_ratio="", comparison_group="row"))
    assert start.sparsity(3) == start.silo_sparsity(A, 3) == Sparsity(Pattern(1, 2), ComparisonGroup.ROW)


def test_owl_spreads_every_ratio_by_the_summed_counts(tmp_path: Path) -> None:
    """Three blocks of one size with 0, 50 and 100 outliers: 0.08 more, as asked, 0.08 less."""
    tensors: Tensors = {f"blocks.{block}.weight": (block, (10, 100), False) for block in range(3)}
    plan = planned(tensors, allocation="owl", own_ratios={C: "0.3"}, comparison_group="layer")
    start = Start(plan, [opened(Start(plan).round, {"outliers": [100, 0, 50]}, 5, tmp_path)])
    ratios = [Decimal("0.42"), Decimal("0.58"), Decimal("0.5")]
    assert [start.sparsity(block) for block in range(3)] == [Sparsity(ratio, ComparisonGroup.LAYER) for ratio in ratios]
    assert [start.silo_sparsity(A, block).target for block in range(3)] == ratios
    assert [start.silo_sparsity(C, block).target for block in range(3)] == [ratio - Decimal("0.2") for ratio in ratios]
    counts = {name: np.full((10, 100), 3, np.uint64) for name in tensors}
    votes = opened(start.round, vote_sums(plan, counts), 4, tmp_path)
    weights = dense_of({name: torch.rand(10, 100) for name in tensors})
    after = Start(plan, [*start.opened, votes])
    assert [int((~each.keep).sum()) for each in expanded_tensors(after, votes, weights)] == [420, 580, 500]


@pytest.mark.clause("2.7.1", "2.7.2")
def test_alpha_spreads_every_ratio_by_the_plans_exponents(tmp_path: Path) -> None:
    """Three blocks of one size, at 0.7, 1.3 and 1 times the ratio: 0.2 of the way from least to largest is 0.82."""
    tensors: Tensors = {f"blocks.{block}.weight": (block, (10, 100), False) for block in range(3)}
    exponents = ["2.1000", "4.1000", "3.1000"]
    plan = planned(tensors, allocation="alpha", block_alphas=exponents, own_ratios={C: "0.3"}, comparison_group="layer")
    start = Start(plan)
    assert [start.sparsity(block).target for block in range(3)] == [Decimal(x) for x in ("0.35", "0.65", "0.5")]
    assert [start.silo_sparsity(A, block).target for block in range(3)] == [
        start.sparsity(block).target for block in range(3)
    ]
    assert [start.silo_sparsity(C, block).target for block in range(3)] == [Decimal(x) for x in ("0.21", "0.39", "0.3")]
    counts = {name: np.full((10, 100), 3, np.uint64) for name in tensors}
    votes = opened(start.round, vote_sums(plan, counts), 4, tmp_path)
    weights = dense_of({name: torch.rand(10, 100) for name in tensors})
    expanded = list(expanded_tensors(Start(plan, [votes]), votes, weights))
    assert [int((~each.keep).sum()) for each in expanded] == [350, 650, 500]


# Exponents.


@pytest.mark.clause("2.4.8")
@pytest.mark.parametrize("chunk_words", [1, 3, 100])
@pytest.mark.parametrize(
    ("marks", "largest"),
    [([-96] * 4, -96), ([31, -96, 0, 5], 31), ([-1, -1, -2, -96], -1), ([-65, -64, -64, -66], -64), ([3, 4, 4, 4], 4)],
)
def test_the_exponent_is_the_largest_that_anybody_named(
    marks: list[int], largest: int, chunk_words: int, tmp_path: Path
) -> None:
    plan = planned(BLOCKS, WEIGHTS, pruner="sparsegpt", chunk_words=chunk_words)
    sums = {f"scale blocks.{block}.weight": [marks.count(e - block) for e in range(-96, 32)] for block in range(4)}
    sums["scale blocks.0.weight"] = [marks.count(e) for e in range(-96, 32)]
    if largest + 3 > 31:  # all the same then
        sums = dict.fromkeys(sums, sums["scale blocks.0.weight"])
    start = Start(plan, [opened(Start(plan).round, sums, 4, tmp_path)])
    more = [0, 0, 0, 0] if largest + 3 > 31 else [0, 1, 2, 3]
    assert start.exponents(None) == {f"blocks.{block}.weight": largest + more[block] for block in range(4)}


@pytest.mark.parametrize("named", [3, 5, 0])
def test_as_many_exponents_as_survivors(named: int, tmp_path: Path) -> None:
    plan = planned(BLOCKS, WEIGHTS, pruner="sparsegpt")
    sums = {f"scale blocks.{block}.weight": [0] * 96 + [4] + [0] * 31 for block in range(4)}
    sums["scale blocks.2.weight"][96] = named
    start = Start(plan, [opened(Start(plan).round, sums, 4, tmp_path)])
    with pytest.raises(CorruptSum, match=rf"^section scale blocks\.2\.weight: {named} exponents of 4 survivors"):
        start.exponents(None)


def test_a_blocks_exponents_are_those_of_its_own_round(tmp_path: Path) -> None:
    plan = planned(BLOCKS, WEIGHTS, pruner="sparsegpt", schedule="iterative")
    found: list[OpenedRound] = []
    for block in range(2):
        marks = [0] * 128
        marks[90 + block] = 5
        found.append(opened(Start(plan, found).round, {f"scale blocks.{block}.weight": marks}, 5, tmp_path))
        assert Start(plan, found).exponents(block) == {f"blocks.{block}.weight": -6 + block}
        found.append(opened(Start(plan, found).round, zeros(plan, 2 * block + 1), 5, tmp_path))
    assert Start(plan, found).exponents(0) == {"blocks.0.weight": -6}


# Votes.

SURVIVORS = 4
MIXED: Tensors = {
    "blocks.0.a": (0, (6, 12), False),
    "blocks.0.b": (0, (8, 6), True),
    "blocks.1.a": (1, (1, 8), False),
    "blocks.1.b": (1, (12, 1), True),
}


def dense_of(tensors: dict[str, torch.Tensor]) -> Any:
    return SimpleNamespace(tensor=tensors.__getitem__, shape=lambda name: tensors[name].shape)


def many_magnitudes(tensors: Tensors, seed: int = 8) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) for name, (_, shape, _) in tensors.items()}


def few_magnitudes(tensors: Tensors, seed: int = 8) -> dict[str, torch.Tensor]:
    """So that counts tie and magnitudes tie too."""
    random = np.random.default_rng(seed)
    values = [-0.5, -0.25, 0.25, 0.5]
    return {name: torch.tensor(random.choice(values, shape)).float() for name, (_, shape, _) in tensors.items()}


def random_counts(tensors: Tensors, survivors: int = SURVIVORS, seed: int = 7) -> Counts:
    """Counts that so many silos could have, 0 and all survivors among them."""
    random = np.random.default_rng(seed)
    counts: Counts = {}
    for name, (_, shape, _) in tensors.items():
        counts[name] = np.sum([random.random(shape) < 0.6 for _ in range(survivors)], axis=0, dtype=np.uint64)
        counts[name].flat[:2] = 0, survivors
    return counts


def places(plan: Plan, name: str, pattern: Pattern | None = None) -> list[list[int]]:
    """Of each comparison group the flat stored indices, in the order in which an index counts."""
    tensor = next(tensor for tensor in plan.message.model if tensor.name == name)
    stored = np.arange(int(np.prod(tensor.shape))).reshape(tuple(tensor.shape))
    matrix = stored.T if tensor.input_first else stored  # [d_out, d_in]
    if pattern is not None:
        return [row[at : at + pattern.of] for row in matrix.tolist() for at in range(0, len(row), pattern.of)]
    group = plan.message.pruning.comparison_group
    return [matrix.flatten().tolist()] if group == "layer" else (matrix if group == "row" else matrix.T).tolist()


def vote_sums(plan: Plan, counts: Counts) -> dict[str, list[int]]:
    sums = {}
    for name, count in counts.items():
        flat = [int(each) for each in count.flat]
        sums[f"votes {name}"] = flat
        sums[f"nonzero counts {name}"] = [sum(flat[at] for at in members) for members in places(plan, name)]
    return sums


def expansion(
    plan: Plan, name: str, counts: Counts, weight: torch.Tensor, groups: list[list[int]], prune: list[int]
) -> list[bool]:
    """The lowest count goes first, then the least important, then the highest index."""
    turned = next(tensor.input_first for tensor in plan.message.model if tensor.name == name)
    stored = torch.from_numpy(counts[name].astype(np.uint8))
    ranked = importance(stored.T, SURVIVORS, weight.T).T if turned else importance(stored, SURVIVORS, weight)
    votes, ranks = [int(each) for each in counts[name].flat], ranked.flatten().tolist()
    keep = [True] * len(votes)
    for members, k in zip(groups, prune, strict=True):
        order = sorted(range(len(members)), key=lambda at: (votes[members[at]], ranks[members[at]], -at))
        for at in order[:k]:
            keep[members[at]] = False
    return keep


def expand(
    plan: Plan, sums: dict[str, list[int]], weights: dict[str, torch.Tensor], folder: Path
) -> list[ExpandedTensor]:
    votes = opened(Start(plan).round, sums, SURVIVORS, folder)
    return list(expanded_tensors(Start(plan, [votes]), votes, dense_of(weights)))


@pytest.mark.parametrize("ratio", ["0", "0.3", "0.55", "0.9"])
@pytest.mark.parametrize("group", ["layer", "row", "column"])
@pytest.mark.parametrize("chunk_words", [1, 100])
def test_honest_sums_become_counts_and_the_expanded_keep_mask(
    chunk_words: int, group: str, ratio: str, tmp_path: Path
) -> None:
    forced = group == "column"
    plan = planned(
        MIXED, chunk_words=chunk_words, comparison_group=group, sparsity_ratio=ratio, force_comparison_group=forced
    )
    counts, dense = random_counts(MIXED), many_magnitudes(MIXED)
    found = expand(plan, vote_sums(plan, counts), dense, tmp_path)
    assert [each.name for each in found] == list(MIXED)
    for each in found:
        groups, shape = places(plan, each.name), MIXED[each.name][1]
        prune = [int(Fraction(ratio) * len(members)) for members in groups]
        assert each.keep_counts.dtype == torch.uint8
        assert each.keep_counts.tolist() == counts[each.name].tolist()
        assert each.keep.dtype == torch.bool
        assert each.keep.shape == shape
        assert each.keep.flatten().tolist() == expansion(plan, each.name, counts, dense[each.name], groups, prune)
        assert each.weight is None
        assert each.changed is each.keep


@pytest.mark.parametrize("pattern", [Pattern(2, 4), Pattern(1, 2), Pattern(3, 4)])
def test_a_pattern_keeps_each_m_groups_top_counts(pattern: Pattern, tmp_path: Path) -> None:
    tensors: Tensors = {"a": (0, (5, 12), False), "b": (0, (8, 7), True)}
    plan = planned(tensors, pattern=str(pattern), sparsity_ratio="", comparison_group="row")
    counts, dense = random_counts(tensors), many_magnitudes(tensors)
    for each in expand(plan, vote_sums(plan, counts), dense, tmp_path):
        groups = places(plan, each.name, pattern)
        prune = [pattern.of - pattern.kept] * len(groups)
        assert each.keep.flatten().tolist() == expansion(plan, each.name, counts, dense[each.name], groups, prune)


@st.composite
def runs(draw: st.DrawFn) -> tuple[Plan, Counts, int, Pattern | None, list[Decimal]]:
    silos, blocks = draw(st.integers(3, 12)), draw(st.integers(1, 2))
    survivors = draw(st.integers(3, silos))
    pattern = draw(st.none() | st.sampled_from([Pattern(2, 4), Pattern(1, 2), Pattern(5, 8)]))
    tensors: dict[str, tuple[int, tuple[int, int], bool]] = {}
    for at in range(draw(st.integers(blocks, 3))):
        d_out, d_in = draw(st.integers(1, 9)), draw(st.integers(1, 9)) * (pattern.of if pattern else 1)
        turned = draw(st.booleans())
        tensors[f"t{at}"] = (min(at, blocks - 1), (d_in, d_out) if turned else (d_out, d_in), turned)
    group = "row" if pattern else draw(st.sampled_from(["layer", "row", "column"]))
    ratio = draw(st.decimals(0, "0.9999", places=4))
    spelt = format(ratio.normalize(), "f")
    plan = planned(
        tensors,
        silos=silos,
        chunk_words=draw(st.integers(1, 4)),
        pattern=str(pattern or ""),
        sparsity_ratio="" if pattern else spelt,
        comparison_group=group,
        force_comparison_group=group == "column",
    )
    return plan, random_counts(tensors, survivors, draw(st.integers(0, 999))), survivors, pattern, [ratio]


@settings(max_examples=150)
@given(runs())
def test_every_group_has_exactly_k_zeros(run: tuple[Plan, Counts, int, Pattern | None, list[Decimal]]) -> None:
    plan, counts, survivors, pattern, (ratio,) = run
    with TemporaryDirectory() as folder:
        votes = opened(Start(plan).round, vote_sums(plan, counts), survivors, Path(folder))
        dense = dense_of({name: torch.ones(each.shape) for name, each in counts.items()})
        for each in expanded_tensors(Start(plan, [votes]), votes, dense):
            keep = each.keep.flatten().tolist()
            for members in places(plan, each.name, pattern):
                k = pattern.of - pattern.kept if pattern else int(Fraction(ratio) * len(members))
                assert [keep[at] for at in members].count(False) == k


# Corrupt sums.


def refused(plan: Plan, sums: dict[str, list[int]], folder: Path, *words: str) -> None:
    with pytest.raises(CorruptSum) as error:
        expand(plan, sums, few_magnitudes(MIXED), folder)
    assert all(word in error.value.message for word in words), error.value.message


@pytest.mark.clause("6.7.3")
@pytest.mark.parametrize("name", MIXED)
@pytest.mark.parametrize("group", ["layer", "row"])
def test_a_count_above_the_survivors(group: str, name: str, tmp_path: Path) -> None:
    """Even where the group's sum agrees. As many as the survivors are no fault: an honest sum here has them."""
    counts, plan = random_counts(MIXED), planned(MIXED, comparison_group=group)
    counts[name].flat[-1] = SURVIVORS + 1
    words = f"section votes {name}: a sum is {SURVIVORS + 1}, above {SURVIVORS}"
    refused(plan, vote_sums(plan, counts), tmp_path, words)


def one_more(count: NDArray[np.uint64]) -> None:
    count[2, 5] = 4 if count[2, 5] == 3 else 3


def one_less(count: NDArray[np.uint64]) -> None:
    count[0, 1] -= np.uint64(1)


def rows_swapped(count: NDArray[np.uint64]) -> None:
    count[[2, 3]] = count[[3, 2]]


def shifted(count: NDArray[np.uint64]) -> None:
    count[:] = np.roll(count, 1)


def moved_to_the_next_row(count: NDArray[np.uint64]) -> None:
    count[0, 1], count[1, 0] = count[0, 1] - np.uint64(4), 4


@pytest.mark.clause("6.7.3")
@pytest.mark.parametrize("change", [one_more, one_less, rows_swapped, shifted, moved_to_the_next_row])
def test_counts_that_do_not_add_up_in_their_group(change: Callable[[NDArray[np.uint64]], None], tmp_path: Path) -> None:
    plan, counts = planned(MIXED, comparison_group="row"), random_counts(MIXED)
    counts["blocks.0.a"][1, 0] = 0
    honest = vote_sums(plan, counts)
    change(counts["blocks.0.a"])
    altered = vote_sums(plan, counts)
    assert altered["nonzero counts blocks.0.a"] != honest["nonzero counts blocks.0.a"]
    refused(plan, honest | {"votes blocks.0.a": altered["votes blocks.0.a"]}, tmp_path, "blocks.0.a: group")


def test_the_groups_of_an_input_first_tensor_are_its_outputs(tmp_path: Path) -> None:
    """Counts that add up along the stored rows, and not along the stored columns."""
    plan, counts = planned(MIXED, comparison_group="row"), random_counts(MIXED)
    counts["blocks.0.b"][0, :2] = 3, 0
    honest = vote_sums(plan, counts)
    counts["blocks.0.b"][0, :2] = 2, 1
    votes = {"votes blocks.0.b": vote_sums(plan, counts)["votes blocks.0.b"]}
    refused(plan, honest | votes, tmp_path, "blocks.0.b: group 0 has")


@pytest.mark.clause("6.7.3")
@pytest.mark.parametrize("group", ["layer", "row", "column"])
@pytest.mark.parametrize("name", MIXED)
def test_a_nonzero_count_that_is_off_by_one(name: str, group: str, tmp_path: Path) -> None:
    plan = planned(MIXED, comparison_group=group, force_comparison_group=group == "column")
    sums = vote_sums(plan, random_counts(MIXED))
    off = sums[f"nonzero counts {name}"]
    off[-1] -= 1
    refused(plan, sums, tmp_path, name, f"group {len(off) - 1} has {off[-1] + 1} kept by count and {off[-1]} by")


@pytest.mark.clause("6.7.4")
def test_the_check_is_no_security_one_more_and_one_less_in_a_group_pass(tmp_path: Path) -> None:
    plan, counts = planned(MIXED, comparison_group="row"), random_counts(MIXED)
    honest = vote_sums(plan, counts)
    counts["blocks.0.a"][0, :2] = 1, SURVIVORS - 1
    votes = {"votes blocks.0.a": vote_sums(plan, counts)["votes blocks.0.a"]}
    found = expand(plan, honest | votes, few_magnitudes(MIXED), tmp_path)
    assert found[0].keep_counts[0, :2].tolist() == [1, SURVIVORS - 1]


def test_the_check_is_no_security_rows_swapped_pass_where_the_layer_is_one_group(tmp_path: Path) -> None:
    plan, counts = planned(MIXED, comparison_group="layer"), random_counts(MIXED)
    honest = vote_sums(plan, counts)
    rows_swapped(counts["blocks.0.a"])
    assert vote_sums(plan, counts) != honest
    expand(plan, vote_sums(plan, counts) | {"nonzero counts blocks.0.a": honest["nonzero counts blocks.0.a"]},
           few_magnitudes(MIXED), tmp_path)  # fmt: skip


def test_two_hundred_survivors_fit_the_counts(tmp_path: Path) -> None:
    plan = planned({"a": (0, (2, 3), False)}, silos=200)
    counts = {"a": np.array([[200, 0, 199], [1, 200, 128]], np.uint64)}
    votes = opened(Start(plan).round, vote_sums(plan, counts), 200, tmp_path)
    (found,) = expanded_tensors(Start(plan, [votes]), votes, dense_of({"a": torch.ones(2, 3)}))
    assert found.keep_counts.tolist() == [[200, 0, 199], [1, 200, 128]]
    assert found.keep.tolist() == [[True, False, True], [False, True, False]]


def test_chunks_of_another_order_are_a_fault_of_the_program(tmp_path: Path) -> None:
    plan = planned(MIXED)
    votes = opened(Start(plan).round, vote_sums(plan, random_counts(MIXED)), SURVIVORS, tmp_path)
    reversed_ = list(votes.chunks())[::-1]
    object.__setattr__(votes, "chunks", lambda: iter(reversed_))
    with pytest.raises(RuntimeError, match="where votes blocks"):
        list(expanded_tensors(Start(plan, [votes]), votes, dense_of(few_magnitudes(MIXED))))


# Weights.

Differences = dict[str, list[list[Fraction | None]]]
"""By tensor and survivor, what each weight differs by from the dense one; None where it is not kept."""


def random_differences(seed: int, survivors: int, tensors: Tensors, largest: float = 1.0) -> Differences:
    """Some weight kept by nobody, some by one silo, some by all."""
    random = np.random.default_rng(seed)
    found: Differences = {}
    for name, (_, shape, _) in tensors.items():
        size = int(np.prod(shape))
        values = [[Fraction(float(x)) for x in random.uniform(-largest, largest, size)] for _ in range(survivors)]
        keep = random.random((survivors, size)) < 0.6
        keep[:, 0], keep[:, 1], keep[:, 2], keep[0, 2] = False, True, False, True
        found[name] = [
            [value if kept else None for value, kept in zip(*row, strict=True)]
            for row in zip(values, keep, strict=True)
        ]
    return found


def exponent_of(rows: list[list[Fraction | None]]) -> int:
    most = max((abs(value) for row in rows for value in row if value is not None), default=Fraction(0))
    return next(e for e in range(-96, 32) if Fraction(2) ** e >= most)


def half_even(value: Fraction) -> int:
    return round(value)


def weight_sums(plan: Plan, differences: Differences) -> list[dict[str, list[int]]]:
    """Of the scales round, where the largest difference decides, and of the weights round."""
    scales: dict[str, list[int]] = {}
    counts: Counts = {}
    deltas: dict[str, list[int]] = {}
    for name, rows in differences.items():
        e, (_, shape, _) = exponent_of(rows), MIXED[name]
        marks = [exponent_of([row]) for row in rows]
        scales[f"scale {name}"] = [marks.count(each) for each in range(-96, 32)]
        columns = list(zip(*rows, strict=True))
        counts[name] = np.array([sum(x is not None for x in column) for column in columns], np.uint64).reshape(shape)
        unit = Fraction(2) ** (e - 16)
        deltas[f"deltas {name}"] = [
            sum(half_even(value / unit) + 2**16 for value in column if value is not None) for column in columns
        ]
    return [scales, vote_sums(plan, counts) | deltas]


def averaged(
    plan: Plan, differences: Differences, weights: dict[str, torch.Tensor], folder: Path
) -> Iterator[tuple[ExpandedTensor, list[list[Fraction | None]]]]:
    scales, sums = weight_sums(plan, differences)
    first = opened(Start(plan).round, scales, SURVIVORS, folder)
    second = opened(Start(plan, [first]).round, sums, SURVIVORS, folder)
    found = expanded_tensors(Start(plan, [first, second]), second, dense_of(weights))
    return zip(found, differences.values(), strict=True)


def half_ulp(value: Fraction, bits: int) -> Fraction:
    """Of a float with so many bits of significand; a thousandth more, for rounding twice on the way."""
    exponent = next(e for e in range(-200, 200) if Fraction(2) ** e > abs(value))
    return Fraction(2) ** (exponent - bits - 1) * Fraction(1001, 1000)


@pytest.mark.clause("2.4.7")
@pytest.mark.parametrize("scaling", [False, True])
@pytest.mark.parametrize(("dtype", "bits"), [(torch.float32, 24), (torch.bfloat16, 8), (torch.float16, 11)])
def test_the_new_weight_is_the_exact_l0_average(dtype: torch.dtype, bits: int, scaling: bool, tmp_path: Path) -> None:
    plan = planned(MIXED, WEIGHTS, pruner="sparsegpt", sparsity_ratio="0.3", weight_scaling=scaling)
    differences = random_differences(3, SURVIVORS, MIXED, 0.37)
    dense = {name: (weight * 1.7).to(dtype) for name, weight in few_magnitudes(MIXED).items()}
    for found, rows in averaged(plan, differences, dense, tmp_path):
        unit = Fraction(2) ** (exponent_of(rows) - 16)
        assert found.weight is not None
        assert found.changed is found.weight
        assert found.weight.dtype is dtype
        assert int((found.weight == 0).sum()) == int((~found.keep).sum()) == int(Fraction("0.3") * len(rows[0]))
        cells = zip(found.weight.flatten(), found.keep.flatten(), dense[found.name].flatten(), *rows, strict=True)
        for new, keep, old, *column in cells:
            if not keep:
                assert str(float(new)) == "0.0"  # not -0.0
                continue
            multiples = [half_even(value / unit) for value in column if value is not None]
            average = Fraction(sum(multiples), len(multiples)) * unit if multiples else Fraction(0)
            exact = Fraction(float(old)) + average
            exact *= Fraction(len(multiples), SURVIVORS) if scaling else 1
            assert abs(Fraction(float(new)) - exact) <= half_ulp(exact, bits)


def test_weights_of_one_keep_count_are_kept_by_the_importance_of_their_average(tmp_path: Path) -> None:
    """Not by that of the dense weight (ADR 23): here the two orders are opposite."""
    name = "blocks.0.a"
    _, shape, _ = MIXED[name]
    plan = planned({name: MIXED[name]}, WEIGHTS, pruner="sparsegpt", sparsity_ratio="0.5")
    dense = torch.arange(1, 73, dtype=torch.float32).reshape(shape)
    row: list[Fraction | None] = [Fraction(72 - 2 * at) for at in range(72)]  # averages 73 down to 2
    nobody: list[Fraction | None] = [None] * 72
    ((found, _),) = averaged(plan, {name: [row, row, *[nobody] * (SURVIVORS - 2)]}, {name: dense}, tmp_path)
    average = torch.arange(73, 1, -1).reshape(shape).float()
    counts, groups = {name: np.full(shape, 2, np.uint64)}, [list(range(72))]
    assert found.keep.flatten().tolist() == expansion(plan, name, counts, average, groups, [36])
    assert found.keep.flatten().tolist() != expansion(plan, name, counts, dense, groups, [36])


@settings(max_examples=60)
@given(st.integers(0, 10**6), st.floats(1e-20, 1e9))
def test_an_average_is_off_by_at_most_the_stated_part_of_the_largest_difference(seed: int, largest: float) -> None:
    """2^-16 of it. On a dense weight of 0 in float64 the new weight is the average itself."""
    plan = planned(MIXED, WEIGHTS, pruner="sparsegpt", sparsity_ratio="0")
    differences = random_differences(seed, SURVIVORS, MIXED, largest)
    dense = {name: torch.zeros(shape, dtype=torch.float64) for name, (_, shape, _) in MIXED.items()}
    with TemporaryDirectory() as folder:
        for found, rows in averaged(plan, differences, dense, Path(folder)):
            most = max(abs(value) for row in rows for value in row if value is not None)
            assert found.weight is not None
            for new, *column in zip(found.weight.flatten().tolist(), *rows, strict=True):
                values = [value for value in column if value is not None]
                true = sum(values, Fraction(0)) / len(values) if values else Fraction(0)
                assert abs(Fraction(new) - true) <= most / 2**16


def test_scaled_votes(tmp_path: Path) -> None:
    plan = planned(MIXED, sparsity_ratio="0.3", weight_scaling=True)
    counts, dense = random_counts(MIXED), few_magnitudes(MIXED)
    unscaled = expand(planned(MIXED, sparsity_ratio="0.3"), vote_sums(plan, counts), dense, tmp_path)
    for found, plain in zip(expand(plan, vote_sums(plan, counts), dense, tmp_path), unscaled, strict=True):
        assert torch.equal(found.keep, plain.keep)
        assert found.weight is not None
        cells = zip(counts[found.name].flat, dense[found.name].flatten().tolist(), found.keep.flatten(), strict=True)
        exact = [Fraction(old) * int(count) / SURVIVORS if keep else Fraction(0) for count, old, keep in cells]
        assert [Fraction(new) for new in found.weight.flatten().tolist()] == exact  # quarters are floats


@pytest.mark.parametrize("over", [1, 0])
def test_a_sum_of_differences_above_what_the_survivors_can_have(over: int, tmp_path: Path) -> None:
    plan = planned(MIXED, WEIGHTS, pruner="sparsegpt")
    scales, sums = weight_sums(plan, random_differences(3, SURVIVORS, MIXED))
    sums["deltas blocks.0.b"][-1] = SURVIVORS * 2**17 + over
    first = opened(Start(plan).round, scales, SURVIVORS, tmp_path)
    second = opened(Start(plan, [first]).round, sums, SURVIVORS, tmp_path)
    expanding = expanded_tensors(Start(plan, [first, second]), second, dense_of(few_magnitudes(MIXED)))
    if over:
        with pytest.raises(CorruptSum, match=r"^section deltas blocks\.0\.b: a sum is 524289, above 524288"):
            list(expanding)
    else:
        list(expanding)


# Globally pruned blocks.


@pytest.mark.parametrize("release", [ReleaseKind.VOTES, WEIGHTS])
def test_a_globally_pruned_block_is_what_its_own_round_made(release: ReleaseKind, tmp_path: Path) -> None:
    pruner = "wanda" if release is ReleaseKind.VOTES else "sparsegpt"
    plan = planned(MIXED, release, pruner=pruner, schedule="iterative")
    dense, differences = few_magnitudes(MIXED), random_differences(5, SURVIVORS, MIXED)
    scales, sums = weight_sums(plan, differences)
    found: list[OpenedRound] = []
    together = Together(plan, dense_of(dense), tmp_path / "together", torch.device("cpu"), lambda *_: None)
    for block in range(2):
        if release is WEIGHTS:
            found.append(opened(Start(plan, found).round, scales, SURVIVORS, tmp_path))
        found.append(opened(Start(plan, found).round, sums, SURVIVORS, tmp_path))
        expected = {each.name: each for each in expanded_tensors(Start(plan, found), found[-1], dense_of(dense))}
        assert set(expected) == {name for name, (of, _, _) in MIXED.items() if of == block}
        together.take(found)
        changed = together.changed(block)
        assert changed.keys() == expected.keys()
        for name, each in expected.items():
            assert torch.equal(changed[name], each.keep if release is ReleaseKind.VOTES else each.weight)  # type: ignore[arg-type]
    assert set(together.changed(0)) == {name for name, (of, _, _) in MIXED.items() if of == 0}
    assert set(together.tensors) == set(MIXED)


def test_half_a_unit_is_rounded_to_even_and_is_the_worst(tmp_path: Path) -> None:
    plan = planned({"blocks.0.a": MIXED["blocks.0.a"]}, WEIGHTS, pruner="sparsegpt", sparsity_ratio="0")
    halves = [Fraction(odd, 2**17) for odd in (1, 3, 5, -1, -3)]
    rows: list[list[Fraction | None]] = [[Fraction(1), *halves, *[Fraction(0)] * 66] for _ in range(SURVIVORS)]
    dense = {"blocks.0.a": torch.zeros(6, 12, dtype=torch.float64)}
    ((found, _),) = averaged(plan, {"blocks.0.a": rows}, dense, tmp_path)
    assert found.weight is not None
    assert found.weight.flatten()[:6].tolist() == [1, *(even * 2.0**-16 for even in (0, 2, 2, 0, -2))]


# What an offered round has to start from.


def started(folder: Path) -> Start:
    """After the coin was opened; the next round is block 0's."""
    plan = planned(BLOCKS, cohort_floor=3, capacities=(3, 2, 3, 2, 2))
    return Start(plan, [opened(Start(plan).round, {"coin": [1, 2, 3, 4]}, 5, folder, bytes([7] * 32))])


@pytest.mark.clause("2.2.3", "2.2.4", "2.6.2")
def test_a_round_starts_from_what_was_opened_and_with_the_cohort_that_was_drawn(tmp_path: Path) -> None:
    start = started(tmp_path)
    honest = start.round
    drawn, others = honest.cohort, [silo for silo in start.plan.silos if silo not in honest.cohort]
    assert (len(drawn), len(others)) == (3, 2)
    for silo in drawn:
        check_start(honest, start, silo)
    for silo in others:
        with pytest.raises(UnexpectedMessage, match=r"^aggregator: offers round 1 to a silo that is not in its cohort"):
            check_start(honest, start, silo)
    for input_ in (bytes(32), honest.input_digest[::-1], b""):
        with pytest.raises(UnexpectedMessage, match=r"^aggregator: offers round 1 with another input"):
            check_start(replace(honest, input_digest=input_), start, drawn[0])
    for cohort in ((*drawn, others[0]), (*drawn[:2], others[1]), drawn[:2], drawn[::-1], ()):
        for silo in {*drawn, *cohort}:
            with pytest.raises(UnexpectedMessage, match=r"^aggregator: offers round 1 with another cohort"):
                check_start(replace(honest, cohort=cohort), start, silo)


@pytest.mark.clause("2.2.3")
def test_a_first_round_starts_from_nothing_and_is_for_all() -> None:
    start = Start(planned(BLOCKS, cohort_floor=3, capacities=(3, 2, 3, 2, 2)))
    for silo in start.plan.silos:
        check_start(start.round, start, silo)
    with pytest.raises(UnexpectedMessage, match="another input"):
        check_start(Round(start.plan, 0, bytes(32)), start, "silo-000")
    with pytest.raises(UnexpectedMessage, match="another cohort"):
        check_start(Round(start.plan, 0, b"", start.plan.silos), start, "silo-000")
