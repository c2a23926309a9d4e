"""The agent's edge: one mTLS gRPC channel, dialled out. Bytes in, bytes out; what they mean is the session's business.

Every call may be repeated with the same bytes, so a lost connection is answered by calling again. A call waits for
the aggregator for at most POLL_SECONDS before it asks anew: a connection that died silently is noticed, and no proxy
on the way sees an idle stream.
"""

import logging
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from threading import Event
from time import monotonic
from typing import Any, Final, TypeVar

import grpc

from crypto.errors import ConnectionFailed, IdentityError, ProtocolError, RoundAborted, SparsiloError
from crypto.identity import Certified
from crypto.secagg.wire import MESSAGE_LIMIT, decode, encode
from silo_agent.metrics import RoundMetrics
from silo_agent.one_round import Advance, Call, Committed, Upload
from silo_agent.pruned_file import file_digest
from sparsilo.v1 import round_pb2, words_pb2

POLL_SECONDS: Final = 30.0
RECONNECT_SECONDS = 60.0
"""How long a lost connection may stay away."""
FIRST_DELAY: Final = 0.2

OPTIONS: Final = (
    ("grpc.max_send_message_length", MESSAGE_LIMIT),
    ("grpc.max_receive_message_length", MESSAGE_LIMIT),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    # gRPC would take a proxy from the environment, and silently go direct where it does not understand it.
    ("grpc.enable_http_proxy", 0),
)
ROUNDS: Final = round_pb2.DESCRIPTOR.services_by_name["Rounds"].full_name
WORDS: Final = words_pb2.DESCRIPTOR.services_by_name["Words"].full_name

_Result = TypeVar("_Result")
_log = logging.getLogger(__name__)


