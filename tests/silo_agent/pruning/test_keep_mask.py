"""Exactly k zeros in every group, ties decided the same way everywhere: against Python's sorted()."""

import math
from decimal import Decimal
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from crypto.errors import PlanError
from crypto.names import ComparisonGroup
from crypto.pruning.sparsity import Pattern, Sparsity
from silo_agent.pruning.keep_mask import as_groups, from_groups, keep_by_score, keep_top


def expected_row(primary: list[float], magnitude: list[float], prune: int) -> list[bool]:
    pruned = set(sorted(range(len(primary)), key=lambda i: (primary[i], magnitude[i], -i))[:prune])
    return [i not in pruned for i in range(len(primary))]


@st.composite
def tied(draw: st.DrawFn) -> tuple[list[list[float]], list[list[float]], int]:
    groups, size = draw(st.integers(1, 4)), draw(st.integers(1, 12))

    def rows(values: list[float]) -> list[list[float]]:
        return [draw(st.lists(st.sampled_from(values), min_size=size, max_size=size)) for _ in range(groups)]

    return rows([0, 1, 2]), rows([0.0, 0.5, 1.0]), draw(st.integers(0, size))


@given(tied(), st.sampled_from([torch.float32, torch.int64, torch.int32, torch.uint8]))
def test_keep_top_under_heavy_ties(case: tuple[list[list[float]], list[list[float]], int], dtype: torch.dtype) -> None:
    primary, magnitude, prune = case
    keep = keep_top(torch.tensor(primary, dtype=dtype), torch.tensor(magnitude), prune)
    assert keep.dtype == torch.bool
    assert keep.tolist() == [expected_row(p, m, prune) for p, m in zip(primary, magnitude, strict=True)]


@given(st.lists(st.floats(0, width=32), min_size=1, max_size=40), st.data())
def test_keep_top_of_floats(primary: list[float], data: st.DataObject) -> None:
    magnitude = data.draw(st.lists(st.floats(0, 1, width=32), min_size=len(primary), max_size=len(primary)))
    prune = data.draw(st.integers(0, len(primary)))
    keep = keep_top(torch.tensor([primary]), torch.tensor([magnitude]), prune)
    assert keep.tolist() == [expected_row(primary, magnitude, prune)]


def test_keep_top_of_a_large_row_with_ties() -> None:
    generator = torch.Generator().manual_seed(0)
    primary = torch.randint(0, 5, (2, 20_000), generator=generator)
    magnitude = torch.randint(0, 7, (2, 20_000), generator=generator).bfloat16()
    keep = keep_top(primary, magnitude, 9_999)
    for row in range(2):
        assert keep[row].tolist() == expected_row(primary[row].tolist(), magnitude[row].tolist(), 9_999)


def test_infinite_values_rank_and_negative_ones() -> None:
    primary = torch.tensor([[float("inf"), -2.0, 3.0, float("inf"), -2.0, float("-inf")]])
    magnitude = torch.tensor([[1.0, float("inf"), 5.0, float("inf"), 1.0, 9.0]])
    for prune in range(7):
        keep = keep_top(primary, magnitude, prune)[0].tolist()
        assert keep == expected_row(primary[0].tolist(), magnitude[0].tolist(), prune)


def test_groups_of_which_only_some_tie_at_the_threshold() -> None:
    primary = torch.tensor([[1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 2.0, 2.0], [4.0, 3.0, 2.0, 1.0], [2.0, 2.0, 2.0, 2.0]])
    magnitude = torch.tensor([[9.0, 8.0, 7.0, 6.0], [0.0, 1.0, 3.0, 1.0], [1.0, 1.0, 1.0, 1.0], [5.0, 7.0, 5.0, 7.0]])
    for prune in range(5):
        keep = keep_top(primary, magnitude, prune)
        assert keep.tolist() == [
            expected_row(p, m, prune) for p, m in zip(primary.tolist(), magnitude.tolist(), strict=True)
        ]


