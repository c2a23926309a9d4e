"""How many zeros and in which groups: exact counts."""

import math
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from crypto.errors import PlanError
from crypto.names import ComparisonGroup
from crypto.pruning.sparsity import MOST_PATTERN, Pattern, Sparsity, group_shape, parse_ratio, prune_count, spell_ratio


@given(st.decimals(0, 1, allow_nan=False, places=None), st.integers(0, 10**12))
@example(Decimal("0.7"), 10)  # 6.999... in binary floating point
@example(Decimal("0.29"), 100)
@example(Decimal("0." + "3" * 40), 3 * 10**39)  # beyond the decimal context's 28 digits
@example(Decimal("0." + "9" * 40), 10**6)
@example(Decimal("1E-30"), 10**30)
def test_prune_count_is_the_exact_floor(ratio: Decimal, size: int) -> None:
    assert prune_count(ratio, size) == math.floor(Fraction(str(ratio)) * size)
    assert Sparsity(ratio, ComparisonGroup.ROW).prune_count(size) == prune_count(ratio, size)


@pytest.mark.parametrize("text", ["0", "0.5", "0.70", "0.999999", "5e-1"])
def test_ratios(text: str) -> None:
    assert parse_ratio(text) == Fraction(text)
    assert parse_ratio(spell_ratio(parse_ratio(text))) == Fraction(text)


def test_a_ratio_has_one_spelling() -> None:
    assert {spell_ratio(parse_ratio(text)) for text in ("0.7", "0.70", ".7", "7e-1", "0.7000")} == {"0.7"}
    assert spell_ratio(parse_ratio("-0")) == "0"


@pytest.mark.parametrize("text", ["1", "1.0001", "-0.1", "NaN", "Infinity", "half", "", "0." + "0" * 27 + "1"])
def test_no_ratios(text: str) -> None:
    with pytest.raises(PlanError, match="sparsity ratio"):
        parse_ratio(text)


@pytest.mark.parametrize(("text", "kept", "of"), [("2:4", 2, 4), ("4:8", 4, 8), ("1:2", 1, 2), ("63:64", 63, 64)])
def test_patterns(text: str, kept: int, of: int) -> None:
    pattern = Pattern.parse(text)
    assert pattern == Pattern(kept, of)
    assert str(pattern) == str(Sparsity(pattern, ComparisonGroup.ROW)) == text
    assert Sparsity(pattern, ComparisonGroup.ROW).prune_count(of) == of - kept


@pytest.mark.parametrize(
    "text", ["4:4", "4:2", "0:4", "2:65", "2-4", "2:4:8", " 2:4", "02:04", "2:", "", "-2:4", "٢:٤"]
)
def test_no_patterns(text: str) -> None:
    with pytest.raises(PlanError, match=f"n < m <= {MOST_PATTERN}"):
        Pattern.parse(text)


@given(st.integers(1, 50), st.integers(1, 50))
def test_groups(rows: int, columns: int) -> None:
    half = Decimal("0.5")
    expected = {
        ComparisonGroup.LAYER: (1, rows * columns),
        ComparisonGroup.ROW: (rows, columns),
        ComparisonGroup.COLUMN: (columns, rows),
    }
    for group, shape in expected.items():
        assert group_shape((rows, columns), group) == Sparsity(half, group).groups((rows, columns)) == shape


@given(st.integers(1, 20), st.integers(1, 20), st.sampled_from(ComparisonGroup), st.integers(2, 64))
def test_groups_of_a_pattern_are_runs_of_inputs_whatever_the_group(
    rows: int, runs: int, group: ComparisonGroup, of: int
) -> None:
    sparsity = Sparsity(Pattern(1, of), group)
    assert sparsity.groups((rows, runs * of)) == (rows * runs, of)
    with pytest.raises(PlanError, match=f"pattern 1:{of}: a weight has {runs * of + 1} inputs"):
        sparsity.groups((rows, runs * of + 1))
