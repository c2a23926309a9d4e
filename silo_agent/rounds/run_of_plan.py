"""One plan as an agent goes through it: what its earlier rounds opened, and what this silo computed for it."""

import secrets
from collections.abc import Mapping
from math import prod
from typing import Final

import torch
from torch import Tensor

from crypto.backends.verification import MAX_TRANSCRIPT_BYTES
from crypto.errors import CalibrationError, InputError, SparsiloError
from crypto.plan import Plan
from crypto.releases.release_spec import UNIT_SEQUENCES, spec_of
from silo_agent.checkpoint.dense_weights import DenseWeights
from silo_agent.checkpoint.pruned_file import PrunedFile
from silo_agent.config import AgentConfig
from silo_agent.model.calibration import data_digest, read_sequences
from silo_agent.model.units import read_units
from silo_agent.network.transport import Transport
from silo_agent.opened_sums.opened_rounds import Start
from silo_agent.opened_sums.opened_sum import OpenedRound
from silo_agent.opened_sums.verify import verify_opened
from silo_agent.releases.silo_side import SiloRelease, SiloWork, silo_side
from silo_agent.rounds.run_files import RunFiles
from silo_agent.rounds.run_pruning import Progress, RunPruning
from sparsilo.v1 import words_pb2

MOST_HEADER_BYTES: Final = 1 << 26
"""More than the header of any candidate has."""


class RunOfPlan:
    """What a plan's rounds about one text, known by its SHA-256, have in common."""

    def __init__(
        self,
        plan: Plan,
        data: bytes,
        config: AgentConfig,
        weights: DenseWeights,
        device: torch.device,
        transport: Transport,
        progress: Progress,
    ) -> None:
        self.plan, self.data = plan, data
        self._config, self._weights, self._device = config, weights, device
        self._transport, self._progress = transport, progress
        self.files = RunFiles(config.state, plan.digest, data)
        self.files.begin()
        self._opened: list[OpenedRound] = []
        self._pruning = RunPruning(
            plan,
            config.silo,
            weights,
            lambda: self._sequences(0)[0],
            self._units,
            self.files.work,
            device,
            progress,
        )

    def start(self, index: int, roster: Mapping[str, bytes]) -> Start:
        """Return what a round starts from. Earlier sums are fetched where they are not at hand, and all are verified.

        Raises what `verify_opened` raises.
        """
        for _ in range(len(self._opened), index):
            round_ = Start(self.plan, self._opened).round
            words, transcript = self.files.opened_sum(round_), self.files.transcript(round_)
            self._transport.download(words_pb2.FileRequest(opened_sum=round_.digest), words, sum(round_.layout.lengths))
            if not transcript.exists():  # what is served is nobody's own, and may be anything
                transcript = self.files.served_transcript(round_)
                transcript.unlink(missing_ok=True)
                served = words_pb2.FileRequest(transcript=round_.digest)
                self._transport.download(served, transcript, MAX_TRANSCRIPT_BYTES)
            try:
                self._opened.append(verify_opened(round_, words, transcript, roster))
            except SparsiloError:
                words.unlink(missing_ok=True)  # else the next download would go on behind it
                raise
        return Start(self.plan, self._opened[:index], self._pruning.solving)

    def fetch(self, index: int) -> None:
        """Fetch the keep masks from outside that a round runs, and check that they are nothing else (14.3.2).

        Raises InputError where one is; it is not kept.
        """
        shapes = {tensor.name: tuple(tensor.shape) for tensor in self.plan.prunable}
        most = sum(map(prod, shapes.values())) + MOST_HEADER_BYTES
        for digest in spec_of(self.plan, index).files(self.plan, index):
            file = self.files.candidate(digest)
            if not file.exists():
                self._transport.candidate(digest, file, most)
            try:
                PrunedFile(file).check_keep_masks(shapes)
            except InputError:
                file.unlink()
                raise

    def prepare(self, start: Start) -> SiloRelease:
        """Compute what this silo releases in the round that `start` is followed by.

        Raises CalibrationError where the text is not that of the run any more: the ledger would know another one.
        """
        work = SiloWork(
            plan=self.plan,
            index=start.index,
            earlier=start,
            weights=self._weights,
            device=self._device,
            sequences=self._sequences,
            pruned=lambda: self._pruning.files(start),
            self_calibrated=self._pruning.self_calibrated,
            statistics=lambda statistic: self._pruning.statistics(start, statistic),
            energies_of_units=lambda: self._pruning.energies_of_units(start),
            dense_target=lambda name: self._pruning.dense_target(start, name),
            folder=self.files.work,
            together=lambda: self._pruning.together(start),
            candidate=lambda digest: PrunedFile(self.files.candidate(digest)),
            entropy=secrets.token_bytes,
            progress=self._progress,
        )
        release = silo_side(self.plan.release_kind(start.index)).prepare(work)
        if data_digest(self._config.calibration) != self.data:
            raise CalibrationError(f"{self._config.calibration}: was replaced during the round", hint="take part again")
        return release

    def _units(self) -> list[list[Tensor]]:
        pruning = self.plan.message.pruning
        return read_units(
            self._config.calibration,
            self._weights.tokenizer,
            units=pruning.samples,
            sequence_length=pruning.sequence_length,
            sequences=UNIT_SEQUENCES,
        )

    def _sequences(self, held_out: int) -> tuple[Tensor, Tensor]:
        pruning = self.plan.message.pruning
        return read_sequences(
            self._config.calibration,
            self._weights.tokenizer,
            samples=pruning.samples,
            sequence_length=pruning.sequence_length,
            held_out=held_out,
            fill=True,
        )
