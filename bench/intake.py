"""How fast an aggregator takes uploads in, beside a server that receives the same bytes and drops them.

Run `make bench-intake` (Linux, 6 GB of free disk, removed afterwards). Six silos, each a process of its own, upload 350
MB apiece, to an aggregator as in bench/streaming, and as often to a gRPC server with the same certificates, message
size and limits, whose only method reads a stream to its end. Prints one JSON document; exits with 1 when its claim is
not met. A rate is in bytes by CPU second of the server's process, all of its threads.
"""

import argparse
import asyncio
import os
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime, timedelta
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, Final

import grpc

from bench.document import at_least, progress, publish
from bench.streaming import SURVIVORS, free_port, measure
from crypto.encoding.wire import MESSAGE_LIMIT
from crypto.identity import Authority, Certified
from crypto.names import Phase
from silo_agent.host.freed_memory import keep_freed_memory

WEIGHTS: Final = 7 * 10**8
MESSAGE: Final = (1 << 20) + 45
"""Bytes of a chunk as it travels."""
REPETITIONS: Final = 3
SHARE: Final = 0.6
METHOD: Final = "/bare/Stream"


def receive(address: str, own: Certified, authority: bytes, messages: int) -> float:
    """The bare server's process: returns the CPU seconds that so many messages of each silo took."""
    keep_freed_memory()

    async def run() -> float:
        done = asyncio.Event()
        left = SURVIVORS

        async def stream(requests: Any, _context: Any) -> bytes:
            nonlocal left
            received = 0
            async for _ in requests:
                received += 1
            if received != messages:
                raise SystemExit(f"{received} messages arrived, not {messages}")
            left -= 1
            if not left:
                done.set()
            return b""

        server = grpc.aio.server(options=[("grpc.max_receive_message_length", MESSAGE_LIMIT)])
        handlers = {"Stream": grpc.stream_unary_rpc_method_handler(stream)}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bare", handlers),))
        pair = [(own.private_key, own.certificate)]
        server.add_secure_port(address, grpc.ssl_server_credentials(pair, authority, require_client_auth=True))
        await server.start()
        before = os.times()
        await done.wait()
        after = os.times()
        await server.stop(10)
        return after.user - before.user + after.system - before.system

    return asyncio.run(run())


def send(address: str, own: Certified, authority: bytes, messages: int) -> None:
    """One silo's process before the bare server."""
    credentials = grpc.ssl_channel_credentials(authority, own.private_key, own.certificate)
    message = os.urandom(MESSAGE)
    with grpc.secure_channel(address, credentials) as channel:
        channel.stream_unary(METHOD)((message for _ in range(messages)), wait_for_ready=True)


def bare(size: int) -> float:
    """Return the CPU seconds of a server that receives `size` bytes from each silo."""
    authority, address = Authority("bench", datetime.now(UTC), timedelta(days=1)), f"127.0.0.1:{free_port()}"
    certificate, trusted = authority.issue("aggregator", ("127.0.0.1",)), authority.certificate
    messages = size // MESSAGE
    with ProcessPoolExecutor(SURVIVORS + 1, get_context("spawn")) as pool:
        receiving = pool.submit(receive, address, certificate, trusted, messages)
        sending = [
            pool.submit(send, address, authority.issue(f"silo-{at}"), trusted, messages) for at in range(SURVIVORS)
        ]
        for sent in sending:
            sent.result()
        return receiving.result()


def main(weights: int, under: Path | None) -> None:
    intake, dropped = list[float](), list[float]()
    for _ in range(REPETITIONS):
        with TemporaryDirectory(dir=under) as folder:
            measured = measure(weights, Path(folder))
        size = measured["upload_bytes_a_silo"]
        seconds = sum(measured["aggregator_seconds"][kind][Phase.UPLOAD] for kind in ("user", "system"))
        intake.append(SURVIVORS * size / seconds)
        dropped.append(SURVIVORS * (size // MESSAGE) * MESSAGE / bare(size))
        progress(f"{intake[-1] / 1e6:.0f} MB and {dropped[-1] / 1e6:.0f} MB a CPU second")
    claims = {"taken in / only received, by CPU time": at_least(median(intake) / median(dropped), SHARE)}
    publish(claims, silos=SURVIVORS, upload_bytes_a_silo=size, intake_rates=intake, bare_rates=dropped)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Intake of uploads beside a bare stream: bytes by CPU second.")
    parser.add_argument("--weights", type=int, default=WEIGHTS, help="a multiple of 1000")
    parser.add_argument("--folder", type=Path, help="where to make the folder for the words")
    given = parser.parse_args()
    main(given.weights, given.folder)
