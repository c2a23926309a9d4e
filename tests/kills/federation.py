"""Four silos and an aggregator as processes, which are killed in the middle of a run and started again at once."""

import json
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file

from aggregator.runs.submitted import Run, Runs, Status
from crypto.names import Phase
from crypto.plan import Plan
from silo_agent.checkpoint.dense_weights import DenseWeights
from silo_agent.consent.accusations import Accusations
from silo_agent.model.calibration import read_sequences
from silo_agent.pruning.prune import Pruned, prune_blocks
from support.deployment import Deployment, until
from support.forked_programs import Programs
from support.models import write_text
from support.small_plans import SMALL_PLANS

ROOT: Final = Path(__file__).parents[2]
SILOS: Final = ("a", "b", "c", "d")
NEVER_KILLED: Final = "c"
AGGREGATOR: Final = "aggregator"
SHAPE: Final = {"samples": 4, "sequence_length": 32}
PATIENCE: Final = 300.0
"""Seconds after which a run counts as hung."""


@dataclass(frozen=True)
class Kill:
    """Who is killed, and when: so many seconds after a run was submitted, or when an agent says a phase; or the only
    victim, an agent, before so many of its file operations since it began.
    """

    victims: tuple[str, ...]
    moment: float | str | int

    def __str__(self) -> str:
        when = f"after {self.moment:.2f} s" if isinstance(self.moment, float) else f"in {self.moment}"
        if isinstance(self.moment, int):
            when = f"before its operation {self.moment}"
        return f"{' and '.join(self.victims)} {when}"


@dataclass(frozen=True)
class Ended:
    """What came of a run in which somebody was killed."""

    kill: Kill
    seconds: float
    run: Run
    repeated: Run | None
    """The same plan once more, where the run failed."""
    is_late: bool
    """Whether the run was over before the victim had made so many file operations."""
    accusations: int
    """How many silos accuse the aggregator: a round ended after they had signed what it opened (14.6)."""
    problems: tuple[str, ...]
    """What must not be; none where all is well."""

    def __str__(self) -> str:
        again = f", then {self.repeated.status}" if self.repeated else ""
        accused = f", accused by {self.accusations}" if self.accusations else ""
        said = f"{self.run.said} {'; '.join(self.problems)}"
        return f"{self.kill}: {self.run.status}{again} in {self.seconds:.1f} s{accused} {said}"


