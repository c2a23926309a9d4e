"""The two interfaces of secure aggregation, and the machine that both roles of every backend run on.

A session holds the cryptography and knows no clock, disk or socket. A driver feeds it encoded messages, tells it when a
phase closes (time is a message), and carries what it answers. A backend is one transition table (`Table`) and one file
a role.

Bulk words never pass through here: while the phase is UPLOAD a silo's session lends `mask_chunk`, and after the
unmask the aggregator's session lends `unmask_chunk`. Both are pure functions of the chunk, so a driver may call them
in any order and thread.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from google.protobuf.message import Message
from numpy.typing import NDArray

from crypto.errors import (
    BadUpload,
    MalformedMessage,
    RoundAborted,
    SparsiloError,
    TooFewSurvivors,
    UnexpectedMessage,
)
from crypto.names import Phase
from crypto.plan import Plan
from crypto.secagg.wire import decode, encode
from sparsilo.v1 import round_pb2

MAX_MESSAGE_BYTES: Final = 1 << 22
"""Of one control message; the largest, a sealed share for each of 200 silos, is under 300 KB."""

Words = NDArray[np.uint64]
Entropy = Callable[[int], bytes]
"""n -> n bytes from a cryptographic source; a parameter, so that the core has no global randomness."""


@dataclass(frozen=True)
class Exchange:
    """What a phase exchanges: the silo's message, the aggregator's answer once the phase closes, and the next phase."""

    silo: str
    aggregator: str
    then: Phase


Table = Mapping[Phase, Exchange]


@dataclass(frozen=True)
class Round:
    """The context that everything in a round is bound to."""

    plan: Plan
    index: int
    input_digest: bytes
    """SHA-256 of the keep mask that the round starts from; empty where it starts from the dense model."""

    @property
    def digest(self) -> bytes:
        """32 bytes: plan, index and input (docs/protocol.md, section 2)."""
        return self.plan.round_digest(self.index, self.input_digest)


class SiloSession(ABC):
    """One silo's side of one round. Repeat: `message()`, send it, `receive(answer)`, until the phase is DONE."""

    def __init__(self, table: Table, round_: Round, silo: str) -> None:
        self._table = table
        self.round = round_
        self.silo = silo
        self.phase = Phase.PLAN
        self._root: bytes | None = None
        self._sent: bytes | None = None

    def message(self) -> bytes:
        """This silo's message of the present phase; the same bytes however often it is asked for."""
        if self._sent is None:
            exchange = self._exchange()
            try:
                body: dict[str, Any] = {exchange.silo: self._outgoing()[self.phase]()}
            except SparsiloError:
                self.phase = Phase.ABORTED
                raise
            self._sent = encode(round_pb2.SiloMessage(round=self.round.digest, **body))
        return self._sent

    def receive(self, answer: bytes) -> None:
        """The aggregator's answer: checked, taken in, and the next phase entered.

        Raises UnexpectedMessage for what the table does not list, RoundAborted where the aggregator says so, and the
        ProtocolError that the message deserves. After any of them the session is ABORTED and says nothing more.
        """
        exchange = self._exchange()
        try:
            message = _decode_round(round_pb2.AggregatorMessage, answer, self.round.digest, "aggregator")
            kind = message.WhichOneof("body")
            if kind == "aborted":
                raise RoundAborted(f"{message.aborted.phase}: {message.aborted.reason}")
            if kind != exchange.aggregator:
                raise UnexpectedMessage(f"{kind} in phase {self.phase}", party="aggregator")
            self._incoming()[self.phase](getattr(message, kind))
        except SparsiloError:
            self.phase, self._sent = Phase.ABORTED, None
            raise
        self.phase, self._sent = exchange.then, None

    def uploaded(self, root: bytes) -> None:
        """All chunks were handed over; `root` is the Merkle root over their bytes, which the UPLOAD message signs."""
        self._root = root

    @abstractmethod
    def mask_chunk(self, index: int, words: Words) -> None:
        """Hide one packed chunk in place; its header word is the first."""

    @abstractmethod
    def _outgoing(self) -> Mapping[Phase, Callable[[], Message]]: ...

    @abstractmethod
    def _incoming(self) -> Mapping[Phase, Callable[[Any], None]]: ...

    def _exchange(self) -> Exchange:
        if self.phase not in self._table:
            raise UnexpectedMessage(f"nothing may be exchanged in phase {self.phase}")
        return self._table[self.phase]

    def _own_root(self) -> bytes:
        if self._root is None:
            raise RuntimeError("the driver closed UPLOAD before it uploaded")
        return self._root


