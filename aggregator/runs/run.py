"""A run from its plan to the folder with the sparse model: every round goes through the driver, and starts from what
the rounds before it opened. `aggregator local` and `aggregator serve` have this in common.
"""

import asyncio
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import torch

from aggregator.results.gain import Gain, make_gain
from aggregator.results.report import NOT_YET, Behaviour, BytesOnDisk, Report, make_report
from aggregator.results.report_html import write_report_html
from aggregator.rounds.closed_round import CLOSED_FILE, ClosedRound
from aggregator.rounds.round_driver import RoundDriver, Watch
from aggregator.runs.evaluation import KeepMasks, evaluate
from aggregator.runs.planning import OWN, SELF_CALIBRATED, Planner
from aggregator.runs.run_folder import OUT_FOLDER, PRUNED_FOLDER, RunFolder
from crypto.errors import SparsiloError
from crypto.names import ReleaseKind
from crypto.plan import Plan
from crypto.releases.planned_rounds import pruning_rounds
from crypto.roster import roster_file
from silo_agent.checkpoint.bitmask_container import stored_bytes
from silo_agent.checkpoint.dense_weights import DenseWeights
from silo_agent.host.logs import lines_about
from silo_agent.host.whole_file import write_whole
from silo_agent.opened_sums.committed_words import TRANSCRIPT_FOLDER
from silo_agent.opened_sums.opened_rounds import Start
from silo_agent.opened_sums.together import Together
from silo_agent.releases.evaluation import differences, perplexities
from silo_agent.results.manifest import MANIFEST_FILE, MODEL_FOLDER, REPORT_FILE, Manifest
from silo_agent.results.provenance import Provenance
from silo_agent.results.quantised_checkpoint import QUANTISED_FOLDER, write_quantised_model
from silo_agent.results.sparse_checkpoint import SparseModel, write_sparse_model
from silo_agent.writing.continuation import continuations