class KilledFederation:
    """Runs one after another; each silo's text is another one in each."""

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        deployment.serve().end()
        with deployment.config.open("a") as config:
            config.write("retention: 2\n")
        logs = deployment.folder / "logs"
        logs.mkdir()
        self.programs = Programs(logs)
        self._start(AGGREGATOR)
        until(lambda: "aggregator on port" in self._said(AGGREGATOR))
        for silo in SILOS:
            deployment.enroll(silo, retention=2)
            deployment.policy(silo, approval="auto", budget={"releases": 10_000}, **SMALL_PLANS)
        deployment.pin()
        for silo in SILOS:
            self._start(silo)
        self._runs, self._weights = 0, DenseWeights.open(deployment.model)

    def killed(self, kill: Kill | None) -> Ended:
        """A run in which this happens, and the same plan again where it failed."""
        self._runs += 1
        for silo in SILOS:  # no release of an earlier run is of the same text
            file = self._deployment.folder / f"{silo}.txt"
            file.unlink()
            write_text(file, 900, seed=1000 * self._runs + ord(silo))
        lengths = {silo: self.programs.log(silo).stat().st_size for silo in SILOS if self.programs.log(silo).exists()}
        if kill and isinstance(kill.moment, int):
            [victim] = kill.victims
            self.programs.kill(victim)
            self._start(victim, (kill.moment, self._deployment.folder / victim / "state"))
        began = time.monotonic()
        name = self._submit()
        is_late = kill is not None and self._strike(kill, name, began, lengths)
        run, repeated, problems = self._over(name), None, list[str]()
        seconds = time.monotonic() - began
        if run.status == Status.FAILED:
            pruned_blocks = self._said(NEVER_KILLED).count(" INFO block ")
            repeated = self._over(self._submit())
            if run.phase != Phase.PLAN and self._said(NEVER_KILLED).count(" INFO block ") > pruned_blocks:
                problems.append(f"{NEVER_KILLED} pruned the same again")
        last = repeated or run
        if last.status != Status.DONE:
            problems.append(f"needs a person: {last.said}")
        else:
            problems += self._wrong(last)
        problems += self._secrets_left()
        return Ended(kill or Kill((), 0.0), seconds, run, repeated, is_late, self._dismiss(), tuple(problems))

    def _strike(self, kill: Kill, name: str, began: float, lengths: dict[str, int]) -> bool:
        """Kill, and start again; whether the run was over before a victim had made as many file operations."""
        is_late = False
        match kill.moment:
            case int():
                while (is_late := self.programs.is_running(*kill.victims)) and not self._state().find(name).is_over:
                    time.sleep(0.01)
            case str():
                self._until_said(kill.moment, lengths, name)
            case _:
                time.sleep(max(0.0, began + kill.moment - time.monotonic()))
        for victim in kill.victims:
            self.programs.kill(victim)
        for victim in kill.victims:
            self._start(victim)
        return is_late

    def _dismiss(self) -> int:
        """How many silos accuse the aggregator. They forgive it: one accusation keeps nobody from a run, three do."""
        accused = 0
        for silo in SILOS:
            accusations = Accusations(self._deployment.folder / silo / "state")
            for round_ in accusations.standing():
                accusations.dismiss(round_)
                accused += 1
        return accused

    def _start(self, name: str, dies: tuple[int, Path] | None = None) -> None:
        if name == AGGREGATOR:
            self.programs.start(name, "aggregator.cli", "serve", self._deployment.config)
        else:
            self.programs.start(name, "silo_agent.cli", "run", self._deployment.agent_config(name), dies)

    def _said(self, name: str) -> str:
        log = self.programs.log(name)
        return log.read_text(errors="replace") if log.exists() else ""

    def _submit(self) -> str:
        fields = {"phase_seconds": 8, "preparation_seconds": 60, "sparsity_ratio": 0.5, "save_counts": True}
        return self._deployment.submit(**SHAPE, **fields)

    def _state(self) -> Runs:
        return Runs(self._deployment.folder / "state")

    def _over(self, name: str) -> Run:
        end = time.monotonic() + PATIENCE
        while not (run := self._state().find(name)).is_over:
            assert time.monotonic() < end, f"hangs in {run.phase}: {run.waiting}"
            time.sleep(0.05)
        return run

    def _until_said(self, phase: str, lengths: dict[str, int], name: str) -> None:
        """Until an agent's log has the phase, or the run is over."""
        looked_for = re.compile(rf"phase {phase},".encode())
        while not self._state().find(name).is_over:
            for silo in SILOS:
                with self.programs.log(silo).open("rb") as log:
                    log.seek(lengths.get(silo, 0))
                    if looked_for.search(log.read()):
                        return
            time.sleep(0.002)

    def _wrong(self, run: Run) -> Iterator[str]:
        """What is wrong with a result: counts must be those of the survivors' own keep masks."""
        plan, result = self._state().folder(run.run).plan(), self._state().folder(run.run).result
        report = json.loads((result / "report.json").read_bytes())
        survivors: Sequence[str] = report["survivors"]
        if len(survivors) < 3:
            yield f"over {survivors} only"
        counts, totals = load_file(result / "keep_counts.safetensors"), dict[str, Any]()
        for silo in survivors:
            for pruned in self._own(silo, plan):
                totals[pruned.name] = totals.get(pruned.name, 0) + pruned.keep.long()
        if counts.keys() != totals.keys() or not all(torch.equal(counts[name].long(), totals[name]) for name in counts):
            yield f"the counts are not those of {survivors}"

    def _own(self, silo: str, plan: Plan) -> Iterator[Pruned]:
        """What a silo makes of its text by itself."""
        text, tokenizer = self._deployment.folder / f"{silo}.txt", self._weights.tokenizer
        return prune_blocks(
            self._weights,
            read_sequences(text, tokenizer, **SHAPE, held_out=0, fill=True)[0],
            pruner=plan.pruning.pruner,
            sparsity=lambda _: plan.pruning.silo_sparsity(silo),
            device=torch.device("cpu"),
            progress=lambda *_: None,
        )

    def _secrets_left(self) -> list[str]:
        """Files in which something lies that was drawn. What a round opened lies in its transcript, or in what is kept
        of one that ended early.
        """
        folders = [self._deployment.folder / "state", *(self._deployment.folder / silo / "state" for silo in SILOS)]
        files = [file for folder in folders for file in folder.rglob("*") if file.is_file()]
        drawn, problems = self.programs.drawn(), []
        for file in files:
            if "transcript" not in f"{file}" and file.suffix != ".accusation":
                with suppress(FileNotFoundError):  # SQLite's, while it writes
                    content = file.read_bytes()
                    problems += [f"{file} holds a secret"] * any(value in content for value in drawn)
        return problems
