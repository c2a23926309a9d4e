"""Privacy events: what one release tells of a unit, as a value that an accountant adds up (as in dp_accounting).

A unit is what a promise is about: all records of one person, or one record where the text names no persons.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class GaussianEvent:
    """Sums to which Gaussian noise was added, and which one unit changes by a bounded amount, in Euclidean length."""

    noise_multiplier: float
    """The noise's standard deviation over the most by which a unit changes the sums."""
    releases: int = 1
    """How many of them there are, each with noise of its own; a later one may depend on what earlier ones gave."""


@dataclass(frozen=True)
class ExactEvent:
    """Exact sums of the text: nothing bounds what they tell of a unit."""


PrivacyEvent = GaussianEvent | ExactEvent
