"""No secrecy at all: the words travel as they are. For comparison with `double_masking`; both roles refuse it unless
asked by name.
"""

from collections.abc import Mapping
from typing import Any, Final

from google.protobuf.message import Message

from crypto.encoding.words import Words
from crypto.names import Phase
from crypto.secagg.round import Round
from crypto.secagg.session import AggregatorSession, Exchange, SiloSession, Table
from sparsilo.v1 import round_pb2

TABLE: Final[Table] = {
    Phase.PLAN: Exchange(silo="acceptance", aggregator="participants", then=Phase.UPLOAD),
    Phase.UPLOAD: Exchange(silo="upload_root", aggregator="survivors", then=Phase.DONE),
}


class InsecurePlaintextSilo(SiloSession):
    """A silo that sends its words in the clear."""

    def __init__(self, round_: Round, silo: str) -> None:
        super().__init__(TABLE, round_, silo)
        self._survivors: tuple[str, ...] = ()

    @property
    def survivors(self) -> tuple[str, ...]:
        """The silos whose words are in the sum, at the end and if the aggregator tells the truth."""
        return self._survivors

    def _mask(self, index: int, words: Words) -> None:
        """Leave the words as they are."""

    def _outgoing(self) -> Message:
        return round_pb2.Acceptance() if self.phase is Phase.PLAN else round_pb2.UploadRoot(root=self._root)

    def _incoming(self, answer: Any) -> None:
        """Take from the last answer who survived; nobody signed it."""
        if self.phase is Phase.UPLOAD:
            self._survivors = tuple(root.silo for root in answer.roots)


class InsecurePlaintextAggregator(AggregatorSession):
    """An aggregator that sees every silo's words."""

    def __init__(self, round_: Round) -> None:
        super().__init__(TABLE, round_)

    def recover(self) -> None:
        """There is nothing to recover."""

    def unmask_chunk(self, index: int, words: Words) -> None:
        """There is nothing to remove."""

    def _check(self, silo: str, body: Any) -> None:
        """There is nothing to check but the root, which every backend has."""

    def _close(self, bodies: Mapping[str, Any]) -> dict[str, Message]:
        roots = [round_pb2.SignedRoot(silo=silo) for silo in bodies]
        answer = round_pb2.Participants() if self.phase is Phase.PLAN else round_pb2.Survivors(roots=roots)
        return dict.fromkeys(bodies, answer)
