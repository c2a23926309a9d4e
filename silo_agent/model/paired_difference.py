"""By how much one model predicts the same sequences better than another, and how sure that is."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, fsum, sqrt
from statistics import NormalDist
from typing import Final, Literal

CONFIDENCE: Final = 0.95
FEWEST_SEQUENCES: Final = 4
"""Of fewer sequences nothing is said: their scatter tells next to nothing."""

Verdict = Literal["lower", "higher", "cannot_be_told_apart"]
"""How a model's perplexity is beside the other's."""


@dataclass(frozen=True)
class PairedDifference:
    """The mean over sequences of equal length of one model's negative log-likelihood less another's, in nats a token.

    `total` and `squares` are sums over `sequences`, at least 2, of the differences and of their squares. Sequences
    count as drawn independently of each other; where neighbours are alike, the truth is less certain than it says.
    """

    total: float
    squares: float
    sequences: int

    @classmethod
    def of(cls, differences: Sequence[float]) -> "PairedDifference":
        """Return that of the differences themselves, one a sequence."""
        return cls(fsum(differences), fsum(value * value for value in differences), len(differences))

    @property
    def mean(self) -> float:
        """The mean difference, in nats a token."""
        return self.total / self.sequences

    @property
    def standard_error(self) -> float:
        """The standard deviation of the mean, from the sample variance."""
        scattered = max(0.0, self.squares - self.total * self.mean)
        return sqrt(scattered / (self.sequences - 1) / self.sequences)

    @property
    def margin(self) -> float:
        """Half of the paired t interval at CONFIDENCE; infinite of fewer than FEWEST_SEQUENCES."""
        if self.sequences < FEWEST_SEQUENCES:
            return float("inf")
        return student_quantile(self.sequences - 1) * self.standard_error

    @property
    def verdict(self) -> Verdict:
        """Whether the first model's perplexity is lower or higher than the second's; neither where both may be."""
        if abs(self.mean) <= self.margin:
            return "cannot_be_told_apart"
        return "lower" if self.mean < 0 else "higher"

    @property
    def in_words(self) -> str:
        """By how much the first model's perplexity is lower or higher, such as `3.1% ± 0.4% lower`."""
        ratio = exp(min(self.mean, 700))
        return f"{abs(ratio - 1):.1%} ± {ratio * self.margin:.1%} {'lower' if self.mean < 0 else 'higher'}"


def student_quantile(freedom: int) -> float:
    """Return the quantile of Student's t with `freedom` degrees, 3 or more, that leaves CONFIDENCE between it and -it.

    By the expansion in 1 / freedom of Abramowitz and Stegun, 26.7.5: off by less than 0.004.
    """
    z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + fsum(term / float(freedom) ** power for power, term in enumerate(terms, 1))
