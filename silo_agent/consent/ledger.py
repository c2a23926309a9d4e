"""What this silo has released, and which further release it refuses (docs/protocol.md, section 2.5).

Two sums that differ by one silo give that silo's values as their difference, however well each is hidden (So et al.,
"Securing Secure Aggregation", arXiv 2106.03328). So the same question is answered once. And no two releases of the same
text may be over rosters or survivors that differ by one silo, or by one and the plan's colluders, who know their own
part.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from crypto.errors import ReleaseRefused
from crypto.names import ReleaseKind
from crypto.releases.release_spec import release_spec


@dataclass(frozen=True)
class Release:
    """One round in which this silo's values left in masked words."""

    round: bytes
    """The round's digest."""
    question: bytes
    """SHA-256 of what was asked of the text, whoever asked (2.5.1)."""
    kind: str
    """The release kind, by its name: a ledger may have kinds that this version lacks."""
    data: bytes
    """SHA-256 of the calibration file."""
    roster: tuple[str, ...]
    """The silos that the round was over."""
    survivors: tuple[str, ...] = ()
    """The survivors that this silo signed; none where it did not come to that."""
    colluders: int = 0
    """How many dishonest silos the plan withstands beside the aggregator."""
    block: int | None = None
    """The only block of the model that the round is about; None where it is about all."""

    def overlaps(self, other: "Release") -> bool:
        """Return whether both say the same kind of thing about the same weights, so that their difference would say it
        about one silo (2.5.5).
        """
        same_block = None in (self.block, other.block) or self.block == other.block
        return _says(self.kind) == _says(other.kind) and same_block


def _says(kind: str) -> str:
    """Return what a release of the kind tells of the text. A kind that this version lacks is like no other."""
    return release_spec(ReleaseKind(kind)).says if kind in set(ReleaseKind) else kind


FORGOTTEN: Final = (
    "This silo no longer refuses to answer the same again. The sum of that round stays known, and one of a later round "
    "may differ from it by one silo: whoever has both then has that silo's part as their difference."
)
"""What taking a release out of the ledger risks, as `silo-agent ledger --forget` says it."""


def are_close(some: Iterable[str], others: Iterable[str], colluders: int) -> bool:
    """Return whether two sets of silos differ, and each lacks at most 1 + `colluders` of the other's silos (2.5.4)."""
    added, removed = {*some} - {*others}, {*others} - {*some}
    return 1 <= max(len(added), len(removed)) <= 1 + colluders


def check_release(wanted: Release, released: Sequence[Release]) -> None:
    """Check a release against all earlier ones, before anything is computed for it.

    Raises ReleaseRefused where the same was asked of the same text before, or the roster is close to an earlier one.
    """
    for earlier in _of_the_same_data(wanted, released):
        if earlier.question == wanted.question:
            raise ReleaseRefused(
                f"the same was asked of the same text in round {earlier.round.hex()[:16]}",
                hint="the sum of that round stands; two could show one silo's part as their difference",
            )
        colluders = max(earlier.colluders, wanted.colluders)
        if are_close(earlier.roster, wanted.roster, colluders):
            raise ReleaseRefused(
                f"the roster differs by {_up_to(colluders)} from that of round {earlier.round.hex()[:16]}",
                hint="the difference of the two sums could be one silo's part; change more silos, or none",
            )


def check_survivors(wanted: Release, survivors: Sequence[str], released: Sequence[Release]) -> None:
    """Check a release's survivors against all earlier ones, before this silo signs them.

    Raises ReleaseRefused where an earlier release that overlaps was over survivors that are close to these.
    """
    for earlier in _of_the_same_data(wanted, released):
        if not (earlier.survivors and earlier.overlaps(wanted)):
            continue
        colluders = max(earlier.colluders, wanted.colluders)
        if are_close(earlier.survivors, survivors, colluders):
            raise ReleaseRefused(
                f"the survivors differ by {_up_to(colluders)} from those of round {earlier.round.hex()[:16]}",
                hint="the difference of the two sums could be one silo's part",
            )


def _up_to(colluders: int) -> str:
    """Return in words how many silos two close sets may differ by."""
    return f"up to {1 + colluders} silos" if colluders else "one silo"


def _of_the_same_data(wanted: Release, released: Sequence[Release]) -> list[Release]:
    """Return the releases of the same text in other rounds."""
    return [earlier for earlier in released if earlier.data == wanted.data and earlier.round != wanted.round]
