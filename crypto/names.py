"""Names that code, wire, metrics and documents share. A name is written once, here."""

from enum import StrEnum
from typing import Final, Literal

PROTOCOL: Final = "sparsilo/1"
"""Protocol version; the first field of every plan and part of every signed or derived context."""

AGGREGATOR: Final = "aggregator"
"""The party of an error that is the aggregator's fault; a silo is named instead."""


class Phase(StrEnum):
    """One step inside a round (docs/protocol.md, section 4)."""

    PLAN = "plan"
    KEYS = "keys"
    SHARES = "shares"
    UPLOAD = "upload"
    CONSISTENCY = "consistency"
    UNMASK = "unmask"
    OPENING = "opening"
    COIN = "coin"
    AUDIT = "audit"
    DONE = "done"
    ABORTED = "aborted"


class ReleaseKind(StrEnum):
    """What a round sums."""

    VOTES = "votes"
    WEIGHTS = "weights"
    SCALES = "scales"
    OUTLIERS = "outliers"
    SAMPLING = "sampling"
    EVALUATION = "evaluation"
    ENERGIES = "energies"
    GRAM = "gram"
    DENSE_TARGET = "dense_target"


class Backend(StrEnum):
    """How words are hidden on their way to the sum."""

    DOUBLE_MASKING = "double_masking"
    INSECURE_PLAINTEXT = "insecure_plaintext"


class Pruner(StrEnum):
    """How a silo scores weights."""

    MAGNITUDE = "magnitude"
    WANDA = "wanda"
    RIA = "ria"
    SPARSEGPT = "sparsegpt"
    ADMM = "admm"
    ALPS = "alps"
    SWAPS = "swaps"


class ComparisonGroup(StrEnum):
    """The set of weights among which the lowest are zeroed; `layer` is one weight matrix."""

    LAYER = "layer"
    ROW = "row"
    COLUMN = "column"


class Allocation(StrEnum):
    """How the sparsity ratio is spread over the blocks."""

    UNIFORM = "uniform"
    OWL = "owl"
    ALPHA = "alpha"


class GramInputs(StrEnum):
    """Of which inputs products of every two features are pooled; of all others squares."""

    ALL = "all"
    ATTENTION = "attention"


Bits = Literal[4, 8]
"""Of the integers that a quantised weight's levels are."""

BITS: Final[tuple[Bits, ...]] = (4, 8)


class Schedule(StrEnum):
    """How many times silos and aggregator meet: once, or once a block, which then is globally pruned for the next."""

    ONE_SHOT = "one-shot"
    ITERATIVE = "iterative"


class Suite(StrEnum):
    """The cryptographic algorithms of a plan, all or nothing."""

    DEFAULT = "mlkem768-x25519-ed25519-aes256-sha256"
    FIPS = "mlkem1024-p384-ecdsap384-aes256-sha2"
    """Approved algorithms only (FIPS 180-4, 186-5, 197, 202, 203; SP 800-56A), whatever module they run in."""

    @property
    def profile(self) -> str:
        """Its short name in configs and on command lines."""
        return self.name.lower()
