"""What a mutation is: one small mistake in a file, and the tests that must notice it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutation:
    """`old`, which `file` holds exactly once, becomes `new`; `tests` (pytest arguments) must then fail."""

    kind: str
    file: str
    old: str
    new: str
    tests: str


SIGN, BOUND, INDEX = "flipped sign", "bound off by one", "index off by one"
TIE, ORDER = "dropped tie-break", "swapped order"
CHECK = "dropped check"
