"""The two interfaces of secure aggregation, and the machine that both roles of every backend run on.

A session holds the cryptography and knows no clock, disk or socket. A driver feeds it encoded messages, tells it when a
phase closes (time is a message), and carries what it answers. A backend is one transition table (`Table`) and one class
a role.

Bulk words never pass through the messages: while the phase is UPLOAD a silo's session lends `masked`, in AUDIT
`audit`, and once the masks are recovered the aggregator's session lends `unmask_chunk`. A driver may call them for
chunks in any order and from several threads.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from google.protobuf.message import Message

from crypto.encoding.wire import encode
from crypto.encoding.words import Words, word_bytes
from crypto.errors import (
    BadUpload,
    RoundAborted,
    SparsiloError,
    TooFewSurvivors,
    UnexpectedMessage,
)
from crypto.names import AGGREGATOR, Phase
from crypto.primitives import merkle
from crypto.secagg.messages import Bodies, decode_message
from crypto.secagg.round import Round
from sparsilo.v1 import round_pb2, words_pb2

Entropy = Callable[[int], bytes]
"""Returns n bytes from a cryptographic source; a parameter, so that the core has no global randomness."""


@dataclass(frozen=True)
class Exchange:
    """A phase's exchange: the silo's message, the aggregator's answer once the phase closes, and the next phase."""

    silo: str
    aggregator: str
    then: Phase


Table = Mapping[Phase, Exchange]


class SiloSession(ABC):
    """One silo's side of one round. A driver sends `message()` and hands over the answer, until the phase is DONE."""

    def __init__(self, table: Table, round_: Round, silo: str) -> None:
        self._table = table
        self.round = round_
        self.silo = silo
        self.phase = Phase.PLAN
        self.transcript = round_.transcript()
        self._leaves: dict[int, bytes] = {}
        self._sent: bytes | None = None

    @property
    def survivors(self) -> tuple[str, ...]:
        """The silos whose uploads make up the sum, from CONSISTENCY on; before that nobody."""
        return ()

    @property
    def assigned(self) -> Sequence[int]:
        """The chunks that this silo recomputes in AUDIT."""
        return ()

    def message(self) -> bytes:
        """Return this silo's message of the present phase; the same bytes however often it is asked for.

        Raises UnexpectedMessage where the phase has none.
        """
        exchange = self._exchange()
        if self._sent is None:
            try:
                body: dict[str, Any] = {exchange.silo: self._outgoing()}
            except SparsiloError:
                self.phase = Phase.ABORTED
                raise
            self._sent = encode(round_pb2.SiloMessage(round=self.round.digest, **body))
        return self._sent

    def receive(self, answer: bytes) -> None:
        """Check the aggregator's answer, take it in and enter the next phase.

        Raises UnexpectedMessage for what the table does not list, RoundAborted where the aggregator says so, and the
        ProtocolError that the message deserves. After any of them the session is ABORTED and says nothing more.
        """
        exchange = self._exchange()
        try:
            message = decode_message(round_pb2.AggregatorMessage, answer, self.round.digest, AGGREGATOR)
            kind = message.WhichOneof("body")
            if kind == "aborted":
                raise RoundAborted(f"{message.aborted.phase}: {message.aborted.reason}")
            if kind != exchange.aggregator:
                raise UnexpectedMessage(f"{kind} in phase {self.phase}", party=AGGREGATOR)
            body = getattr(message, kind)
            self._incoming(body)
            _note(self.transcript, kind, body)
        except SparsiloError:
            self.phase, self._sent = Phase.ABORTED, None
            raise
        self.phase, self._sent = exchange.then, None

    def masked(self, index: int, words: Words) -> bytes:
        """Hide one packed chunk, its header word first, in place; return the bytes to upload.

        Asked again for a chunk, as a retry does, it must be given the same words: a second plaintext under one mask
        would show the difference. Raises BadUpload otherwise, before the bytes leave (docs/protocol.md, 6.5.3).
        """
        if self.phase is not Phase.UPLOAD:
            raise RuntimeError("words are masked in UPLOAD only")
        self._mask(index, words)
        data = word_bytes(words)
        leaf = merkle.leaf(data)
        if self._leaves.setdefault(index, leaf) != leaf:
            self.phase, self._sent = Phase.ABORTED, None
            raise BadUpload(
                f"chunk {index} is not what was sent before",
                party=self.silo,
                hint="do not change files in the state folder during a round",
            )
        return data

    def check_held(self, chunks: int) -> None:
        """Check how many chunks the aggregator says it holds: no more than were masked (docs/protocol.md, 6.5.5).

        Raises BadUpload; the session is then ABORTED.
        """
        if not all(index in self._leaves for index in range(chunks)):
            self.phase, self._sent = Phase.ABORTED, None
            raise BadUpload(f"claims to hold {chunks} chunks, and was sent fewer", party=AGGREGATOR)

    def audit(self, index: int, committed: Iterable[words_pb2.CommittedChunk]) -> None:
        """Recompute, in AUDIT, an assigned chunk from what the survivors committed to. Raises BadAudit."""
        raise RuntimeError(f"chunk {index} and {committed} are not for this backend, which assigns none")

    @abstractmethod
    def _mask(self, index: int, words: Words) -> None:
        """Hide one packed chunk in place. It depends on nothing but the chunk, so threads may call it."""

    @abstractmethod
    def _outgoing(self) -> Message:
        """Return the body of this silo's message of the present phase."""

    @abstractmethod
    def _incoming(self, answer: Any) -> None:
        """Check the body of the aggregator's answer and take it in. Raises ProtocolError."""

    def _exchange(self) -> Exchange:
        if self.phase not in self._table:
            raise UnexpectedMessage(f"nothing may be exchanged in phase {self.phase}")
        return self._table[self.phase]

    @cached_property
    def _root(self) -> bytes:
        """The Merkle root over the uploaded chunks' bytes. Raises RuntimeError as long as some were not uploaded."""
        chunks = range(len(self.round.layout.chunks))
        if len(self._leaves) != len(chunks):
            raise RuntimeError("the driver closed UPLOAD before it uploaded")
        return merkle.root([self._leaves[index] for index in chunks])


