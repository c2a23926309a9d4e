"""From the options that were given to the plan that every silo is asked to agree to."""

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Final

import torch

from aggregator.rounds.round_driver import Watch
from aggregator.runs.longest_clip import longest_clip
from aggregator.runs.public_scales import Scaling, public_scales
from crypto.errors import ConfigError, ModelError, PlanError
from crypto.names import PROTOCOL, Allocation, Backend, GramInputs, ReleaseKind, Schedule, Suite
from crypto.plan import FEWEST_SILOS, RUN_BYTES, Plan, least_threshold
from crypto.plan_options import PLAN_OPTIONS, PlanOptions
from crypto.plan_rules import checked_plan
from crypto.privacy.accountant import USUAL_DELTA, epsilon
from crypto.privacy.noise_shares import VOTE_BITS
from crypto.pruning.attention import check_attention, is_attentions
from crypto.pruning.pruners import PRUNERS
from crypto.pruning.sparsity import Pattern
from crypto.releases.energies import OF_PRODUCTS
from crypto.releases.planned_rounds import planned_rounds
from crypto.releases.release_spec import events_of, release_spec
from crypto.secagg.session import Entropy
from silo_agent.checkpoint.dense_weights import DenseWeights
from silo_agent.model.calibration import usual_length
from silo_agent.pruning.spectral import block_alphas
from silo_agent.results.quantised_checkpoint import check_quantisable
from silo_agent.writing.self_text import self_sequences
from sparsilo.v1 import plan_pb2

CHUNK_WORDS: Final = 1 << 17
"""1 MiB: masking a chunk costs far more than deriving its keys, and a chunk is far below gRPC's message limit."""

CPU: Final = torch.device("cpu")

LARGEST_NOISE: Final = 2 * 2**VOTE_BITS
"""In votes: with so much, a vote would be worth no unit."""

DENSE: Final = "dense"
FEDERATED: Final = "federated"
OWN: Final = "own"
SELF_CALIBRATED: Final = "self_calibrated"
"""What an evaluation at the end of a pruning calls its candidates."""

_log = logging.getLogger(__name__)


def default_threshold(silos: int, colluders: int) -> int:
    """Return a majority, and at least three beside the colluders: a sum over two tells each the other's."""
    return min(least_threshold(silos, colluders, honest=FEWEST_SILOS), silos)


