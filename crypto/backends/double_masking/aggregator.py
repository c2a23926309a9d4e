"""The aggregator's side of `double_masking` (docs/protocol.md, section 5).

It routes, counts who is left, and at the end can remove masks from the sum over the survivors, and from nothing else.
"""

from collections.abc import Mapping
from typing import Any

from google.protobuf.message import Message

from crypto.backends.double_masking.audit import CollectingCoins, CollectingOpeningSignatures, CollectingVerdicts
from crypto.backends.double_masking.key_agreement import CollectingKeys, RoutingSeeds, RoutingShares
from crypto.backends.double_masking.phases import TABLE
from crypto.backends.double_masking.unmasking import (
    CollectingShares,
    CollectingSurvivorsSignatures,
    CollectingUploads,
    Recovered,
)
from crypto.encoding.words import Words
from crypto.names import Phase
from crypto.secagg.messages import Bodies
from crypto.secagg.round import Round
from crypto.secagg.session import AggregatorSession

Known = (
    CollectingKeys
    | RoutingSeeds
    | RoutingShares
    | CollectingUploads
    | CollectingSurvivorsSignatures
    | CollectingShares
    | Recovered
    | CollectingOpeningSignatures
    | CollectingCoins
    | CollectingVerdicts
)
"""What the aggregator knows in one phase."""


class DoubleMaskingAggregator(AggregatorSession):
    """The aggregator's session holds no secret until t silos reveal shares, and then only what opens the sum.

    All it knows in a phase is one value; closing the phase replaces it by the next.
    """

    def __init__(self, round_: Round) -> None:
        super().__init__(TABLE, round_)
        self._known: Known = CollectingKeys(round_)
        self._unmask = _nothing_recovered

    def recover(self) -> None:
        """Combine the revealed shares into the seeds that open the sum (5.6.4). Raises TooFewSurvivors or BadShare."""
        super().recover()
        if isinstance(self._known, CollectingShares):
            recovered = self._known.recover(Bodies(self._messages, self._body))
            self._known, self._unmask = recovered, recovered.unmask

    def unmask_chunk(self, index: int, words: Words) -> None:
        """Open, in place, the sum of the survivors' masked words of one chunk (section 6)."""
        self._unmask(index, words)

    def summed(self, root: bytes) -> None:
        """Note the Merkle root over the opened sum's chunks, which the opening names (5.6.5)."""
        super().summed(root)
        if isinstance(self._known, Recovered):
            self._known = self._known.summed(root)

    def may_audit(self, silo: str, index: int) -> bool:
        """Return whether, in AUDIT, the joint coin gave the chunk to that silo (5.9.1)."""
        return (
            self.phase is Phase.AUDIT
            and isinstance(self._known, CollectingVerdicts)
            and self._known.may_audit(silo, index)
        )

    @property
    def audited_bytes(self) -> Mapping[str, int]:
        """How many bytes of words each auditor has to fetch in AUDIT: of its chunks every survivor's, and the sum's."""
        assigned = self._known.assigned_bytes if isinstance(self._known, CollectingVerdicts) else {}
        return {silo: size * (len(self.survivors) + 1) for silo, size in assigned.items()}

    def _check(self, silo: str, body: Any) -> None:
        self._known.check(silo, body)

    def _close(self, bodies: Mapping[str, Any]) -> dict[str, Message]:
        answers, self._known = self._known.close(bodies)
        return answers

    @property
    def fewest(self) -> int:
        """How many silos the present phase needs."""
        # A missing coin would let whoever withholds it choose between two assignments (5.8.3).
        return len(self.expected) if self.phase is Phase.COIN else super().fewest


def _nothing_recovered(index: int, words: Words) -> None:
    raise RuntimeError(f"the driver opens {len(words)} words of chunk {index} before it recovered the masks")