class AggregatorSession(ABC):
    """The aggregator's side of one round. `expected` may speak; a driver closes a phase when they have, or in time."""

    def __init__(self, table: Table, round_: Round) -> None:
        self._table = table
        self.round = round_
        self.phase = Phase.PLAN
        self.expected: tuple[str, ...] = round_.silos
        self.survivors: tuple[str, ...] = ()
        self.dropped: dict[str, Phase] = {}
        self._messages: dict[str, bytes] = {}
        self.transcript = round_.transcript()
        self._roots: dict[str, bytes] = {}
        self.sum_root = b""

    @property
    def arrived(self) -> frozenset[str]:
        """The silos whose message of this phase is in."""
        return frozenset(self._messages)

    def receive(self, silo: str, data: bytes) -> None:
        """Take a silo's message of this phase. The same bytes again are harmless; others from that silo are refused.

        Raises the ProtocolError that it deserves; the round goes on as if it had not arrived.
        """
        if self.phase not in self._table or silo not in self.expected:
            raise UnexpectedMessage(f"has nothing to say in phase {self.phase}", party=silo)
        if silo in self._messages:
            if self._messages[silo] != data:
                raise UnexpectedMessage(f"spoke twice in phase {self.phase}, differently", party=silo)
            return
        body = self._body(silo, data)
        if self.phase is Phase.UPLOAD and self._roots.get(silo) != body.root:
            raise BadUpload("the signed root is not that of the uploaded chunks", party=silo)
        self._check(silo, body)
        self._messages[silo] = data

    def uploaded(self, silo: str, root: bytes) -> None:
        """Note that the driver holds all of a silo's chunks, and computed `root` over their bytes."""
        self._roots[silo] = root

    def upload_root(self, silo: str) -> bytes:
        """Return the root of a silo's upload, as the driver computed it."""
        return self._roots[silo]

    def recover(self) -> None:
        """Recover, before UNMASK is closed, what opens the sum; from then on `unmask_chunk` works.

        The driver then folds the uploads, unmasks the sum and calls `summed`. Raises TooFewSurvivors or BadShare.
        """
        self._enough(self._messages)

    def summed(self, root: bytes) -> None:
        """Note that the driver opened the sum, and computed the Merkle root over its chunks' bytes."""
        self.sum_root = root

    def may_audit(self, silo: str, index: int) -> bool:
        """Return whether, in AUDIT, a silo recomputes that chunk and may be given it."""
        raise RuntimeError(f"{silo} asks for chunk {index} of a backend that has no AUDIT")

    @property
    def audited_bytes(self) -> Mapping[str, int]:
        """How many bytes of words each auditor has to fetch in AUDIT."""
        return {}

    def close_phase(self) -> dict[str, bytes]:
        """Drop whoever has not spoken; return the answers to the others. Raises TooFewSurvivors naming the phase."""
        exchange = self._table[self.phase]
        bodies = Bodies({silo: self._messages[silo] for silo in self.expected if silo in self._messages}, self._body)
        self._enough(bodies)
        answers = self._close(bodies)
        if self.phase is Phase.UPLOAD:
            self.survivors = tuple(bodies)
        self.expected, self.phase = tuple(bodies), exchange.then
        self._messages = {}
        _note(self.transcript, exchange.aggregator, next(iter(answers.values())))
        encoded, told, same = {}, None, b""
        for silo in tuple(answers):  # most phases tell everybody the same; where not, each goes once it is encoded
            if (answer := answers.pop(silo)) is not told:
                told, same = answer, self._encoded(exchange.aggregator, answer)
            encoded[silo] = same
        return encoded

    def abort(self, reason: str) -> bytes:
        """End the round; return the message that tells every silo."""
        aborted = round_pb2.Aborted(phase=self.phase, reason=reason)
        self.phase = Phase.ABORTED
        return self._encoded("aborted", aborted)

    def _body(self, silo: str, data: bytes) -> Any:
        """Return the body of a silo's message of this phase. Raises MalformedMessage or UnexpectedMessage."""
        message = decode_message(round_pb2.SiloMessage, data, self.round.digest, silo)
        kind = message.WhichOneof("body")
        if kind != self._table[self.phase].silo:
            raise UnexpectedMessage(f"{kind} in phase {self.phase}", party=silo)
        return getattr(message, kind)

    def _encoded(self, field: str, body: Message) -> bytes:
        fields: dict[str, Any] = {field: body}
        return encode(round_pb2.AggregatorMessage(round=self.round.digest, **fields))

    @abstractmethod
    def unmask_chunk(self, index: int, words: Words) -> None:
        """Open, in place, what the backend folded of the survivors' uploads of one chunk."""

    @abstractmethod
    def _check(self, silo: str, body: Any) -> None:
        """Check the body of one silo's message of the present phase. Raises ProtocolError."""

    @abstractmethod
    def _close(self, bodies: Mapping[str, Any]) -> dict[str, Message]:
        """Return the body of each silo's answer, from the bodies of all messages of the present phase, by silo."""

    def _enough(self, spoke: Mapping[str, Any]) -> None:
        """Drop whoever did not speak. Raises TooFewSurvivors naming the phase."""
        self.dropped |= {silo: self.phase for silo in self.expected if silo not in spoke}
        fewest = self.fewest
        if len(spoke) < fewest:
            raise TooFewSurvivors(
                f"phase {self.phase}: {len(spoke)} of {len(self.round.silos)} silos answered and {fewest} are needed",
                hint=f"dropped: {', '.join(f'{silo} in {when}' for silo, when in sorted(self.dropped.items()))}",
            )

    @property
    def fewest(self) -> int:
        """How many silos the present phase needs: least survivors until they are fixed, then the threshold."""
        return self.round.threshold if self.survivors else self.round.least_survivors


def _note(transcript: round_pb2.Transcript, field: str, body: Message) -> None:
    if field in transcript.DESCRIPTOR.fields_by_name:  # what differs from silo to silo has none
        getattr(transcript, field).CopyFrom(body)
