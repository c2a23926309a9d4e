"""How many weights become zero, and in which groups of weights: exact counts, the same for every party."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Final

from crypto.errors import PlanError
from crypto.names import ComparisonGroup

MOST_DECIMALS: Final = 27
"""Of a sparsity ratio: within Decimal's default precision, so that no arithmetic on it rounds."""

MOST_PATTERN: Final = 64
"""Of an n:m pattern's m; hardware has 4, papers have up to 32."""


def parse_ratio(text: str) -> Decimal:
    """Return a sparsity ratio in [0, 1) as an exact decimal, such as `0.7`; anything else is a PlanError."""
    try:
        ratio = Decimal(text)
    except InvalidOperation:
        raise PlanError(
            f"sparsity ratio: {text!r} is not a decimal number", hint="give one in [0, 1), such as 0.5"
        ) from None
    if not (ratio.is_finite() and 0 <= ratio < 1):
        raise PlanError(f"sparsity ratio: {text!r} is outside [0, 1)", hint="0.5 sets half of the weights to zero")
    if ratio != round(ratio, MOST_DECIMALS):
        raise PlanError(f"sparsity ratio: has more than {MOST_DECIMALS} decimals")
    return ratio


def spell_ratio(ratio: Decimal) -> str:
    """Return the one spelling of a ratio in a plan: "0.70" and "0.7" would otherwise be two plans for the same work."""
    return format(ratio.normalize().copy_abs(), "f")


@dataclass(frozen=True)
class Pattern:
    """n:m: of every m consecutive inputs of an output row, n weights are kept (2:4 is what sparse tensor cores run)."""

    kept: int
    of: int

    @classmethod
    def parse(cls, text: str) -> "Pattern":
        """Return the pattern that a text such as `2:4` spells. Raises PlanError."""
        spelled = re.fullmatch(r"([1-9][0-9]?):([1-9][0-9]?)", text)
        pattern = cls(int(spelled[1]), int(spelled[2])) if spelled else None
        if pattern is None or not pattern.kept < pattern.of <= MOST_PATTERN:
            raise PlanError(
                f"pattern: {text!r} is no n:m with n < m <= {MOST_PATTERN}", hint="2:4 keeps two of every four weights"
            )
        return pattern

    def __str__(self) -> str:
        return f"{self.kept}:{self.of}"


@dataclass(frozen=True)
class Sparsity:
    """What is zeroed in a weight [d_out, d_in]: a ratio of every comparison group, or all but n of every m inputs."""

    target: Decimal | Pattern
    group: ComparisonGroup
    """Of a ratio. A pattern's groups are its own: the rows' runs of m inputs."""

    @property
    def ratio(self) -> Decimal:
        """The share of weights that is zeroed, before it is rounded to whole weights."""
        return self.target if isinstance(self.target, Decimal) else 1 - Decimal(self.target.kept) / self.target.of

    def groups(self, shape: Sequence[int]) -> tuple[int, int]:
        """Return how many comparison groups a [d_out, d_in] weight has, and how many weights each.

        Raises PlanError where a pattern does not divide d_in.
        """
        rows, columns = shape
        if isinstance(self.target, Pattern):
            if columns % self.target.of:
                raise PlanError(
                    f"pattern {self.target}: a weight has {columns} inputs, which is no multiple of {self.target.of}"
                )
            return rows * columns // self.target.of, self.target.of
        return group_shape(shape, self.group)

    def prune_count(self, size: int) -> int:
        """Return k, of a comparison group of `size`: floor(sparsity ratio x size) in exact arithmetic, or m - n."""
        if isinstance(self.target, Pattern):
            return self.target.of - self.target.kept
        return prune_count(self.target, size)

    def __str__(self) -> str:
        return (
            f"{self.target}" if isinstance(self.target, Pattern) else f"{spell_ratio(self.target)} of each {self.group}"
        )


def prune_count(ratio: Decimal, size: int) -> int:
    """Return k = floor(sparsity ratio x group size), in exact arithmetic."""
    numerator, denominator = ratio.as_integer_ratio()
    return numerator * size // denominator


def group_shape(shape: Sequence[int], group: ComparisonGroup) -> tuple[int, int]:
    """Return how many comparison groups a [d_out, d_in] weight has, and how many weights each."""
    rows, columns = shape
    match group:
        case ComparisonGroup.LAYER:
            return 1, rows * columns
        case ComparisonGroup.ROW:
            return rows, columns
        case ComparisonGroup.COLUMN:
            return columns, rows
