"""A synthetic release of 7 * 10^9 weights, masked and folded by streaming: memory and CPU time of either side.

Run `make bench-streaming` (Linux; 25 GB of free disk, removed afterwards; a quarter of an hour on two cores). The
roster is of 10 silos, so a lane has 4 bits. 4 silos fall silent in UPLOAD; the 6 that a sum needs at least upload
3.5 GB each, every one a process of its own, to an aggregator process over mutual TLS on loopback, through the drivers,
transport and servicer of a deployment; and the round goes on through its AUDIT. Only the keep mask is synthetic: it is
cut out of one random tile. Prints one JSON document; exits with 1 when a claim in it is not met.

Memory is a process's high-water mark from UPLOAD on, above what it had when UPLOAD began; of the silos the worst. Time
is CPU time of all of a process's threads; of the silos the median. Folding is the aggregator's UPLOAD and UNMASK.
User time is shown beside it; the rest is system time. Sizes are measured up and down again, and the means compared, so
that a machine that gets slower on the way does not count as a size that is slower.
"""

import argparse
import asyncio
import os
import re
import secrets
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from shutil import disk_usage
from socket import socket
from statistics import mean, median
from tempfile import TemporaryDirectory
from time import monotonic
from typing import Any

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry

from aggregator.edge.servicer import serve
from aggregator.metrics import AggregatorMetrics
from aggregator.rounds.round_driver import RoundDriver
from aggregator.silos.admission import known, utc_now
from bench.cohort import CHUNK_WORDS, votes_plan
from bench.document import at_most, progress, publish
from crypto.backends.double_masking.silo import DoubleMaskingSilo
from crypto.encoding.lanes import lane_width
from crypto.encoding.layout import Chunk, open_chunk
from crypto.identity import Authority, Certified
from crypto.names import Phase
from crypto.plan import Plan
from crypto.plan_rules import checked_plan, decode_plan
from crypto.releases.release_spec import layout_of
from crypto.releases.votes import votes_section
from crypto.secagg.round import Round
from silo_agent.consent.ledger import Release
from silo_agent.consent.state_store import StateStore
from silo_agent.host.freed_memory import keep_freed_memory
from silo_agent.host.metrics import SiloMetrics
from silo_agent.network.calls import Upload
from silo_agent.network.transport import Transport
from silo_agent.opened_sums.committed_words import SUM_FILE
from silo_agent.rounds.one_round import one_round
from tests.support.plans import signing_keys

SILOS, SURVIVORS = 10, 6
SIZES = (7 * 10**8, 21 * 10**8, 7 * 10**9)
THREADS = len(os.sched_getaffinity(0))  # as the agent and the aggregator take them
PEAK_BYTES, MOST_UNLIKE = 300e6, 1.10
PATIENCE_SECONDS = 600  # a loaded machine is slow, not silent
CHECKED_EVERY = 50  # chunks of the opened sum that are compared with the silos' lanes
SECTION = votes_section("blocks.0.weight")

TILE = np.random.default_rng(1).random(1 << 23, np.float32) < 0.5  # twice the lanes of the largest chunk


class SyntheticVotes:
    """A release whose lanes are cut out of the tile, at places that differ by silo and chunk."""

    def __init__(self, silo: str) -> None:
        self._silo = silo

    def lanes(self, chunk: Chunk) -> NDArray[Any]:
        if chunk.section.name != SECTION:
            return np.ones(chunk.lanes, np.uint64)
        start = int.from_bytes(sha256(f"{self._silo} {chunk.index}".encode()).digest()[:8], "little")
        start %= len(TILE) - chunk.lanes
        return TILE[start : start + chunk.lanes]


