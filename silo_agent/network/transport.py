"""The agent's edge: one mTLS gRPC channel, dialled out. Bytes in, bytes out; what they mean is the session's business.

Every call may be repeated with the same bytes, so a lost connection is answered by calling again. A call waits for
the aggregator for at most POLL_SECONDS before it asks anew: a connection that died silently is noticed, and no proxy
on the way sees an idle stream.
"""

import hashlib
import logging
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from importlib.metadata import version
from pathlib import Path
from threading import Event
from time import monotonic
from typing import Any, Final, TypeVar

import grpc
from google.protobuf.message import Message

from crypto.encoding.wire import MESSAGE_LIMIT, decode, encode
from crypto.errors import (
    ConnectionFailed,
    IdentityError,
    ProtocolError,
    RoundAborted,
    SparsiloError,
    VersionsDiffer,
)
from crypto.identity import Certified
from silo_agent.host.metrics import SiloMetrics
from silo_agent.host.whole_file import sync
from silo_agent.network.calls import Advance, Call, Committed, Upload
from silo_agent.network.proxy import Proxy, dialling
from silo_agent.network.services import IDENTITY, OPTIONS, ROUNDS, SPOKEN, WORDS
from silo_agent.network.unreachable import by_clock, is_distrusted, out_of_time, unreachable
from sparsilo.v1 import round_pb2, words_pb2

CODE: Final = grpc.StatusCode
POLL_SECONDS: Final = 30.0
FIRST_DELAY: Final = 0.2
ANSWERS: Final[Mapping[grpc.StatusCode, Callable[[str], SparsiloError]]] = {
    CODE.UNAUTHENTICATED: lambda details: IdentityError(f"the aggregator refuses this silo: {details}"),
    CODE.PERMISSION_DENIED: lambda details: IdentityError(f"the aggregator refuses this silo: {details}"),
    CODE.FAILED_PRECONDITION: lambda details: ProtocolError(f"the aggregator refuses the message: {details}"),
    CODE.INVALID_ARGUMENT: lambda details: ProtocolError(f"the aggregator refuses the message: {details}"),
    CODE.ABORTED: RoundAborted,
    CODE.UNIMPLEMENTED: lambda details: VersionsDiffer(details, hint=f"this is sparsilo {version('sparsilo')}"),
}
"""What is wrong, by the status codes that answer what was sent, and from their details.

DEADLINE_EXCEEDED after POLL_SECONDS says that the aggregator is there and has no answer yet: the call is made again at
once. Every other code (UNAVAILABLE, RESOURCE_EXHAUSTED, CANCELLED, INTERNAL, UNKNOWN, ...) may come from the way or of
other silos' calls, and says nothing of what was sent: the call is made again with the same bytes, in growing steps,
until `reconnect_seconds` have passed without an answer.
"""

_Result = TypeVar("_Result")
_Reply = TypeVar("_Reply", bound=Message)
_log = logging.getLogger(__name__)


