"""The agent's driver: takes part in rounds until the aggregator says that there are no more. Owns the clock, the
disk and retries; no cryptography.
"""

import logging
import secrets
from collections.abc import Callable, Generator, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import cached_property, partial
from pathlib import Path
from time import sleep
from typing import Any, Final

from torch import Tensor, get_num_threads

from crypto.backends.backend_spec import backend_spec
from crypto.encoding.wire import encode
from crypto.errors import (
    ConfigError,
    ConnectionFailed,
    IdentityError,
    InputError,
    PlanError,
    ReleaseRefused,
    RoundAborted,
    SparsiloError,
)
from crypto.names import Phase, ReleaseKind
from crypto.plan import Plan
from crypto.releases.release_spec import question_of
from crypto.secagg.round import Round
from crypto.secagg.session import SiloSession
from silo_agent.config import AgentConfig
from silo_agent.consent.audit_log import AuditLog
from silo_agent.consent.ledger import Release
from silo_agent.consent.policy import Approval, Policy, check_budget, check_plan, check_policy
from silo_agent.consent.state_store import STATE_FILE, Decision, StateStore
from silo_agent.host.metrics import SiloMetrics
from silo_agent.host.whole_file import write_whole
from silo_agent.identity.own_files import read_identity
from silo_agent.model.calibration import data_digest, read_sequences
from silo_agent.model.dense_weights import DenseWeights
from silo_agent.model.device import named_device
from silo_agent.model.model_folder import model_folder
from silo_agent.model.perplexity import negative_log_likelihood
from silo_agent.model.pruned_file import PrunedFile
from silo_agent.network.calls import Call, Upload
from silo_agent.network.transport import Transport
from silo_agent.pruning.allocation import outlier_counts
from silo_agent.releases.evaluation import EvaluationRelease
from silo_agent.releases.outliers import OutliersRelease
from silo_agent.releases.sampling import SamplingRelease
from silo_agent.releases.votes import VotesRelease
from silo_agent.releases.weights import ScalesRelease, WeightsRelease
from silo_agent.rounds.committed_words import WORDS_SUFFIX
from silo_agent.rounds.one_round import SiloRelease, one_round
from silo_agent.rounds.opened_rounds import Start, check_start
from silo_agent.rounds.opened_sum import OpenedRound
from silo_agent.rounds.run_pruning import RunPruning
from silo_agent.rounds.verify import verify_opened
from sparsilo.v1 import plan_pb2, round_pb2, words_pb2

Progress = Callable[[str, int, int], None]
"""What is being done, how much of it is done, and how much there is."""

STILL_OFFERED: Final = timedelta(minutes=10)
"""A plan that was not offered for so long waits for nobody any more."""
OFFER_SECONDS: Final = 1.0
"""How often a plan that nobody has decided on is asked for again."""

_log = logging.getLogger(__name__)


