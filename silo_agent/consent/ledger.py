"""What this silo has released, and which further release it refuses (docs/protocol.md, section 2.5).

Sums over different survivors can be combined until little but one silo's values is left, however well each sum is
hidden (So et al., "Securing Secure Aggregation", arXiv 2106.03328). So all sums of what overlaps are over one and the
same survivors: take part together or not at all. Why no milder rule will do is in docs/adr/0028.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from crypto.errors import ReleaseRefused
from crypto.names import ReleaseKind
from crypto.plan import Plan
from crypto.releases.release_spec import release_spec
from crypto.secagg.round import Round

APART_IN_A_PLAN: Final = {ReleaseKind.GRAM, ReleaseKind.DENSE_TARGET}
"""Kinds whose rounds of one block and plan are about different tensors (2.4.14)."""


@dataclass(frozen=True)
class Release:
    """One round in which this silo agreed to release values."""

    round: bytes
    """The round's digest."""
    kind: str
    """The release kind, by its name: a ledger may have kinds that this version lacks."""
    data: bytes
    """SHA-256 of the calibration file."""
    silos: tuple[str, ...]
    """The silos that may take part: the roster, or the round's cohort."""
    least_survivors: int
    """Fewest of them whose sum may be opened."""
    block: int | None = None
    """The only block of the model that the round is about; None where it is about all."""
    sent: bool = False
    """Whether a masked word may have left."""
    confirmed: tuple[str, ...] = ()
    """The survivors that a quorum signed (5.5.3); none where this silo did not see those signatures."""
    ratios: tuple[str, ...] = ()
    """What each of `silos` is asked to prune to; none where all are asked for the same."""
    plan: bytes = b""
    """The plan's digest; empty in a release from before the ledger had it."""
    withdrawn: bool = False
    """Whether so many silos withdrew from the round that nobody can ever open its sum (2.5.15)."""

    @classmethod
    def of(cls, round_: Round, data: bytes) -> "Release":
        """Return the release of a round of which nothing has left. `data` is the SHA-256 of the calibration file."""
        plan = round_.plan
        return cls(
            *(round_.digest, plan.release_kind(round_.index), data, round_.silos, round_.least_survivors),
            plan.block(round_.index),
            ratios=plan.pruning.own_targets(round_.silos),
            plan=plan.digest,
        )

    @property
    def survivors(self) -> frozenset[str] | None:
        """The only silos that the opened sum can be over. None where that is not known (2.5.9)."""
        if self.confirmed:
            return frozenset(self.confirmed)
        return frozenset(self.silos) if self.least_survivors == len(self.silos) else None

    def asked_of(self, silos: frozenset[str]) -> dict[str, str]:
        """Return what each of these silos is asked to prune to; nothing where all are asked for the same."""
        return {silo: ratio for silo, ratio in zip(self.silos, self.ratios, strict=False) if silo in silos}

    def overlaps(self, other: "Release") -> bool:
        """Return whether both say the same kind of thing about the same text and weights in two rounds (2.5.7)."""
        same_block = None in (self.block, other.block) or self.block == other.block
        same_kind = _says(self.kind) == _says(other.kind)
        one_plan = self.plan == other.plan != b""
        apart = one_plan and {self.kind, other.kind} == APART_IN_A_PLAN
        return self.round != other.round and self.data == other.data and same_kind and same_block and not apart


def _says(kind: str) -> str:
    """Return what a release of the kind tells of the text. A kind that this version lacks is like no other."""
    return release_spec(ReleaseKind(kind)).says if kind in set(ReleaseKind) else kind


FORGOTTEN: Final = (
    "This silo no longer holds later rounds against that one. Whoever opened its sum may combine it with later ones of "
    "the same text until one silo's part is left. Forget a round only where all silos know that nobody opened its sum."
)
"""What taking a release out of the ledger risks, as `silo-agent ledger --forget` says it."""


def check_release(wanted: Release, releases: Sequence[Release]) -> None:
    """Check that the sum of a release can be over the survivors of all earlier ones that it overlaps (2.5.10), and asks
    all of them for another answer, or none (2.5.13).

    Raises ReleaseRefused where an earlier one's survivors are not known, or cannot be this round's; or where the
    silos' sparsity ratios are others, and were or are not the same for all.
    """
    for earlier in _sent(wanted, releases):
        name, survivors = earlier.round.hex()[:16], earlier.survivors
        if survivors is None:
            raise ReleaseRefused(
                f"this silo's words of round {name} left, and nobody told it which silos that sum is over",
                hint="sums over other silos can be combined to show one silo's part. Where nobody opened it, agents "
                "that run settle that among themselves. Else calibrate on another text; or, if all silos know that no "
                f"sum was opened, silo-agent ledger --forget {earlier.round.hex()}",
            )
        if not survivors <= {*wanted.silos} or len(survivors) < wanted.least_survivors:
            raise ReleaseRefused(
                f"this round cannot be over the survivors of round {name}, which is of the same text: "
                + ", ".join(sorted(survivors)),
                hint="plan it over a roster that has them all, with a threshold and least survivors that they reach",
            )
        if earlier.asked_of(survivors) != wanted.asked_of(survivors):
            raise ReleaseRefused(
                f"some silos' sparsity ratios are not those of round {name}, which is of the same text",
                hint="the difference of the sums would be of those silos alone. Where silos have ratios of their own, "
                "plan again with the same",
            )


def in_the_way(plan: Plan, data: bytes, releases: Sequence[Release]) -> str:
    """Return why a round of `plan` would be refused over this text as the ledger stands; empty where none would.

    A round whose silos are drawn is left out, as nobody knows them yet.
    """
    for index in range(len(plan.message.rounds)):
        if not plan.is_sampled(index):
            try:
                check_release(Release.of(Round(plan, index), data), releases)
            except ReleaseRefused as refused:
                return str(refused)
    return ""


def check_survivors(wanted: Release, survivors: Sequence[str], releases: Sequence[Release]) -> None:
    """Check, before this silo signs them, that a release's survivors are those of all earlier ones that it overlaps.

    Raises ReleaseRefused otherwise (2.5.11).
    """
    for earlier in _sent(wanted, releases):
        if earlier.survivors != frozenset(survivors):
            raise ReleaseRefused(
                f"the survivors are not those of round {earlier.round.hex()[:16]}, which is of the same text",
                hint="take part together or not at all: ask again when exactly those silos are there",
            )


def _sent(wanted: Release, releases: Sequence[Release]) -> list[Release]:
    """Return the releases in other rounds that the wanted one overlaps, of which words may have left, and whose sum
    may have been opened, or may yet be.
    """
    return [earlier for earlier in releases if earlier.sent and not earlier.withdrawn and earlier.overlaps(wanted)]
