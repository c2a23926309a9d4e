"""A run from its plan to the folder with the sparse model: every round through the driver, each from what the ones
before it opened. What `aggregator local` and `aggregator serve` have in common.
"""

import asyncio
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from aggregator.results.open_evaluation import open_evaluation
from aggregator.results.pruned_tensors import PrunedTensors
from aggregator.results.report import Perplexity, make_report, seen
from aggregator.results.report_html import write_report_html
from aggregator.results.sparse_checkpoint import write_sparse_model
from aggregator.rounds.round_driver import ClosedRound, RoundDriver, Watch
from aggregator.runs.planning import Planner
from crypto.names import ReleaseKind
from crypto.plan import Plan
from crypto.roster import roster_file
from crypto.secagg.round import Round
from silo_agent.host.whole_file import write_whole
from silo_agent.model.bitmask_container import stored_bytes
from silo_agent.model.dense_weights import DenseWeights
from silo_agent.model.pruned_file import file_digest
from silo_agent.rounds.opened_rounds import Start

DENSE: Final = "dense"
FEDERATED: Final = "federated"
ALONE: Final = " alone"
DONE_FILE: Final = "done"
EVALUATION_PLAN: Final = "evaluation.plan"


@dataclass(frozen=True)
class Wanted:
    """What a run leaves behind beside model and report."""

    evaluate: int = 0
    """Held-out sequences a silo; 0 evaluates nothing."""
    save_counts: bool = False
    save_transcript: bool = False
    candidates: Mapping[str, Path] = field(default_factory=dict)
    """Keep masks or pruned weights to evaluate beside the others."""


