"""One round of one silo as a sequence of calls to the aggregator, without making any of them.

`one_round` says what to send next and is told what came back; a transport, or a test's simulated network, carries it.
Whatever must be on disk before something leaves is on disk before its call is named.
"""

from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any

from crypto.encoding.layout import Chunk, pack_chunk
from crypto.encoding.wire import MESSAGE_LIMIT, decode, encode
from crypto.names import Phase
from crypto.secagg.session import SiloSession
from silo_agent.consent.ledger import Release, check_survivors
from silo_agent.consent.state_store import StateStore
from silo_agent.host.ahead import ahead
from silo_agent.network.calls import Advance, Call, Committed, Upload
from silo_agent.releases.silo_side import SiloRelease
from sparsilo.v1 import words_pb2


def one_round(
    session: SiloSession, prepare: Callable[[], SiloRelease], release: Release, store: StateStore, threads: int
) -> Generator[Call, Any, None]:
    """Yield the calls from PLAN to DONE; `prepare` computes what to release.

    Raises what the session, the store or `prepare` raises, and the round is then over for this silo.
    """
    round_ = session.round
    store.begin(release)
    values = prepare()

    def masked(chunk: Chunk) -> bytes:
        words = session.masked(chunk.index, pack_chunk(chunk, values.lanes(chunk)))
        return encode(words_pb2.WordChunk(round=round_.digest, index=chunk.index, words=words))

    def upload(held: int) -> Iterator[bytes]:
        session.check_held(held)
        return ahead(masked, round_.layout.chunks[held:], threads)

    def committed(index: int) -> Callable[[int], bytes]:
        return lambda offset: encode(words_pb2.CommittedRequest(round=round_.digest, index=index, offset=offset))

    def audit(index: int) -> Callable[[Iterable[bytes]], None]:
        return lambda pieces: session.audit(
            index, (decode(words_pb2.CommittedChunk, piece, MESSAGE_LIMIT, party="aggregator") for piece in pieces)
        )

    while session.phase is not Phase.DONE:
        match session.phase:
            case Phase.UPLOAD:
                store.send(release)
                yield Upload(encode(words_pb2.HeldRequest(round=round_.digest)), upload)
            case Phase.CONSISTENCY:
                check_survivors(release, session.survivors, store.releases())
            case Phase.UNMASK:
                store.confirm(release, session.survivors)
            case Phase.AUDIT:
                for index in session.assigned:
                    yield Committed(committed(index), audit(index))
        message = session.message()
        store.say(round_.digest, session.phase, message)
        session.receive((yield Advance(message)))
    store.confirm(release, session.survivors)  # a backend without CONSISTENCY knows them now only