class Planner:
    """A planner makes plans over one model and one roster. It computes the model's digests once."""

    def __init__(
        self,
        weights: DenseWeights,
        asked: PlanOptions,
        roster: Mapping[str, bytes],
        suite: Suite,
        entropy: Entropy,
        backend: Backend = Backend.DOUBLE_MASKING,
        *,
        watch: Watch,
    ) -> None:
        """`watch` is told how far it is where text has to be written for the plan.

        Raises ConfigError or PlanError where the options do not suit the model or the silos, and ModelError where
        blocks' ratios are to follow from the model's spectra and these say nothing, or weights are to become integers
        and the quantised format does not have them.
        """
        self._weights, self._asked = weights, _completed(asked, weights, sorted(roster))
        if self._asked.quantise:
            check_quantisable(weights)
        self._roster, self._suite, self._backend, self._entropy = roster, suite, backend, entropy
        self.silos: Final = tuple(roster)
        digests = weights.digest()
        blocks = {name: block.index for block in weights.blocks for name in block.prunable}
        self.model: Final = [
            plan_pb2.Tensor(
                name=name,
                digest=digests[name],
                shape=weights.shape(name),
                prunable=name in blocks,
                block=blocks.get(name, 0),
                input_first=name in blocks and weights.input_first(name),
            )
            for name in sorted(digests)
        ]
        if release_spec(self._asked.release).pools:
            self._describe_inputs(weights, watch)
        by_spectra = self._asked.allocation is Allocation.ALPHA
        self._alphas = [str(alpha) for alpha in block_alphas(weights, device=CPU)] if by_spectra else []
        self.files: Final = [
            plan_pb2.File(name=name, digest=digest) for name, digest in sorted(weights.file_digests.items())
        ]

    def _describe_inputs(self, weights: DenseWeights, watch: Watch) -> None:
        asked = self._asked
        tokens = (1 if asked.epsilon else asked.samples) * usual_length(weights.config, asked.sequence_length)
        attention = asked.gram is GramInputs.ATTENTION
        if attention:
            check_attention(weights.prunable)  # before text is written, which takes long
        sums_products, aims = asked.release in OF_PRODUCTS, asked.release is ReleaseKind.DENSE_TARGET

        def scaling(name: str) -> Scaling:
            if asked.epsilon:
                return Scaling.UNITS
            return Scaling.PRODUCTS if sums_products and (is_attentions(name) or not attention) else Scaling.SUMS

        inputs = public_scales(weights, scaling, tokens, CPU, watch, aims=aims)
        for tensor in self.model:
            if tensor.prunable:
                tensor.shares_input_of = inputs[tensor.name].shares_input_of
                tensor.scale_exponents = inputs[tensor.name].scale_exponents
                tensor.output_exponents = inputs[tensor.name].output_exponents

    def pruning(self, evaluate: int = 0) -> Plan:
        """Return a plan of the rounds in which keep masks, or pruned weights, are summed.

        With `evaluate`, one more round at its end evaluates on so many held-out sequences a silo what became of the
        model, beside the dense one and what sharing nothing makes of it, unless the model cannot write the text for
        that. Raises PlanError where the options contradict each other.
        """
        message = self._message()
        for kind, block in planned_rounds(Plan(message, b""), self._asked.release):
            spec = message.rounds.add(block=block)  # None leaves it out
            getattr(spec, kind).SetInParent()
        if self._asked.epsilon and self._asked.delta:
            message.pruning.clip = 1
            message.pruning.clip = longest_clip(Plan(message, b""), self._asked.epsilon, self._asked.delta)
        if self._asked.vote_noise:
            message.pruning.vote_units = round(2**VOTE_BITS / self._asked.vote_noise)
            message.pruning.epsilon = epsilon(events_of(Plan(message, b"")), message.pruning.delta)
        if evaluate:
            candidates = message.rounds.add(evaluation=plan_pb2.Evaluation(sequences=evaluate)).evaluation.candidates
            candidates.add(name=DENSE, dense=True)
            candidates.add(name=FEDERATED, pruned=True)
            reads_text = PRUNERS[self._asked.pruner_or_usual].reads_text  # else no text changes what it prunes
            if reads_text and self._writes_text():
                candidates.add(name=SELF_CALIBRATED, self_calibrated=True)
            if not self._asked.cohort_floor and self._asked.schedule is Schedule.ONE_SHOT:
                candidates.add(name=OWN, own=True)  # else a silo has no pruned model of its own
        return checked_plan(message)

    def evaluation(self, sequences: int, keep_masks: Mapping[str, bytes]) -> Plan:
        """Return a plan of one round, which evaluates keep-mask files, given by name as SHA-256. Raises PlanError."""
        message = self._message()
        spec = message.rounds.add().evaluation
        spec.sequences = sequences
        for name, digest in keep_masks.items():
            spec.candidates.add(name=name, digest=digest)
        return checked_plan(message)

    def _writes_text(self) -> bool:
        """Return whether the model can write text, which one token shows; warn where it cannot."""
        try:
            self_sequences(self._weights, samples=1, sequence_length=2, device=CPU, progress=lambda *_: None)
        except ModelError as error:
            _log.warning("the evaluation goes without %s: %s", SELF_CALIBRATED, error.message)
            return False
        return True

    def _message(self) -> plan_pb2.Plan:
        """Return all but the rounds."""
        message = plan_pb2.Plan(
            protocol=PROTOCOL,
            run=self._entropy(RUN_BYTES),
            suite=self._suite,
            backend=self._backend,
            roster=[plan_pb2.Member(silo=silo, signing_key=key) for silo, key in sorted(self._roster.items())],
            least_survivors=self._asked.threshold,
            two_honest_survivors=self._asked.threshold == 2,  # only because somebody asked for it by number
            model=self.model,
            files=self.files,
            chunk_words=CHUNK_WORDS,
        )
        for option in PLAN_OPTIONS:
            option.write(message, getattr(self._asked, option.name))
        message.pruning.block_alphas.extend(self._alphas)
        return message