class PruningRun:
    """One run in a folder of its own. A folder in which some rounds are done continues after them."""

    def __init__(
        self,
        planner: Planner,
        plan: Plan,
        weights: DenseWeights,
        driver: RoundDriver,
        folder: Path,
        wanted: Wanted,
        watch: Watch,
        own_pruned: Callable[[], Mapping[str, Path]] = dict,
    ) -> None:
        self.plan, self._planner, self._weights, self._driver = plan, planner, weights, driver
        self._folder, self._wanted, self._watch, self._own_pruned = folder, wanted, watch, own_pruned
        self.closed: list[ClosedRound] = []
        for half in ("pruned", "out"):  # what an earlier process may have left of them
            shutil.rmtree(folder / half, ignore_errors=True)
        self._pruned = PrunedTensors(plan, weights, self._subfolder("pruned"))

    async def replay(self) -> None:
        """The rounds that an earlier process finished, from their journals: no silo need be there, and none may speak
        of a later round before that.
        """
        while len(self.closed) < len(self.plan.message.rounds) and (self._round_folder() / DONE_FILE).exists():
            await self._round()

    async def finish(self) -> tuple[dict[str, Any], Path]:
        """The other rounds; then the report, and the folder that holds it, `model/` and what else was wanted.

        Raises what RoundDriver.run raises.
        """
        while len(self.closed) < len(self.plan.message.rounds):
            await self._round()
        await asyncio.to_thread(self._pruned.write)
        traffic = {silo: replace(self._driver.traffic[silo]) for silo in self.plan.silos}  # without the evaluation's
        result = self._subfolder("out")
        self._watch("writing model", 0, 1)
        achieved = await asyncio.to_thread(
            write_sparse_model, self._weights, self._pruned.pruned, result / "model", self._provenance()
        )
        if self._wanted.save_counts:
            self._pruned.write_counts(result / "keep_counts.safetensors")
        if self._wanted.save_transcript:
            self._save_transcripts(result)
        self._watch("writing model", 1, 1)
        perplexity = await self._evaluate() if self._wanted.evaluate else None
        report = make_report(self.plan, self.closed, achieved, traffic, self._pruned.keep_counts, perplexity)
        report["bytes_on_disk"] = self._bytes_on_disk(result / "model", achieved)
        write_whole(result / "report.json", f"{json.dumps(report, indent=2)}\n".encode())
        write_report_html(report, self._weights.folder.name, seen(report), result / "report.html")
        return report, result

    async def _round(self) -> None:
        """The next one."""
        folder = self._round_folder()
        closed = await self._driver.run(Start(self.plan, [each.opened for each in self.closed]).round, folder)
        (folder / DONE_FILE).touch()
        self._driver.offer_opened(closed)
        self.closed.append(closed)
        if self.plan.release_kind(closed.session.round.index) in (ReleaseKind.VOTES, ReleaseKind.WEIGHTS):
            start = Start(self.plan, [each.opened for each in self.closed])
            tensors = start.expanded(closed.opened, self._weights)
            await asyncio.to_thread(self._pruned.add, tensors, len(closed.session.survivors))

    async def _evaluate(self) -> Perplexity:
        """A second run over the same silos.

        Silos' own pruned weights are at hand only where all is on one machine; and a silo that layer sampling spared
        some blocks has no pruned model of its own.
        """
        alone = {} if self.plan.cohort_floor else self._own_pruned()
        files = {
            **{silo + ALONE: file for silo, file in alone.items()},
            **self._wanted.candidates,
            FEDERATED: self._pruned.file,
        }
        digests = {name: file_digest(file) for name, file in files.items()}
        for name, file in files.items():
            self._driver.offer_candidate(digests[name], file)
        kept = self._folder / EVALUATION_PLAN  # the same one after a restart
        if kept.exists():
            plan = Plan.decode(kept.read_bytes())
        else:
            plan = self._planner.evaluation(self._wanted.evaluate, {DENSE: None, **digests})
            write_whole(kept, plan.encoded)
        closed = await self._driver.run(Round(plan, 0), self._subfolder("evaluation"))
        found = await asyncio.to_thread(open_evaluation, plan.message.rounds[0].evaluation, closed.opened.chunks())
        return Perplexity(
            dense=found[DENSE],
            alone={silo: found[silo + ALONE] for silo in alone},
            federated=found[FEDERATED],
            candidates={name: found[name] for name in self._wanted.candidates},
        )

    def _save_transcripts(self, result: Path) -> None:
        roster = {member.silo: member.signing_key for member in self.plan.message.roster}
        for closed in self.closed:
            name = f"transcript-{closed.session.round.index}" if len(self.closed) > 1 else "transcript"
            closed.save_transcript(result / name)
            write_whole(result / name / "roster.yaml", roster_file(roster))

    def _bytes_on_disk(self, model: Path, achieved: Mapping[str, float]) -> dict[str, int]:
        """Of the weights: dense, sparse with its zeros, and as the bitmask container that `aggregator pack` writes."""
        bitmask = 0
        for name in self._weights.names:
            elements, size = self._weights.shape(name).numel(), self._weights.dtype(name).itemsize
            bitmask += stored_bytes(elements, round(elements * (1 - achieved.get(name, 0))), size)
        dense, sparse = (
            sum(file.stat().st_size for file in folder.glob("*.safetensors"))
            for folder in (self._weights.folder, model)
        )
        return {"dense": dense, "model": sparse, "bitmask": bitmask}

    def _provenance(self) -> dict[str, str]:
        """What the model file says of its origin; nothing that two runs of the same work would differ in."""
        plan, pruning = self.plan, self.plan.message.pruning
        return {
            "sparsilo.release": str(plan.release_kind(len(self.closed) - 1)),
            "sparsilo.pruner": pruning.pruner,
            "sparsilo.sparsity": str(plan.sparsity),
            "sparsilo.allocation": str(plan.allocation),
            "sparsilo.schedule": str(plan.schedule),
            "sparsilo.survivors": str(min(len(closed.session.survivors) for closed in self.closed)),
            "sparsilo.pruned_sha256": self._pruned.digest.hex(),
        }

    def _round_folder(self) -> Path:
        return self._subfolder(f"round-{len(self.closed)}")

    def _subfolder(self, name: str) -> Path:
        folder = self._folder / name
        folder.mkdir(mode=0o700, exist_ok=True)
        return folder