class Transport:
    """Close it when done. Methods raise ConnectionFailed, IdentityError, or what the aggregator answered."""

    def __init__(self, target: str, own: Certified, authority: bytes, metrics: RoundMetrics) -> None:
        credentials = grpc.ssl_channel_credentials(authority, own.private_key, own.certificate)
        self._target, self._metrics = target, metrics
        self._channel = grpc.secure_channel(target, credentials, OPTIONS)
        # No (de)serialisers: bytes go to crypto/secagg/wire, which refuses what protobuf's own parser would let pass.
        self._next: Any = self._channel.unary_unary(f"/{ROUNDS}/Next")
        self._advance: Any = self._channel.unary_unary(f"/{ROUNDS}/Advance")
        self._upload: Any = self._channel.stream_unary(f"/{WORDS}/Upload")
        self._committed: Any = self._channel.unary_stream(f"/{WORDS}/Committed")
        self._file: Any = self._channel.unary_stream(f"/{WORDS}/File")
        self._stopped = Event()
        self._lost_at: float | None = None

    def close(self) -> None:
        """End the connection; a call under way fails."""
        self._stopped.set()
        self._channel.close()

    def next(self) -> round_pb2.Offer:
        """Waits for a round that needs this silo, or for the end of everything."""
        return decode(round_pb2.Offer, self._unary(self._next, encode(round_pb2.NextRequest())), MESSAGE_LIMIT)

    def perform(self, call: Call) -> bytes | None:
        """Carries one call of a round; the aggregator's answer where there is one."""
        match call:
            case Advance(message):
                return self._unary(self._advance, message)
            case Upload(chunks):
                self._upload_all(chunks)
            case Committed(request, take):
                self._retried(lambda: take(map(self._received, self._committed(self._sent(request)))))
        return None

    def _upload_all(self, chunks: Callable[[], Iterator[bytes]]) -> None:
        own_errors: list[SparsiloError] = []

        def watched() -> Iterator[bytes]:
            try:
                yield from chunks()
            except SparsiloError as error:  # in the library's thread, which would say only that the stream broke
                own_errors.append(error)
                raise

        def attempt() -> bytes:
            try:
                receipt: bytes = self._upload(self._counted(watched()))
            except grpc.RpcError:
                if own_errors:
                    raise own_errors[0] from None
                raise
            return receipt

        self._received(self._retried(attempt))

    def candidate(self, digest: bytes, file: Path) -> None:
        """Downloads a candidate and checks it against its SHA-256; nothing is left where it does not match."""
        part = file.with_suffix(".part")
        self.download(words_pb2.FileRequest(candidate=digest), part)
        if file_digest(part) != digest:
            part.unlink()
            raise ProtocolError("the candidate is not the one that was announced", party="aggregator")
        part.replace(file)

    def download(self, request: words_pb2.FileRequest, file: Path) -> None:
        """A file as the aggregator serves it: whether it is the right one is for the caller to check."""

        def attempt() -> None:
            with file.open("wb") as out:
                for piece in self._file(self._sent(encode(request))):
                    out.write(decode(words_pb2.FilePiece, self._received(piece), MESSAGE_LIMIT).data)

        self._retried(attempt)

    def _unary(self, call: Callable[..., bytes], message: bytes) -> bytes:
        return self._received(self._retried(lambda: call(self._sent(message), timeout=POLL_SECONDS)))

    def _counted(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        for index, chunk in enumerate(chunks):
            if index:  # the library asks for a second one only when the first is on its way
                self._lost_at = None
            yield self._sent(chunk)

    def _sent(self, data: bytes) -> bytes:
        self._metrics.sent_bytes.inc(len(data))
        return data

    def _received(self, data: bytes) -> bytes:
        self._metrics.received_bytes.inc(len(data))
        return data

    def _retried(self, attempt: Callable[[], _Result]) -> _Result:
        self._lost_at = None
        delay = FIRST_DELAY
        while True:
            try:
                return attempt()
            except grpc.RpcError as error:
                code = error.code()
                if code is grpc.StatusCode.DEADLINE_EXCEEDED:
                    self._lost_at, delay = None, FIRST_DELAY  # the aggregator is there and has nothing to say yet
                    continue
                if code is not grpc.StatusCode.UNAVAILABLE:
                    raise _meaning(code, error.details() or "") from None
                lost_at = self._lost_at  # an upload's thread may forget it at any time
                if lost_at is None:
                    lost_at = self._lost_at = monotonic()
                    delay = FIRST_DELAY
                if monotonic() - lost_at > RECONNECT_SECONDS or _distrusted(error.details() or ""):
                    raise _unreachable(self._target, error.details() or "") from None
                _log.warning("connection to %s lost; trying again", self._target)
                if self._stopped.wait(delay):
                    raise ConnectionFailed("stopped while reconnecting") from None
                delay = min(2 * delay, 5.0)


def _meaning(code: grpc.StatusCode, details: str) -> SparsiloError:
    match code:
        case grpc.StatusCode.UNAUTHENTICATED | grpc.StatusCode.PERMISSION_DENIED:
            return IdentityError(f"the aggregator refuses this silo: {details}")
        case grpc.StatusCode.FAILED_PRECONDITION | grpc.StatusCode.INVALID_ARGUMENT:
            return ProtocolError(f"the aggregator refuses the message: {details}")
        case grpc.StatusCode.ABORTED:
            return RoundAborted(details)
        case _:
            return ConnectionFailed(f"the aggregator answered {code.name}: {details}")


def _distrusted(details: str) -> bool:
    return "CERTIFICATE_VERIFY_FAILED" in details or "Hostname Verification" in details


def _unreachable(target: str, details: str) -> SparsiloError:
    if _distrusted(details):
        return IdentityError(
            f"{target}: the certificate shown there is not to be trusted",
            hint="check the address, and authority in the config",
        )
    return ConnectionFailed(
        f"{target}: cannot be reached",
        hint="check the address, the network, that the aggregator runs, and that it accepts this silo's certificate",
    )