class Meter:
    """CPU seconds of this process by phase, and its peak memory from UPLOAD on."""

    def __init__(self) -> None:
        self._marks: dict[str, os.times_result] = {}
        self._idle = 0

    def enter(self, phase: str) -> bool:
        """False if it was the present phase already."""
        if phase in self._marks:
            return False
        if phase == Phase.UPLOAD:
            with suppress(OSError):  # forbidden somewhere: then the mark counts the phases before, too
                Path("/proc/self/clear_refs").write_text("5")
            self._idle = _memory("VmRSS")
        self._marks[phase] = os.times()
        return True

    def read(self) -> dict[str, Any]:
        marks = [*self._marks.items(), ("", os.times())]
        return {
            "idle_bytes": self._idle,
            "peak_bytes_above_idle": _memory("VmHWM") - self._idle,
            **{
                kind: {phase: of(end) - of(start) for (phase, start), (_, end) in pairwise(marks)}
                for kind, of in {"user": lambda t: t.user, "system": lambda t: t.system}.items()
            },
        }


def _memory(field: str) -> int:
    """Bytes."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return 1024 * int(found[1]) if found else 0


def take_part(silo: str, target: str, own: Certified, authority: bytes, folder: Path, uploads: bool) -> dict[str, Any]:
    """One silo's process, from the offer to DONE, or silent from UPLOAD on."""
    keep_freed_memory()  # as either command does
    meter = Meter()
    transport = Transport(target, own, authority, SiloMetrics(CollectorRegistry()))
    offer = transport.next().round
    round_ = Round(decode_plan(offer.plan), offer.index, offer.input)
    release = Release.of(round_, bytes(32))
    session = DoubleMaskingSilo(round_, silo, signing_keys(SILOS)[silo], secrets.token_bytes)
    calls = one_round(session, lambda: SyntheticVotes(silo), release, StateStore(folder / f"{silo}.sqlite"), THREADS)
    answer = None
    with suppress(StopIteration):
        while not (isinstance(call := calls.send(answer), Upload) and not uploads):
            meter.enter(session.phase)
            answer = transport.perform(call)
    transport.close()
    return meter.read()


def aggregate(encoded: bytes, address: str, own: Certified, authority: bytes, folder: Path) -> dict[str, Any]:
    """The aggregator's process."""
    keep_freed_memory()  # as either command does
    plan, meter = decode_plan(encoded), Meter()

    async def run() -> dict[str, Any]:
        def watch(phase: str, _arrived: int, _expected: int) -> None:
            if meter.enter(phase) and phase == Phase.UPLOAD:
                for silo in plan.silos[SURVIVORS:]:
                    leaving.append(asyncio.create_task(driver.gone(silo)))

        leaving: list[asyncio.Task[None]] = []
        driver = RoundDriver(AggregatorMetrics(CollectorRegistry()), watch, THREADS)
        server, _ = await serve(driver, known(plan.silos, utc_now), address, lambda: (own, authority))
        await driver.run(Round(plan, 0, b""), folder)
        metered = meter.read()
        await server.stop()
        return metered

    return asyncio.run(run()) | {"wrong_lanes": wrong_lanes(plan, folder / SUM_FILE)}


def wrong_lanes(plan: Plan, file: Path) -> int:
    """Lanes of the opened sum that are not the sum of the survivors' lanes; of a sample of chunks."""
    layout, survivors = layout_of(plan, 0), plan.silos[:SURVIVORS]
    wrong = 0
    for chunk in layout.chunks[::CHECKED_EVERY]:
        words = np.fromfile(file, "<u8", chunk.words, offset=sum(layout.lengths[: chunk.index]))
        lanes = sum(SyntheticVotes(silo).lanes(chunk).astype(np.uint64) for silo in survivors)
        wrong += int(np.count_nonzero(open_chunk(chunk, words, SURVIVORS) != lanes))
    return wrong


