"""The largest cohort: 200 silos, a million weights, a tenth of the silos dropped while they upload.

Run `make bench-cohort`; `--suite fips` measures the other suite. One process holds every session and no network, so
CPU seconds are those of the protocol alone. Prints one JSON document; exits with 1 when a claim in it is not met.
"""

import argparse
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from secrets import token_bytes
from statistics import median
from time import process_time
from typing import Any

import numpy as np

from bench.document import at_most, progress, publish
from crypto.backends.double_masking.aggregator import DoubleMaskingAggregator
from crypto.backends.double_masking.silo import DoubleMaskingSilo
from crypto.encoding.words import Words
from crypto.names import Phase, Suite
from crypto.plan import Plan
from crypto.plan_rules import checked_plan
from crypto.releases.release_spec import layout_of
from crypto.secagg.round import Round
from sparsilo.v1 import words_pb2
from tests.scenarios.world import Lanes, World
from tests.support.plans import plan_message, signing_keys

SILOS, WEIGHTS, DROPPED = 200, 10**6, 20
CHUNK_WORDS = 1 << 17  # aggregator/runs/planning.py's
MASKED, COMMITTED = "masked words", "committed words"
KEY_SETUP = (Phase.PLAN, Phase.KEYS, Phase.SHARES)
KEY_SETUP_SECONDS = 5.0


def votes_plan(silos: int, weights: int, suite: Suite = Suite.DEFAULT) -> Plan:
    """One tensor of that many weights, a multiple of 1000."""
    return checked_plan(
        plan_message(silos, shape=(1000, weights // 1000), tensors=1, chunk_words=CHUNK_WORDS, suite=suite)
    )


class Cost:
    """What one session took: its messages by phase, and apart from them MASKED and COMMITTED words."""

    def __init__(self) -> None:
        self.cpu: Counter[str] = Counter()
        self.up: Counter[str] = Counter()
        self.down: Counter[str] = Counter()

    @contextmanager
    def spent(self, on: str) -> Iterator[None]:
        start = process_time()
        yield
        self.cpu[on] += process_time() - start

    @property
    def key_setup(self) -> float:
        return sum(self.cpu[phase] for phase in KEY_SETUP)


class CountedSilo(DoubleMaskingSilo):
    """Counts CPU seconds, and bytes as they would be sent and received (without gRPC's and TLS's frames)."""

    def __init__(self, round_: Round, silo: str, *rest: Any) -> None:
        self.cost = Cost()
        with self.cost.spent(Phase.PLAN):
            super().__init__(round_, silo, *rest)

    def message(self) -> bytes:
        with self.cost.spent(self.phase):
            data = super().message()
        self.cost.up[self.phase] += len(data)
        return data

    def receive(self, answer: bytes) -> None:
        phase = self.phase
        with self.cost.spent(phase):
            super().receive(answer)
        self.cost.down[phase] += len(answer)

    def masked(self, index: int, words: Words) -> bytes:
        with self.cost.spent(MASKED):
            data = super().masked(index, words)
        self.cost.up[MASKED] += words_pb2.WordChunk(round=self.round.digest, index=index, words=data).ByteSize()
        return data

    def audit(self, index: int, committed: Iterable[words_pb2.CommittedChunk]) -> None:
        pieces = list(committed)
        with self.cost.spent(COMMITTED):
            super().audit(index, pieces)
        self.cost.down[COMMITTED] += sum(piece.ByteSize() for piece in pieces)


class CountedAggregator(DoubleMaskingAggregator):
    """Counts CPU seconds of messages and sum; taking in uploads is measured by bench/streaming.py."""

    def __init__(self, round_: Round) -> None:
        self.cost = Cost()
        super().__init__(round_)

    def _counted(self, work: Callable[..., Any], *given: Any) -> Any:
        with self.cost.spent(self.phase):
            return work(*given)

    def receive(self, silo: str, data: bytes) -> None:
        self._counted(super().receive, silo, data)

    def recover(self) -> None:
        self._counted(super().recover)

    def close_phase(self) -> dict[str, bytes]:
        return self._counted(super().close_phase)


class CountedWorld(World):
    """A simulated round of counted sessions."""

    silos: dict[str, CountedSilo]

    def __post_init__(self) -> None:
        super().__post_init__()
        self.aggregator: CountedAggregator = CountedAggregator(self.round)

    def make_silo(self, silo: str) -> CountedSilo:
        return CountedSilo(self.round, silo, self.keys[silo], token_bytes)

    def step(self, lanes: Mapping[str, Mapping[str, Lanes]]) -> None:
        progress(f"{len(self.silos)} silos: {self.aggregator.phase}")
        super().step(lanes)

    def open_sum(self) -> list[bytes]:
        with self.aggregator.cost.spent(self.aggregator.phase):
            return super().open_sum()


def random_votes(plan: Plan) -> dict[str, dict[str, Any]]:
    """For every silo half of the weights kept, and their number."""
    random = np.random.default_rng(1)
    votes, nonzero = layout_of(plan, 0).sections
    keep = {silo: random.random(votes.lanes, np.float32) < 0.5 for silo in plan.silos}
    return {
        silo: {votes.name: kept, nonzero.name: np.array([np.count_nonzero(kept)], np.uint64)}
        for silo, kept in keep.items()
    }


def mean_of(costs: list[Counter[str]]) -> dict[str, float]:
    """By phase, and in total; few silos are given committed words where a release has few chunks."""
    total = sum(costs, Counter[str]())
    return {on: amount / len(costs) for on, amount in total.items()} | {"total": total.total() / len(costs)}


def cohort(suite: Suite) -> None:
    plan = votes_plan(SILOS, WEIGHTS, suite)
    lost = dict.fromkeys(plan.silos[:: SILOS // DROPPED], Phase.UPLOAD)
    lanes = random_votes(plan)
    world = CountedWorld(plan, signing_keys(SILOS, suite), lost)
    opened = world.run(lanes)
    survivors = world.aggregator.survivors
    wrong = sum(
        int(np.count_nonzero(opened[name] != sum(lanes[silo][name].astype(np.uint64) for silo in survivors)))
        for name in opened
    )
    costs = [world.silos[silo].cost for silo in survivors]
    publish(
        {
            "lanes that differ from numpy's sum": at_most(wrong, 0),
            "key setup CPU seconds a silo, worst": at_most(max(cost.key_setup for cost in costs), KEY_SETUP_SECONDS),
        },
        setting={
            "suite": suite,
            "silos": SILOS,
            "weights": WEIGHTS,
            "dropped_in_upload": len(world.aggregator.dropped),
            "survivors": len(survivors),
            "threshold": plan.message.threshold,
        },
        silo={
            "key_setup_cpu_seconds_median": median(cost.key_setup for cost in costs),
            "cpu_seconds_mean": mean_of([cost.cpu for cost in costs]),
            "bytes_up_mean": mean_of([cost.up for cost in costs]),
            "bytes_down_mean": mean_of([cost.down for cost in costs]),
            "bytes_up_most": max(cost.up.total() for cost in costs),
            "bytes_down_most": max(cost.down.total() for cost in costs),
        },
        aggregator={
            "cpu_seconds": world.aggregator.cost.cpu,
            "cpu_seconds_total": world.aggregator.cost.cpu.total(),
        },
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="200 silos in one process.")
    parser.add_argument("--suite", choices=[suite.profile for suite in Suite], default=Suite.DEFAULT.profile)
    cohort(Suite[parser.parse_args().suite.upper()])