class Transport:
    """Close it when done. Methods raise ConnectionFailed, IdentityError, or what the aggregator answered."""

    def __init__(
        self,
        target: str,
        own: Certified,
        authority: bytes,
        metrics: SiloMetrics,
        *,
        proxy: Proxy | None = None,
        reconnect_seconds: float = 60.0,
        upload_rate: int = 0,
    ) -> None:
        """`upload_rate` is in bytes of masked words a second, at most; 0 sets no bound."""
        self._target, self._metrics, self._proxy = target, metrics, proxy
        self._reconnect_seconds, self._upload_rate = reconnect_seconds, upload_rate
        self._stopped = Event()
        self._lost_at: float | None = None
        self._up: bool | None = None
        self._out_of_time = ""
        self._down_since = 0.0
        self._channel = self._dialled(own, authority)

    def _dialled(self, own: Certified, authority: bytes) -> grpc.Channel:
        credentials = grpc.ssl_channel_credentials(authority, own.private_key, own.certificate)
        address, options = dialling(self._target, self._proxy)
        versions = ("grpc.primary_user_agent", " ".join(SPOKEN))
        return grpc.secure_channel(address, credentials, (*OPTIONS, versions, *options))

    def certify(self, own: Certified, authority: bytes) -> None:
        """Go on with another certificate; between calls only."""
        self._channel.close()
        self._channel = self._dialled(own, authority)

    # No (de)serialisers: bytes go to crypto/encoding/wire, which refuses what protobuf's own parser would let pass.

    def _simple(self, service: str, method: str) -> Any:
        return self._channel.unary_unary(f"/{service}/{method}")

    def close(self) -> None:
        """End the connection; a call under way fails."""
        self._stopped.set()
        self._channel.close()

    def next(self) -> round_pb2.Offer | None:
        """Return a round that needs this silo, or the end of everything; None without either for POLL_SECONDS."""
        call, message = self._simple(ROUNDS, "Next"), encode(round_pb2.NextRequest())
        offer = self._retried(lambda: call(self._sent(message), timeout=POLL_SECONDS), is_poll=True)
        return None if offer is None else decode(round_pb2.Offer, self._received(offer), MESSAGE_LIMIT)

    def decline(self, round_digest: bytes, reason: str) -> None:
        """Tell the aggregator not to wait for this silo in a round."""
        request = round_pb2.DeclineRequest(round=round_digest, reason=reason)
        self._unary(self._simple(ROUNDS, "Decline"), encode(request))

    def withdraw(self, round_digest: bytes, signature: bytes) -> list[tuple[str, bytes]]:
        """Tell the aggregator that this silo withdraws from a round; return who did, and their signatures."""
        request = round_pb2.WithdrawRequest(round=round_digest, signature=signature)
        answer = self._unary(self._simple(ROUNDS, "Withdraw"), encode(request))
        reply = decode(round_pb2.WithdrawReply, answer, MESSAGE_LIMIT)
        return [(signed.silo, signed.signature) for signed in reply.signatures]

    def identify(self, method: str, request: Message, reply: type[_Reply]) -> _Reply:
        """Make one call of the Identity service."""
        return decode(reply, self._unary(self._simple(IDENTITY, method), encode(request)), MESSAGE_LIMIT)

    def results(self) -> list[words_pb2.Result]:
        """Return the results that this silo may fetch."""
        reply = self._unary(self._simple(WORDS, "Results"), encode(words_pb2.ResultsRequest()))
        return list(decode(words_pb2.ResultsReply, reply, MESSAGE_LIMIT).results)

    def perform(self, call: Call) -> bytes | None:
        """Make one call of a round, and return the aggregator's answer where there is one."""
        match call:
            case Advance(message):
                return self._unary(self._simple(ROUNDS, "Advance"), message)
            case Upload(request, chunks):
                self._upload(request, chunks)
            case Committed(request_from, take):
                take(self._pieces("Committed", request_from))
        return None

    def _upload(self, request: bytes, chunks: Callable[[int], Iterator[bytes]]) -> None:
        own_errors: list[SparsiloError] = []
        most_held = 0
        upload: Any = self._channel.stream_unary(f"/{WORDS}/Upload")

        def watched(held: int) -> Iterator[bytes]:
            try:
                yield from self._paced(chunks(held))
            except SparsiloError as error:  # in the library's thread, which would say only that the stream broke
                own_errors.append(error)
                raise

        def attempt() -> bytes:
            nonlocal most_held
            reply = self._received(self._simple(WORDS, "Held")(self._sent(request), timeout=POLL_SECONDS))
            held = decode(words_pb2.HeldReply, reply, MESSAGE_LIMIT, party="aggregator").chunks
            if held > most_held:  # only what came through counts: whoever takes chunks and forgets them is given up
                most_held, self._lost_at = held, None
            try:
                return self._received(upload(map(self._sent, watched(held))))
            except grpc.RpcError:
                if own_errors:
                    raise own_errors[0] from None
                raise

        self._retried(attempt)

    def _paced(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        """Yield chunks, no faster than `upload_rate`."""
        due = monotonic()
        for chunk in chunks:
            self._stopped.wait(max(0.0, due - monotonic()))
            due = monotonic() + (len(chunk) / self._upload_rate if self._upload_rate else 0)
            yield chunk

    def candidate(self, digest: bytes, file: Path, most: int) -> None:
        """Download a candidate of at most `most` bytes and check it against its SHA-256; nothing is left where it does
        not match. What came before the connection was lost for good is left, for the next time.
        """
        part = file.with_suffix(".part")
        self.download(words_pb2.FileRequest(candidate=digest), part, most)
        with part.open("rb") as candidate:
            if hashlib.file_digest(candidate, "sha256").digest() != digest:
                part.unlink()
                raise ProtocolError("the candidate is not the one that was announced", party="aggregator")
        sync(part)
        part.replace(file)

    def download(self, request: words_pb2.FileRequest, file: Path, most: int) -> None:
        """Download what is missing of a file as the aggregator serves it: whether it is the right one is for the caller
        to check, who then deletes it.

        Raises ProtocolError, and deletes it, as soon as it has more than `most` bytes.
        """
        with file.open("ab") as out:

            def request_rest(_: int) -> bytes:
                request.offset = out.tell()
                return encode(request)

            with closing(self._pieces("File", request_rest)) as pieces:
                for piece in pieces:
                    data = decode(words_pb2.FilePiece, piece, MESSAGE_LIMIT, party="aggregator").data
                    if out.tell() + len(data) > most:
                        file.unlink()
                        raise ProtocolError(f"serves a file of more than {most} bytes", party="aggregator")
                    out.write(data)

    def _pieces(self, method: str, request: Callable[[int], bytes]) -> Generator[bytes, None, None]:
        """Yield what a method of Words streams. Where the connection is lost, go on after as many pieces as came."""
        served: Any = self._channel.unary_stream(f"/{WORDS}/{method}")
        came, stream = 0, None

        def next_piece() -> bytes | None:
            nonlocal stream
            if stream is None:
                stream = served(self._sent(request(came)))
            try:
                piece: bytes | None = next(stream, None)
            except grpc.RpcError:
                stream = None
                raise
            return piece

        try:
            while (piece := self._retried(next_piece)) is not None:
                came += 1
                yield self._received(piece)
        finally:
            if stream is not None:
                stream.cancel()

    def _unary(self, call: Callable[..., bytes], message: bytes) -> bytes:
        answer = self._retried(lambda: call(self._sent(message), timeout=POLL_SECONDS))
        if answer is None:
            raise AssertionError("only polls come to nothing")
        return self._received(answer)

    def _sent(self, data: bytes) -> bytes:
        self._metrics.sent_bytes.inc(len(data))
        return data

    def _received(self, data: bytes) -> bytes:
        self._metrics.received_bytes.inc(len(data))
        return data

    def _retried(self, attempt: Callable[[], _Result], *, is_poll: bool = False) -> _Result | None:
        """Return the result of an attempt that came through; None where the aggregator has nothing to say to a poll."""
        self._lost_at = None
        delay = FIRST_DELAY
        while True:
            began = monotonic()
            try:
                result = attempt()
            except grpc.RpcError as error:
                code, details = error.code(), error.details() or ""
                if code is CODE.DEADLINE_EXCEEDED and monotonic() - began > POLL_SECONDS / 2:
                    self._lost_at, delay = None, FIRST_DELAY  # the aggregator is there and has nothing to say yet
                    self._note_up(True)
                    if is_poll:
                        return None
                    continue
                self._metrics.connected.set(0)
                if code in ANSWERS:
                    raise ANSWERS[code](details) from None
                if self._lost_at is None:
                    self._lost_at, delay = monotonic(), FIRST_DELAY
                if monotonic() - self._lost_at > self._reconnect_seconds or is_distrusted(details):
                    where = f"{self._target}, through the proxy {self._proxy}" if self._proxy else self._target
                    answer = "" if code is CODE.UNAVAILABLE else code.name
                    raise unreachable(where, answer, details) from None
                self._note_up(False, out_of_time(details))
                if self._stopped.wait(delay):
                    raise ConnectionFailed("stopped while reconnecting") from None
                delay = min(2 * delay, 5.0)
            else:
                self._note_up(True)
                return result

    def _note_up(self, up: bool, why: str = "") -> None:
        """Note whether the aggregator answers: a line in the log when that changes, and not for each attempt.

        `why` says what is wrong where this machine's clock does not let its certificate pass.
        """
        self._metrics.connected.set(up)
        if why and why != self._out_of_time:
            _log.warning("%s: %s; trying again", self._target, by_clock(why))
        self._out_of_time = why
        was, self._up = self._up, up
        if up is was:
            return
        if not up:
            self._down_since = monotonic()
            _log.warning("connection to %s %s: trying again", self._target, "lost" if was else "cannot be made")
        elif was is None:
            _log.info("connected to %s", self._target)
        else:
            _log.info("connection to %s back after %d s", self._target, monotonic() - self._down_since)