def free_port() -> int:
    with socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def measure(weights: int, folder: Path) -> dict[str, Any]:
    """One round."""
    message = votes_plan(SILOS, weights).message
    message.phase_seconds = message.preparation_seconds = PATIENCE_SECONDS
    plan = checked_plan(message)
    upload = sum(layout_of(plan, 0).lengths)
    if disk_usage(folder).free < 1.1 * (SURVIVORS + 1) * upload:
        raise SystemExit(f"{folder}: {(SURVIVORS + 1) * upload / 1e9:.0f} GB are needed and not free")
    authority, address = Authority("bench", datetime.now(UTC), timedelta(days=1)), f"127.0.0.1:{free_port()}"
    certificate, trusted, begin = authority.issue("aggregator", ("127.0.0.1",)), authority.certificate, monotonic()
    with ProcessPoolExecutor(SILOS + 1, get_context("spawn")) as pool:
        aggregating = pool.submit(aggregate, plan.encoded, address, certificate, trusted, folder)
        taking_part = [
            pool.submit(take_part, silo, address, authority.issue(silo), trusted, folder, at < SURVIVORS)
            for at, silo in enumerate(plan.silos)
        ]
        silos, aggregator = [each.result() for each in taking_part][:SURVIVORS], aggregating.result()
    progress(f"{weights:,} weights: {monotonic() - begin:.0f} s")

    def ns(side: dict[str, Any], *phases: Phase, kinds: Sequence[str] = ("user", "system")) -> float:
        return sum(side[kind][phase] for kind in kinds for phase in phases) / weights * 1e9

    return {
        "weights": weights,
        "upload_bytes_a_silo": upload,
        "wall_seconds": monotonic() - begin,
        "silo_peak_bytes_above_idle": max(silo["peak_bytes_above_idle"] for silo in silos),
        "silo_idle_bytes": max(silo["idle_bytes"] for silo in silos),
        "aggregator_peak_bytes_above_idle": aggregator["peak_bytes_above_idle"],
        "aggregator_idle_bytes": aggregator["idle_bytes"],
        "silo_upload_ns_per_weight": median(ns(silo, Phase.UPLOAD) for silo in silos),
        "silo_audit_ns_per_weight": median(ns(silo, Phase.AUDIT) for silo in silos),
        "silo_upload_user_ns_per_weight": median(ns(silo, Phase.UPLOAD, kinds=["user"]) for silo in silos),
        "aggregator_fold_ns_per_weight": ns(aggregator, Phase.UPLOAD, Phase.UNMASK),
        "aggregator_fold_user_ns_per_weight": ns(aggregator, Phase.UPLOAD, Phase.UNMASK, kinds=["user"]),
        "aggregator_audit_ns_per_weight": ns(aggregator, Phase.AUDIT),
        "aggregator_seconds": {kind: aggregator[kind] for kind in ("user", "system")},
        "silo_seconds": {kind: silos[0][kind] for kind in ("user", "system")},
        "wrong_lanes": aggregator["wrong_lanes"],
    }


def main(sizes: Sequence[int], under: Path | None) -> None:
    rounds = []
    for weights in (*sizes, *reversed(sizes[:-1])):
        with TemporaryDirectory(dir=under) as folder:
            rounds.append(measure(weights, Path(folder)))
    claims = {"wrong lanes in the opened sum, of a sample": at_most(sum(each["wrong_lanes"] for each in rounds), 0)}
    for side in ("silo", "aggregator"):
        peak = max(each[f"{side}_peak_bytes_above_idle"] for each in rounds)
        claims[f"{side}: peak bytes above idle"] = at_most(peak, PEAK_BYTES)
    for work in ("silo_upload", "aggregator_fold"):
        each_ns = [
            mean(each[f"{work}_ns_per_weight"] for each in rounds if each["weights"] == weights) for weights in sizes
        ]
        claims[f"{work}: CPU time a weight, largest / smallest"] = at_most(max(each_ns) / min(each_ns), MOST_UNLIKE)
    setting = {
        "silos": SILOS,
        "survivors": SURVIVORS,
        "lane_width": lane_width(SILOS),
        "chunk_words": CHUNK_WORDS,
        "threads": THREADS,
    }
    publish(claims, setting=setting, rounds=rounds)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Streaming of uploads and their sum: memory and time.")
    parser.add_argument("--weights", type=int, nargs="+", default=SIZES, help="sizes, each a multiple of 1000")
    parser.add_argument("--folder", type=Path, help="where to make the folder for the words")
    given = parser.parse_args()
    main(given.weights, given.folder)