def _completed(asked: PlanOptions, weights: DenseWeights, silos: Sequence[str]) -> PlanOptions:
    """Return the options with a value for each that was not given. Raises ConfigError or PlanError."""
    sparsity, length = asked.sparsity, usual_length(weights.config, asked.sequence_length)
    unknown = sorted({*asked.capacities, *asked.silo_sparsity_ratios} - {*silos})
    if unknown:
        raise ConfigError(f"{unknown[0]} is no silo of this run", hint=f"silos: {', '.join(silos)}")
    threshold = default_threshold(len(silos), asked.colluders) if asked.threshold is None else asked.threshold
    for name, value in (("threshold", threshold), ("cohort floor", asked.cohort_floor)):
        if not 0 <= value <= len(silos):  # which the wire's unsigned field might not even hold
            raise PlanError(f"plan: {name}: {value} is out of range for {len(silos)} silos")
    _check_noise(asked)
    all_blocks = dict.fromkeys(silos, len(weights.blocks)) if asked.cohort_floor else {}
    return replace(
        asked,
        pruner=asked.pruner_or_usual,
        sparsity_ratio=None if isinstance(sparsity.target, Pattern) else sparsity.target,
        comparison_group=sparsity.group,
        schedule=asked.schedule or (Schedule.ITERATIVE if release_spec(asked.release).pools else Schedule.ONE_SHOT),
        sequence_length=length,
        delta=asked.delta or (None if asked.epsilon is asked.vote_noise is None else USUAL_DELTA),
        threshold=threshold,
        capacities={**all_blocks, **asked.capacities},
        preparation_seconds=max(asked.preparation_seconds, asked.phase_seconds),
    )


def _check_noise(asked: PlanOptions) -> None:
    """Raise PlanError where the noise asked for is none, or is not for what is summed."""
    field, bounds = release_spec(asked.release).noise_field, {"epsilon": inf, "delta": 1.0, "vote_noise": LARGEST_NOISE}
    for name, most in bounds.items():
        number = getattr(asked, name)
        if number is not None and not 0 < number < most:
            below = "" if most == inf else f", and below {most:g}"
            raise PlanError(f"plan: {name}: {number:g} is not above 0{below}")
    if asked.epsilon is asked.vote_noise is None and asked.delta is not None:
        raise PlanError("plan: delta: is the other half of an epsilon", hint="give --epsilon too")
    if asked.epsilon is not None and field != "clip":
        raise PlanError(
            f"plan: epsilon: {asked.release} has no bound on what a person changes, so no noise keeps it",
            hint="give --release energies",
        )
    if asked.vote_noise is not None and field != "vote_units":
        raise PlanError(f"plan: vote_noise: {asked.release} sums no votes alone", hint="give --release votes")


def silo_names(files: Sequence[Path]) -> list[str]:
    """Return a silo name for each calibration file, made from the file's; numbered where two would be the same."""
    names: list[str] = []
    for file in files:
        stem = re.sub(r"[^a-z0-9]+", "-", file.stem.lower()).strip("-")[:48].strip("-") or "silo"
        numbered = (stem, *(f"{stem}-{number}" for number in range(2, len(files) + 2)))
        names.append(next(name for name in numbered if name not in names))
    return names
