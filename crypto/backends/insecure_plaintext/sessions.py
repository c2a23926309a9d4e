"""No secrecy at all: the words travel as they are. For comparison with `double_masking`; both roles refuse it unless
asked by name.
"""

from collections.abc import Callable, Mapping
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
    """Sends its words in the clear."""

    def __init__(self, round_: Round, silo: str) -> None:
        super().__init__(TABLE, round_, silo)

    def _mask(self, index: int, words: Words) -> None:
        """Leaves the words as they are."""

    def _outgoing(self) -> Mapping[Phase, Callable[[], Message]]:
        return {Phase.PLAN: round_pb2.Acceptance, Phase.UPLOAD: lambda: round_pb2.UploadRoot(root=self._root)}

    def _incoming(self) -> Mapping[Phase, Callable[[Any], None]]:
        return {Phase.PLAN: lambda _: None, Phase.UPLOAD: lambda _: None}


class InsecurePlaintextAggregator(AggregatorSession):
    """Sees every silo's words."""

    def __init__(self, round_: Round) -> None:
        super().__init__(TABLE, round_)

    def recover(self) -> None:
        """There is nothing to recover."""

    def unmask_chunk(self, index: int, words: Words) -> None:
        """There is nothing to remove."""

    def _checks(self) -> Mapping[Phase, Callable[[str, Any], None]]:
        return {
            Phase.PLAN: lambda _silo, _body: None,
            Phase.UPLOAD: lambda silo, body: self._check_root(silo, body.root),
        }

    def _closing(self) -> Mapping[Phase, Callable[[dict[str, Any]], dict[str, Message]]]:
        return {
            Phase.PLAN: lambda bodies: {silo: round_pb2.Participants() for silo in bodies},
            Phase.UPLOAD: self._fix_survivors,
        }

    def _fix_survivors(self, bodies: dict[str, Any]) -> dict[str, Message]:
        self.survivors = tuple(bodies)
        return {silo: round_pb2.Survivors() for silo in bodies}
