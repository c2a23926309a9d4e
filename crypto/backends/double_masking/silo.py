"""The silo's side of `double_masking` (docs/protocol.md, section 5)."""

from collections.abc import Iterable, Sequence
from typing import Any

from google.protobuf.message import Message

from crypto.backends.double_masking.audit import Audited, Opened, Tossed
from crypto.backends.double_masking.key_agreement import Accepted, Contributed, Secrets, Shared
from crypto.backends.double_masking.phases import TABLE
from crypto.backends.double_masking.transcript import SEED_BYTES
from crypto.backends.double_masking.unmasking import Fixed, Masked, Revealed, Uploaded
from crypto.encoding.words import Words
from crypto.errors import SparsiloError
from crypto.names import Phase
from crypto.primitives.sealed import SealingKey
from crypto.primitives.signing import SigningKey
from crypto.secagg.round import Round
from crypto.secagg.session import Entropy, SiloSession
from sparsilo.v1 import words_pb2

Speaking = Accepted | Contributed | Shared | Uploaded | Fixed | Revealed | Opened | Tossed | Audited
"""What a silo can say its phase's message from."""


class DoubleMaskingSilo(SiloSession):
    """The silo's session; all it knows in a phase is one value, and each answer replaces it by the next."""

    def __init__(self, round_: Round, silo: str, signing_key: SigningKey, entropy: Entropy) -> None:
        super().__init__(TABLE, round_, silo)
        sealing_key = SealingKey.generate(round_.plan.suite)
        secrets = Secrets(sealing_key, entropy(SEED_BYTES), entropy(SEED_BYTES), entropy(SEED_BYTES))
        self._known: Speaking | Masked = Accepted(round_, silo, signing_key, entropy, secrets)
        self._recomputed: set[int] = set()

    @property
    def survivors(self) -> tuple[str, ...]:
        """The silos whose uploads make up the sum, from CONSISTENCY on; before that nobody."""
        match self._known:
            case Fixed() | Revealed() | Opened() | Tossed() | Audited():
                return self._known.survivors
            case _:
                return ()

    @property
    def assigned(self) -> Sequence[int]:
        """The chunks that the joint coin gave to this silo, ascending. Raises RuntimeError before AUDIT."""
        return self._audited.assigned

    def audit(self, index: int, committed: Iterable[words_pb2.CommittedChunk]) -> None:
        """Recompute one chunk (5.9.2). Raises BadAudit, after which nothing more is said."""
        if self.phase is not Phase.AUDIT:
            raise RuntimeError("chunks are recomputed in AUDIT only")
        try:
            self._audited.replay.chunk(index, committed)
        except SparsiloError:  # also a piece that is no message at all
            self.phase = Phase.ABORTED
            raise
        self._recomputed.add(index)

    def _mask(self, index: int, words: Words) -> None:
        if not isinstance(self._known, Masked):
            raise RuntimeError("words are masked in UPLOAD only")
        self._known.mask(index, words)

    def _outgoing(self) -> Message:
        if self.phase is Phase.AUDIT and self._recomputed != {*self.assigned}:
            raise RuntimeError("the driver closed AUDIT before it had every assigned chunk recomputed")
        return self._speaking.message()

    def _incoming(self, answer: Any) -> None:
        self._known = self._speaking.receive(answer)

    @property
    def _speaking(self) -> Speaking:
        """What is known; in UPLOAD with the root of all that was uploaded, and only then."""
        return self._known.uploaded(self._root) if isinstance(self._known, Masked) else self._known

    @property
    def _audited(self) -> Audited:
        if not isinstance(self._known, Audited):
            raise RuntimeError("chunks are assigned in AUDIT only")
        return self._known