class AggregatorSession(ABC):
    """The aggregator's side of one round. `expected` may speak; when they have, or time is up, `close_phase()`."""

    def __init__(self, table: Table, round_: Round) -> None:
        self._table = table
        self.round = round_
        self.phase = Phase.PLAN
        self.expected: tuple[str, ...] = round_.plan.silos
        self.survivors: tuple[str, ...] = ()
        self.dropped: dict[str, Phase] = {}
        self._messages: dict[str, tuple[bytes, Any]] = {}
        self._roots: dict[str, bytes] = {}

    @property
    def arrived(self) -> frozenset[str]:
        """The silos whose message of this phase is in."""
        return frozenset(self._messages)

    def receive(self, silo: str, data: bytes) -> None:
        """A silo's message of this phase. The same bytes again are harmless; anything else from that silo is refused.

        Raises the ProtocolError that it deserves; the round goes on as if it had not arrived.
        """
        if self.phase not in self._table or silo not in self.expected:
            raise UnexpectedMessage(f"has nothing to say in phase {self.phase}", party=silo)
        if silo in self._messages:
            if self._messages[silo][0] != data:
                raise UnexpectedMessage(f"spoke twice in phase {self.phase}, differently", party=silo)
            return
        message = _decode_round(round_pb2.SiloMessage, data, self.round.digest, silo)
        kind = message.WhichOneof("body")
        if kind != self._table[self.phase].silo:
            raise UnexpectedMessage(f"{kind} in phase {self.phase}", party=silo)
        body = getattr(message, kind)
        self._checks()[self.phase](silo, body)
        self._messages[silo] = (data, body)

    def uploaded(self, silo: str, root: bytes) -> None:
        """The driver holds all of a silo's chunks and computed `root` over their bytes."""
        self._roots[silo] = root

    def close_phase(self) -> dict[str, bytes]:
        """Whoever has not spoken is dropped; the answers to those who have. Raises TooFewSurvivors naming the phase."""
        exchange = self._table[self.phase]
        bodies = {silo: self._messages[silo][1] for silo in self.expected if silo in self._messages}
        self.dropped |= {silo: self.phase for silo in self.expected if silo not in bodies}
        fewest = self._fewest()
        if len(bodies) < fewest:
            raise TooFewSurvivors(
                f"phase {self.phase}: {len(bodies)} of {len(self.round.plan.silos)} silos answered and {fewest} are "
                "needed",
                hint=f"dropped: {', '.join(f'{silo} in {when}' for silo, when in sorted(self.dropped.items()))}",
            )
        answers = self._closing()[self.phase](bodies)
        self.expected, self.phase = tuple(bodies), exchange.then
        self._messages = {}
        return {silo: self._encoded(exchange.aggregator, answer) for silo, answer in answers.items()}

    def abort(self, reason: str) -> bytes:
        """End the round; the message to tell every silo."""
        aborted = round_pb2.Aborted(phase=self.phase, reason=reason)
        self.phase = Phase.ABORTED
        return self._encoded("aborted", aborted)

    def _encoded(self, field: str, body: Message) -> bytes:
        fields: dict[str, Any] = {field: body}
        return encode(round_pb2.AggregatorMessage(round=self.round.digest, **fields))

    @abstractmethod
    def unmask_chunk(self, index: int, words: Words) -> None:
        """Open, in place, the sum of the survivors' masked words of one chunk."""

    @abstractmethod
    def _checks(self) -> Mapping[Phase, Callable[[str, Any], None]]: ...

    @abstractmethod
    def _closing(self) -> Mapping[Phase, Callable[[dict[str, Any]], dict[str, Message]]]: ...

    def _fewest(self) -> int:
        """How many silos the present phase needs: the least survivors until they are fixed, then the threshold."""
        plan = self.round.plan.message
        return plan.threshold if self.survivors else plan.least_survivors

    def _check_root(self, silo: str, root: bytes) -> None:
        if self._roots.get(silo) != root:
            raise BadUpload("the signed root is not that of the uploaded chunks", party=silo)


def _decode_round(kind: Any, data: bytes, digest: bytes, party: str) -> Any:
    message = decode(kind, data, MAX_MESSAGE_BYTES, party=party)
    if message.WhichOneof("body") is None:
        raise MalformedMessage("the message has no body", party=party)
    if message.round != digest:
        raise UnexpectedMessage("the message belongs to another round or plan", party=party)
    return message