def test_keep_top_refuses_what_has_no_rank() -> None:
    fine, nan = torch.ones(1, 3), torch.tensor([[1.0, float("nan"), 2.0]])
    with pytest.raises(ValueError, match="NaN"):
        keep_top(fine, nan, 1)
    for prune in (-1, 4):
        with pytest.raises(ValueError, match="of 3"):
            keep_top(fine, fine, prune)


@pytest.mark.clause("14.2.1")
def test_a_score_that_is_no_number_ranks_lowest() -> None:
    nan, inf = float("nan"), float("inf")
    scores, magnitude = torch.tensor([[nan, -inf, 0.0, nan, inf]]), torch.tensor([[3.0, 1.0, 1.0, 2.0, 1.0]])
    ranks = [1, 3, 0, 2, 4]  # those without a rank and the lowest tie, and larger weights are kept
    for prune in range(6):
        keep = keep_top(scores, magnitude, prune)[0].tolist()
        assert keep == [at not in ranks[:prune] for at in range(5)], prune


@given(st.integers(1, 5), st.integers(1, 6), st.sampled_from(ComparisonGroup))
def test_groups_there_and_back(rows: int, columns: int, group: ComparisonGroup) -> None:
    matrix = torch.arange(rows * columns).view(rows, columns)
    grouped = as_groups(matrix, group)
    assert (
        grouped.tolist()
        == {
            ComparisonGroup.LAYER: [[i * columns + j for i in range(rows) for j in range(columns)]],
            ComparisonGroup.ROW: [[i * columns + j for j in range(columns)] for i in range(rows)],
            ComparisonGroup.COLUMN: [[i * columns + j for i in range(rows)] for j in range(columns)],
        }[group]
    )
    assert torch.equal(from_groups(grouped, matrix.shape, group), matrix)


@pytest.mark.parametrize("group", ComparisonGroup)
@pytest.mark.parametrize("ratio", ["0", "0.3", "0.5", "0.75", "0.999"])
def test_keep_by_score_zeroes_exactly_k_in_every_group(group: ComparisonGroup, ratio: str) -> None:
    generator = torch.Generator().manual_seed(3)
    score = torch.randint(0, 4, (9, 14), generator=generator).float()
    weight = torch.randn(9, 14, generator=generator).round()  # signs differ, magnitudes tie
    keep = keep_by_score(score, weight, Sparsity(Decimal(ratio), group))
    assert keep.shape == weight.shape and keep.dtype == torch.bool and keep.is_contiguous()
    cells = [[(i, j) for j in range(14)] for i in range(9)]
    if group is ComparisonGroup.LAYER:
        cells = [[cell for row in cells for cell in row]]
    if group is ComparisonGroup.COLUMN:
        cells = [list(column) for column in zip(*cells, strict=True)]
    for members in cells:
        scores = [float(score[cell]) for cell in members]
        magnitudes = [abs(float(weight[cell])) for cell in members]
        prune = math.floor(Fraction(ratio) * len(members))
        assert [bool(keep[cell]) for cell in members] == expected_row(scores, magnitudes, prune)


@given(st.integers(1, 6), st.integers(1, 6), st.integers(2, 16), st.data())
def test_keep_by_score_of_a_pattern(rows: int, runs: int, of: int, data: st.DataObject) -> None:
    kept = data.draw(st.integers(1, of - 1))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    score = torch.randint(0, 4, (rows, runs * of), generator=generator)
    weight = torch.randn(rows, runs * of, generator=generator).mul(2).round()
    keep = keep_by_score(score, weight, Sparsity(Pattern(kept, of), data.draw(st.sampled_from(ComparisonGroup))))
    for i in range(rows):
        for j in range(0, runs * of, of):
            scores, magnitudes = score[i, j : j + of].tolist(), weight[i, j : j + of].abs().tolist()
            assert keep[i, j : j + of].tolist() == expected_row(scores, magnitudes, of - kept)


def test_a_pattern_that_does_not_fit() -> None:
    with pytest.raises(PlanError, match="2:4: a weight has 6 inputs"):
        keep_by_score(torch.ones(2, 6), torch.ones(2, 6), Sparsity(Pattern(2, 4), ComparisonGroup.ROW))