class Agent:
    """One silo. `run()` returns when all is done and raises what ended it otherwise."""

    def __init__(
        self,
        config: AgentConfig,
        transport: Transport,
        metrics: SiloMetrics,
        progress: Progress,
        between_calls: Callable[[], None],
    ) -> None:
        """`between_calls` is called between two rounds, and once every POLL_SECONDS while there is none."""
        self._config = config
        self._transport = transport
        self._between_calls = between_calls
        self._metrics = metrics
        self._progress = progress
        self._signing_key, self._roster = read_identity(config)
        self._weights = DenseWeights.open(model_folder(config.model))
        self._device = named_device(config.device)
        self._store = StateStore(config.state / STATE_FILE)
        self._audit = AuditLog(config.state)
        self._decided = b""
        self._planned = b""
        self._opened: list[OpenedRound] = []
        self._run: RunPruning | None = None

    @cached_property
    def _digests(self) -> dict[str, bytes]:
        return self._weights.digest()

    @cached_property
    def _data(self) -> bytes:
        return data_digest(self._config.calibration)

    def run(self) -> None:
        """Rounds, one after another. With `stay` in the config only what keeps the agent from calling ends it."""
        while True:
            self._between_rounds()
            offer = self._transport.next()
            if offer is None:
                continue
            match offer.WhichOneof("offer"):
                case "round":
                    try:
                        self._consider(offer.round)
                    except (ConnectionFailed, IdentityError):
                        raise
                    except SparsiloError as error:
                        if not self._config.stay:
                            raise
                        _log.error("%s", error)
                        sleep(OFFER_SECONDS)
                case "over":
                    if offer.over.failure:
                        raise RoundAborted(offer.over.failure)
                    return
                case _:
                    raise PlanError("the aggregator offers nothing that this agent knows")

    def _consider(self, offered: round_pb2.RoundOffer) -> None:
        """Take part in a round that this silo agrees to. Where it does not, the aggregator need not wait."""
        round_ = Round.of(offered.plan, offered.index, offered.input, offered.cohort)
        try:
            release = self._agreed(round_)
            if release is None:
                sleep(OFFER_SECONDS)  # nobody decided yet: the same round will be offered again, or it is gone
            else:
                self.take_part(round_, release)
        except (InputError, IdentityError) as error:
            self._transport.decline(round_.digest, error.code)
            if not self._config.stay:
                raise
            _log.error("%s", error)

    def _agreed(self, round_: Round) -> Release | None:
        """What is to be released, where policy and ledger allow it and, if one has to, a person approved of the plan;
        None as long as nobody decided, or outside the policy's hours.

        Raises PlanError, IdentityError or ReleaseRefused saying what this silo does not accept.
        """
        plan, now = round_.plan, datetime.now(UTC)
        policy = Policy.read(self._config.policy)
        self._signing_key, self._roster = read_identity(self._config)
        try:
            check_policy(plan, policy)
            check_plan(plan, self._config, self._roster, self._weights, self._digests)
            check_budget(policy, self._made(), len(plan.message.rounds) - round_.index)
        except SparsiloError as error:
            self._note("refused", "policy", plan=plan.digest.hex(), round=round_.index, reason=str(error))
            self._metrics.decisions.labels("refused").inc()
            raise
        if self._store.offer(plan.digest, plan.encoded, now):
            self._note("plan_offered", "aggregator", plan=plan.digest.hex(), rounds=len(plan.message.rounds))
        decision = self._store.decision(plan.digest)
        if decision is None and policy.approval is Approval.AUTO:
            decision = Decision.APPROVED
            self._note(decision, "policy", plan=plan.digest.hex())
            self._store.decide(plan.digest, decision, "policy", now)
        if decision is None or (decision is Decision.APPROVED and policy.hours and not policy.hours.contains(now)):
            return None
        if plan.digest != self._decided:
            self._decided = plan.digest
            self._metrics.decisions.labels(decision).inc()
        if decision is Decision.REJECTED:
            raise ReleaseRefused(f"plan {plan.digest.hex()[:16]} was rejected here")
        return Release(
            round_.digest,
            question_of(plan, round_.index, round_.input_digest),
            plan.release_kind(round_.index),
            self._data,
            plan.silos,
            colluders=plan.message.colluders,
            block=plan.block(round_.index),
        )

    def _made(self) -> int:
        """Rounds in which the present text left in masked words."""
        return sum(release.data == self._data for release in self._store.releases())

    def _between_rounds(self) -> None:
        self._between_calls()
        self._metrics.pending_plans.set(self._store.undecided(datetime.now(UTC) - STILL_OFFERED))
        with suppress(ConfigError):  # a policy that cannot be read refuses the next plan, and says so then
            self._metrics.budget_spent.labels("releases").set(self._made() / Policy.read(self._config.policy).releases)

    def _note(self, event: str, by: str, **fields: object) -> None:
        self._audit.append(event, by, datetime.now(UTC), **fields)

    def take_part(self, round_: Round, release: Release) -> None:
        """One round that this silo agreed to: what it starts from, what to release, then phase by phase."""
        plan, kind = round_.plan, round_.plan.release_kind(round_.index)
        outcome = "failed"
        self._metrics.enter(Phase.PLAN)
        try:
            start = self._start(plan, round_.index)
            check_start(round_, start, self._config.silo)
            spec = backend_spec(plan.backend)
            session = spec.silo_session(round_, self._config.silo, self._signing_key, secrets.token_bytes)
            prepare = partial(self._prepare, start, kind)
            self._go_through(session, one_round(session, prepare, release, self._store, get_num_threads()))
            if spec.verify is not None:
                # for `silo-agent verify --own`
                write_whole(self._transcript(round_), encode(session.transcript))
            self._metrics.enter(Phase.DONE)
            outcome = "done"
            self._note("round_done", "agent", round=round_.digest.hex(), survivors=list(session.survivors))
        except SparsiloError as error:
            self._metrics.enter(Phase.ABORTED)
            self._note("round_failed", "agent", round=round_.digest.hex(), reason=error.code)
            raise
        finally:
            self._metrics.rounds.labels(kind, outcome).inc()

    def _start(self, plan: Plan, index: int) -> Start:
        """What earlier rounds of the plan opened: fetched where it is not at hand, and verified like one's own."""
        if self._planned != plan.digest:  # what an earlier run left in memory goes
            self._planned, self._opened, self._run = plan.digest, [], None
        for _ in range(len(self._opened), index):
            round_ = Start(plan, self._opened).round
            words, transcript = self._config.state / f"{round_.digest.hex()}{WORDS_SUFFIX}", self._transcript(round_)
            self._transport.download(words_pb2.FileRequest(opened_sum=round_.digest), words)
            if not transcript.exists():  # what is served is nobody's own, and may be anything
                transcript = transcript.with_suffix(".served_transcript")
                self._transport.download(words_pb2.FileRequest(transcript=round_.digest), transcript)
            self._opened.append(verify_opened(round_, words, transcript, self._roster))
        return Start(plan, self._opened[:index])

    def _transcript(self, round_: Round) -> Path:
        return self._config.state / f"{round_.digest.hex()}.transcript"

    def _go_through(self, session: SiloSession, calls: Generator[Call, Any, None]) -> None:
        answer = None
        with suppress(StopIteration):
            while True:
                call = calls.send(answer)
                if self._metrics.enter(session.phase):
                    _log.info("%s round: phase %s", session.round.plan.release_kind(session.round.index), session.phase)
                if isinstance(call, Upload):
                    self._note_release(session.round)
                answer = self._transport.perform(call)

    def _note_release(self, round_: Round) -> None:
        """Before the first word leaves."""
        sent = sum(backend_spec(round_.plan.backend).upload_lengths(round_.layout))
        kind, plan = round_.plan.release_kind(round_.index), round_.plan.digest.hex()
        self._note("release", "agent", round=round_.digest.hex(), kind=kind, plan=plan, bytes=sent)

    def _prepare(self, start: Start, kind: ReleaseKind) -> SiloRelease:
        plan, index = start.plan, start.index
        match kind:
            case ReleaseKind.VOTES:
                return VotesRelease(plan, index, self._pruning(plan).files(start).keep_masks)
            case ReleaseKind.SCALES:
                files = self._pruning(plan).files(start)
                return ScalesRelease(plan, index, files.keep_masks, PrunedFile(files.weights), self._weights)
            case ReleaseKind.WEIGHTS:
                files, exponents = self._pruning(plan).files(start), start.exponents(plan.block(index))
                pruned = PrunedFile(files.weights)
                return WeightsRelease(plan, index, files.keep_masks, pruned, self._weights, exponents)
            case ReleaseKind.OUTLIERS:
                sequences, _ = self._sequences(plan)
                return OutliersRelease(outlier_counts(self._weights, sequences, device=self._device))
            case ReleaseKind.SAMPLING:
                return SamplingRelease(secrets.token_bytes)
            case ReleaseKind.EVALUATION:
                return self._evaluation(plan, plan.message.rounds[index].evaluation)

    def _pruning(self, plan: Plan) -> RunPruning:
        if self._run is None:
            self._run = RunPruning(
                plan,
                self._config.silo,
                self._weights,
                lambda: self._sequences(plan)[0],
                self._config.state,
                self._device,
                lambda done, total: self._progress("pruning blocks", done, total),
            )
        return self._run

    def _sequences(self, plan: Plan, held_out: int = 0) -> tuple[Tensor, Tensor]:
        pruning = plan.message.pruning
        return read_sequences(
            self._config.calibration,
            self._weights.tokenizer,
            samples=pruning.samples,
            sequence_length=pruning.sequence_length,
            held_out=held_out,
        )

    def _evaluation(self, plan: Plan, spec: plan_pb2.Evaluation) -> EvaluationRelease:
        _, held_out = self._sequences(plan, spec.sequences)
        results = []
        for done, candidate in enumerate(spec.candidates):
            self._progress("evaluating candidates", done, len(spec.candidates))
            pruned: Mapping[str, Tensor] = {} if candidate.dense else self._candidate(plan, candidate)
            results.append(negative_log_likelihood(self._weights, held_out, pruned, device=self._device))
        self._progress("evaluating candidates", len(spec.candidates), len(spec.candidates))
        return EvaluationRelease(results, len(plan.silos))

    def _candidate(self, plan: Plan, candidate: plan_pb2.Candidate) -> PrunedFile:
        file = self._config.state / f"{candidate.digest.hex()}.safetensors"
        if not file.exists():
            self._transport.candidate(candidate.digest, file)
        pruned = PrunedFile(file)
        pruned.check((tensor.name, tuple(tensor.shape), self._weights.dtype(tensor.name)) for tensor in plan.prunable)
        return pruned
