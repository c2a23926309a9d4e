"""Exactly k zeros in every group, ties decided the same way everywhere: against Python's sorted()."""

import math
from decimal import Decimal
from fractions import Fraction

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from crypto.errors import ConfigError
from crypto.names import ComparisonGroup
from silo_agent.keep_mask import as_groups, from_groups, keep_by_score, keep_top, prune_count


def expected_row(primary: list[float], magnitude: list[float], prune: int) -> list[bool]:
    pruned = set(sorted(range(len(primary)), key=lambda i: (primary[i], magnitude[i], -i))[:prune])
    return [i not in pruned for i in range(len(primary))]


@given(st.decimals(0, 1, allow_nan=False, places=None), st.integers(0, 10**12))
@example(Decimal("0.7"), 10)  # 6.999... in binary floating point
@example(Decimal("0.29"), 100)
@example(Decimal("0." + "3" * 40), 3 * 10**39)  # beyond the decimal context's 28 digits
@example(Decimal("0." + "9" * 40), 10**6)
@example(Decimal("1"), 7)
@example(Decimal("1E-30"), 10**30)
def test_prune_count_is_the_exact_floor(ratio: Decimal, size: int) -> None:
    assert prune_count(ratio, size) == math.floor(Fraction(str(ratio)) * size)


@pytest.mark.parametrize("ratio", ["-0.1", "1.0001", "NaN", "Infinity"])
def test_prune_count_refuses(ratio: str) -> None:
    with pytest.raises(ConfigError, match=f"--sparsity-ratio {ratio} is not from 0 to 1"):
        prune_count(Decimal(ratio), 10)


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


def test_keep_top_refuses_what_has_no_rank() -> None:
    fine, nan = torch.ones(1, 3), torch.tensor([[1.0, float("nan"), 2.0]])
    for primary, magnitude in [(nan, fine), (fine, nan)]:
        with pytest.raises(ValueError, match="NaN"):
            keep_top(primary, magnitude, 1)
    for prune in (-1, 4):
        with pytest.raises(ValueError, match="of 3"):
            keep_top(fine, fine, prune)


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
@pytest.mark.parametrize("ratio", ["0", "0.3", "0.5", "0.75", "1"])
def test_keep_by_score_zeroes_exactly_k_in_every_group(group: ComparisonGroup, ratio: str) -> None:
    generator = torch.Generator().manual_seed(3)
    score = torch.randint(0, 4, (9, 14), generator=generator).float()
    weight = torch.randn(9, 14, generator=generator).round()  # signs differ, magnitudes tie
    keep = keep_by_score(score, weight, Decimal(ratio), group)
    assert keep.shape == (9, 14) and keep.dtype == torch.bool and keep.is_contiguous()
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
