"""`make hostile`: one real aggregator, four silos' agents, and a program that does it all the harm it can.

Silo m declines every plan, and its certificate is in hostile hands. Whatever is done with it or without any, a, b and c
finish their run within twice the undisturbed time, or when the plan ends the phase that is held open; the aggregator
takes little more memory than undisturbed; and its log names m.
"""

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread

import pytest

from hostile.attacks import ATTACKS, UNNAMED
from support.deployment import Deployment, Program

pytestmark = [pytest.mark.minutes, pytest.mark.clause("7.14", "7.20")]

HONEST = ("a", "b", "c")
PHASE_SECONDS = 120
NAMED_SECONDS = 75
MOST_MEMORY = 150 << 20
TESTS = str(Path(__file__).parents[1])


@dataclass
class Outcome:
    attack: str
    seconds: float
    memory: int
    """Bytes resident in the aggregator, at most."""
    naming: str = ""
    """What the log says of m first."""

    def __str__(self) -> str:
        return f"{self.attack:20}{self.seconds:7.1f} s{self.memory / (1 << 20):7.0f} MiB  {self.naming[:60]}"


class Federation:
    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment
        deployment.serve().end()
        arguments = ("hostile.few_descriptors", "serve", "--config", deployment.config)
        self.server = Program(deployment.folder / "few.log", *arguments, PYTHONPATH=TESTS)
        deployment.programs.append(self.server)
        self.server.wait_for(r"aggregator on port (\d+)")
        deployment.join()
        deployment.policy("m", release_kinds=["evaluation"])
        for silo in HONEST:
            deployment.policy(silo, budget={"releases": 1000})
        self._runs = 0

    def attacked(self, name: str) -> Outcome:
        """A run during an attack, which goes on until the log names m: what it says is said once a minute."""
        began = len(self.server.said)
        with self._attacked_by(name):
            outcome, end = self.run(name), time.monotonic() + NAMED_SECONDS
            while name not in UNNAMED and not outcome.naming and time.monotonic() < end:
                named = re.search(r"\bm(?:, to be enrolled)?: (?!declines|dropped)(.*)", self.server.said[began:])
                outcome.naming = named[1] if named else ""
                time.sleep(0.5)
        return outcome

    @contextmanager
    def _attacked_by(self, name: str) -> Iterator[None]:
        log, folder = self.deployment.folder / f"{name}.log", self.deployment.folder / "m"
        attack = Program(log, "hostile.attacks", name, self.deployment.port, folder, PYTHONPATH=TESTS)
        self.deployment.programs.append(attack)
        time.sleep(5)
        assert attack.process.poll() is None, attack.said
        try:
            yield
        finally:
            attack.process.kill()
            attack.end()

    def run(self, name: str, phase_seconds: int = PHASE_SECONDS) -> Outcome:
        """One run, which all honest silos survive."""
        self._runs += 1
        began = time.monotonic()
        with memory_of(self.server.process.pid) as most:
            run = self.deployment.submit(
                sparsity_ratio=round(0.3 + self._runs / 100, 2),
                threshold=3,
                phase_seconds=phase_seconds,
                preparation_seconds=phase_seconds,
            )
            waited = self.deployment.wait(run)
        assert waited.code == 0, f"{name}: {waited.err}{self.server.said[-3000:]}"
        shown = self.deployment.aggregator("rounds", "show", run, "--output", "json").data
        assert shown["survivors"] == len(HONEST), name
        return Outcome(name, time.monotonic() - began, most[0])


@contextmanager
def memory_of(process: int) -> Iterator[list[int]]:
    """The most bytes that a process has resident meanwhile."""
    most, ended = [0], Event()

    def watch() -> None:
        while not ended.wait(0.1):
            resident = int(Path(f"/proc/{process}/statm").read_text().split()[1]) * 4096
            most[0] = max(most[0], resident)

    thread = Thread(target=watch)
    thread.start()
    try:
        yield most
    finally:
        ended.set()
        thread.join()


def test_honest_silos_finish_whatever_somebody_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    deployment = Deployment(tmp_path, [*HONEST, "m"], capsys)
    try:
        federation = Federation(deployment)
        federation.run("warm-up", 600)  # until all agents have started
        calm = [federation.run("undisturbed") for _ in range(2)]
        seconds, memory = max(run.seconds for run in calm), max(run.memory for run in calm)
        outcomes = [federation.attacked(name) for name in ATTACKS]
        with capsys.disabled():
            print("\n".join(["", *map(str, (*calm, *outcomes))]))  # noqa: T201 - it is what the command is for
        late = max(2 * seconds, seconds + 2 * PHASE_SECONDS)
        assert [outcome.attack for outcome in outcomes if outcome.seconds > late] == []
        assert [outcome.attack for outcome in outcomes if outcome.memory > memory + MOST_MEMORY] == []
        assert [outcome.attack for outcome in outcomes if not outcome.naming] == [*UNNAMED]
        assert federation.server.end() == 0
        assert "Traceback" not in federation.server.said
    finally:
        deployment.close()