REPORT_PAGE: Final = "report.html"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Wanted:
    """What a run leaves behind beside model and report."""

    save_counts: bool = False
    save_transcript: bool = False
    candidates: Mapping[str, Path] = field(default_factory=dict)
    """Keep masks to evaluate beside what the run makes."""
    prompts: tuple[str, ...] = ()
    """Texts from which the report shows how the dense and the sparse model go on."""


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
        own_keep_masks: Callable[[], Mapping[str, Path]] = dict,
    ) -> None:
        self.plan, self._planner, self._weights, self._driver = plan, planner, weights, driver
        self._wanted, self._watch, self._own_keep_masks = wanted, watch, own_keep_masks
        self._folder = RunFolder(folder)
        self.closed: list[ClosedRound] = []
        self.report: Report | None = None
        """What the run came to, once its result is published."""
        self._folder.remove_halves()
        cpu, folder = torch.device("cpu"), self._subfolder(PRUNED_FOLDER)
        self._together = Together(plan, weights, folder, cpu, watch, keep_counts=True)

    async def take_up(self) -> None:
        """Take up the rounds that an earlier process closed: no silo need be there, and none may speak before that.

        Raises DiskFailed.
        """
        while (self._folder.round(len(self.closed)) / CLOSED_FILE).exists():
            await self._round()

    async def finish(self, result: Path) -> Report:
        """Run the rounds that are left; return the report.

        `result` appears whole, with the report, `model/` and what else was wanted, as soon as the pruning is over. An
        evaluation comes after that; where it fails, the report says so and all else stands.
        Raises what RoundDriver.run raises, and OutputError where the folder cannot be written.
        """
        while len(self.closed) < (pruning := pruning_rounds(self.plan)):
            await self._round()
        traffic = self._driver.traffic.so_far(self.plan.silos)  # without the evaluation's
        made = result if result.exists() else self._subfolder(OUT_FOLDER)  # an earlier process may have published it
        achieved = _achieved(result) if made is result else await self._write_model(made)
        is_evaluated = self.plan.release_kind(-1) is ReleaseKind.EVALUATION
        report = make_report(
            *(self.plan, self.closed[:pruning], achieved, traffic, self._together.tensors.keep_counts),
            self._bytes_on_disk(made / MODEL_FOLDER, achieved),
            await asyncio.to_thread(self._behaviour, made / MODEL_FOLDER),
            not_evaluated=NOT_YET if is_evaluated else "",
        )
        if made is not result:
            self._write_report(report, made)
            if self._wanted.save_transcript:  # without it no silo could verify the result, and none is served it
                manifest = await asyncio.to_thread(Manifest.of_folder, self.plan.digest, made)
                write_whole(made / MANIFEST_FILE, manifest.encoded)
            self._folder.publish()
        self._publish(result)
        self.report = report
        return await self._evaluate(report, result) if is_evaluated else report

    def not_evaluated(self, error: SparsiloError, result: Path) -> Report:
        """Say in a published report why it has no perplexities, or not all; return it."""
        if self.report is None:
            raise error
        _log.error("the evaluation failed, and the result stands without it: %s", error)
        self.report = replace(self.report, not_evaluated=error.code)  # silos may read it: not the aggregator's paths
        self._write_report(self.report, result)
        self._publish(result)
        return self.report

    def withdraw(self) -> None:
        """Serve no silo the run's files any more."""
        self._driver.files.withdraw()

    async def _round(self) -> None:
        """Run the next round, and take what it made of the model."""
        folder = self._folder.round(len(self.closed))
        folder.mkdir(mode=0o700, exist_ok=True)
        with lines_about(self.plan.digest.hex()[:16], len(self.closed)):
            closed = await self._driver.run(self._start.round, folder)
        if not self._wanted.save_transcript:  # then nobody needs them any more
            for upload in closed.uploads().values():
                upload.unlink(missing_ok=True)
        self._driver.files.offer_opened(closed)
        self.closed.append(closed)
        await asyncio.to_thread(self._together.take, self._start.opened)

    @property
    def _start(self) -> Start:
        """What the next round starts from."""
        return Start(self.plan, [closed.opened for closed in self.closed])

    async def _write_model(self, result: Path) -> dict[str, float]:
        """Write `model/` and what else was wanted of the rounds; return the fraction of zeros by tensor."""
        self._watch("writing model", 0, 1)
        opened = self._start.opened[: pruning_rounds(self.plan)]
        origin = Provenance(self.plan, opened, await asyncio.to_thread(lambda: self._together.tensors.digest))
        model = SparseModel(self._weights, self._together.tensors.get, origin.metadata, origin.card)
        await asyncio.to_thread(write_sparse_model, model, result / MODEL_FOLDER)
        if (bits := self.plan.pruning.quantise_bits) is not None:
            quantised = self._together.tensors.quantised.__getitem__
            await asyncio.to_thread(write_quantised_model, self._weights, quantised, bits, result / QUANTISED_FOLDER)
        if self._wanted.save_counts:
            self._together.tensors.write_counts(result / "keep_counts.safetensors")
        if self._wanted.save_transcript:
            self._save_transcripts(result)
        self._watch("writing model", 1, 1)
        return model.achieved

    async def _evaluate(self, report: Report, result: Path) -> Report:
        """Add the perplexities of what was made, as the plan ends with that, and then those of keep masks from outside.

        Silos' own keep masks are at hand only where all is on one machine; and a silo that layer sampling spared some
        blocks has none of the whole model.
        """
        try:
            while len(self.closed) < len(self.plan.message.rounds):
                await self._round()
            spec = self.plan.message.rounds[-1].evaluation
            by_name = await asyncio.to_thread(perplexities, spec, self.closed[-1].opened.chunks())
            gain = await asyncio.to_thread(self._gain)
            perplexity = KeepMasks({}, {}).perplexity(by_name)
            report = self.report = replace(report, perplexity=perplexity, gain=gain, not_evaluated="")
            alone = {} if self.plan.pruning.cohort_floor else self._own_keep_masks()
            outside = KeepMasks(alone, self._wanted.candidates)
            if outside.files:
                by_name |= await evaluate(
                    *(outside.files, spec.sequences, self._planner, self._driver, self._folder.path),
                )
                self.report = replace(report, perplexity=outside.perplexity(by_name))
        except SparsiloError as error:
            return self.not_evaluated(error, result)
        self._write_report(self.report, result)
        self._publish(result)
        return self.report

    def _gain(self) -> Gain:
        """Return what federating was worth, by the evaluation that was the last round."""
        index = len(self.closed) - 1
        by_name = differences(self.plan, index, self.closed[index].opened.chunks())
        released = self.plan.release_kind(pruning_rounds(self.plan) - 1)
        return make_gain(released, self.plan.pruning.pruner, by_name.get(SELF_CALIBRATED), by_name.get(OWN))

    def _write_report(self, report: Report, folder: Path) -> None:
        """Write both files, and what a manifest says of them."""
        write_whole(folder / REPORT_FILE, f"{json.dumps(report.document, indent=2)}\n".encode())
        write_report_html(report, self._weights.folder.name, folder / REPORT_PAGE)
        own = folder / MANIFEST_FILE
        if own.exists():
            manifest = Manifest.decode(own.read_bytes()).renewed(folder, (REPORT_FILE, REPORT_PAGE))
            write_whole(own, manifest.encoded)

    def _publish(self, result: Path) -> None:
        if (result / MANIFEST_FILE).exists():
            self._driver.files.results.publish(self.plan, result)

    def _behaviour(self, model: Path) -> list[Behaviour]:
        """Have both models go on from the prompts that were given, on the CPU."""
        if not self._wanted.prompts:
            return []
        dense, sparse = (
            continuations(
                weights,
                self._wanted.prompts,
                device=torch.device("cpu"),
                progress=lambda done, total: self._watch("continuing prompts", done, total),
            )
            for weights in (self._weights, DenseWeights.open(model))
        )
        return [Behaviour(*texts) for texts in zip(self._wanted.prompts, dense, sparse, strict=True)]

    def _save_transcripts(self, result: Path) -> None:
        """Save every round as `silo-agent verify` reads it, with the roster that signed."""
        roster = {member.silo: member.signing_key for member in self.plan.message.roster}
        rounds = self.closed[: pruning_rounds(self.plan)]
        for closed in rounds:
            name = f"{TRANSCRIPT_FOLDER}-{closed.round.index}" if len(rounds) > 1 else TRANSCRIPT_FOLDER
            closed.save_transcript(result / name)
            write_whole(result / name / "roster.yaml", roster_file(roster))

    def _bytes_on_disk(self, model: Path, achieved: Mapping[str, float]) -> BytesOnDisk:
        """Return what the weight files take: dense, sparse with its zeros, and as a container, which is not written."""
        bitmask = 0
        for name in self._weights.names:
            elements, size = self._weights.shape(name).numel(), self._weights.dtype(name).itemsize
            bitmask += stored_bytes(elements, round(elements * (1 - achieved.get(name, 0))), size)
        dense, sparse = (
            sum(file.stat().st_size for file in folder.glob("*.safetensors"))
            for folder in (self._weights.folder, model)
        )
        return BytesOnDisk(dense, sparse, bitmask)

    def _subfolder(self, name: str) -> Path:
        folder = self._folder.path / name
        folder.mkdir(mode=0o700, exist_ok=True)
        return folder


def _achieved(result: Path) -> dict[str, float]:
    """Return the fraction of zeros by tensor that a published report has."""
    achieved: dict[str, float] = json.loads((result / REPORT_FILE).read_bytes())["sparsity_ratio"]["per_tensor"]
    return achieved
