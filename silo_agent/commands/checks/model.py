"""Checks of model, device and calibration text, and of the disk that a run over them needs."""

import shutil
from collections.abc import Iterator, Sequence
from typing import Final

import torch

from crypto.errors import CalibrationError, ConfigError, OutputError, SparsiloError
from silo_agent.checkpoint.dense_weights import DenseWeights
from silo_agent.checkpoint.model_folder import model_folder
from silo_agent.commands.checks.check import Check
from silo_agent.config import AgentConfig
from silo_agent.consent.policy import Policy, trusted_digest
from silo_agent.model.calibration import data_digest, records, tokenised, usual_length
from silo_agent.model.device import named_device

MOST_TOKENS: Final = 1 << 22
"""How many tokens of the calibration text are counted; a plan needs far fewer."""
MODELS: Final = 3
"""What it pruned, and in an evaluation what all silos pruned together and what text that the model writes makes of it:
keep masks and weights of each on disk.
"""
KEEP_MASK_BYTES: Final = MODELS
"""Bytes on disk for each prunable weight in the keep masks."""
OPENED_BYTES: Final = 1 + 4
"""Bytes on disk for each prunable weight in the opened sums of a votes round (up to 255 silos) and a weights round."""
RECORD_BYTES: Final = 64_000_000
"""Bytes on disk for transcripts, ledger and audit log."""


class ModelChecks:
    """A method a check: it returns what there is to say, or raises the error that a round would end with.

    `model` comes before the others: they use the model that it opens.
    """

    def __init__(self, config: AgentConfig) -> None:
        self._config = config
        self._weights: DenseWeights | None = None

    def model(self) -> str:
        """Open the model and its tokenizer."""
        self._weights = weights = DenseWeights.open(model_folder(self._config.model))
        tokens = len(weights.tokenizer)
        return f"{self._config.model}: {len(weights.prunable)} prunable tensors, a tokenizer of {tokens} tokens"

    def model_digest(self) -> str | Check:
        """Check that the policy trusts the model, which is read whole."""
        digest = trusted_digest(self._opened).hex()
        try:
            trusted = Policy.read(self._config.policy).models
        except SparsiloError:
            return Check("model digest", "fact", f"{digest}; see policy")
        if trusted is None:
            return f"{digest}: the policy trusts any model"
        if digest not in trusted:
            raise ConfigError(
                f"{self._config.policy}: models: does not list {digest}, which {self._config.model} is",
                hint="add it if that is the model that was agreed on; otherwise name another model in the config",
            )
        return f"{digest}: the policy trusts it"

    def device(self) -> str:
        """Check that the device is there, and has room for the largest block."""
        device = named_device(self._config.device)
        if device.type != "cuda":
            return f"{device}: is here"
        free, total = torch.cuda.mem_get_info(device)
        room = f"{device}: {_size(free)} of {_size(total)} memory free"
        if self._weights:
            largest = max(sum(self._weight_bytes(block.prunable)) for block in self._weights.blocks)
            room += f"; the largest block's weights take {_size(largest)}"
            if free < largest:
                raise ConfigError(room, hint="end what else runs there, or name another device in the config")
        return room

    def calibration(self) -> str:
        """Count the records with text, and where the model is open their tokens."""
        file, filled, tokens = self._config.calibration, 0, 0
        for number, record in enumerate(records(file), 1):
            filled += bool(record)
            if self._weights and tokens < MOST_TOKENS:
                tokens += sum(map(len, tokenised(file, number, record, self._weights.tokenizer)))
        if not filled:
            raise CalibrationError(f"{file}: has no text", hint="give a file with text in it")
        counts = f"{file}: records with text: {filled}; "
        if self._weights:
            length = usual_length(self._weights.config, None)
            counted = f"{tokens}{' or more' if tokens >= MOST_TOKENS else ''}"
            counts += f"tokens: {counted}, which is {tokens // length} whole sequences of {length}; "
        return f"{counts}its digest is {data_digest(file).hex()}"

    def disk(self) -> str:
        """Check that the state folder's disk has room for what a run writes."""
        prunable = self._opened.prunable
        weights = sum(self._opened.shape(name).numel() for name in prunable)
        pruned = MODELS * sum(self._weight_bytes(prunable))
        needed = weights * (KEEP_MASK_BYTES + OPENED_BYTES) + pruned + RECORD_BYTES
        free = shutil.disk_usage(self._config.state).free
        room = (
            f"{self._config.state}: {_size(free)} free; a run writes up to {_size(needed)}: for {weights} prunable "
            f"weights {_size(weights * KEEP_MASK_BYTES)} of keep masks, {_size(pruned)} pruned, "
            f"{_size(weights * OPENED_BYTES)} of opened sums; {_size(RECORD_BYTES)} of transcripts"
        )
        if free < needed:
            raise OutputError(room, hint="make room, or name a folder on a larger disk as state in the config")
        return room

    @property
    def _opened(self) -> DenseWeights:
        if self._weights is None:
            raise AssertionError("the model comes first")
        return self._weights

    def _weight_bytes(self, names: Sequence[str]) -> Iterator[int]:
        """Yield each named tensor's size in bytes."""
        weights = self._opened
        return (weights.shape(name).numel() * weights.dtype(name).itemsize for name in names)


def _size(count: int) -> str:
    """Return a number of bytes with three digits and a unit."""
    size, units = float(count), ["bytes", "kB", "MB", "GB"]
    while size >= 1000 and len(units) > 1:
        size /= 1000
        del units[0]
    return f"{size:.0f} {units[0]}" if size >= 100 or units[0] == "bytes" else f"{size:.1f} {units[0]}"
