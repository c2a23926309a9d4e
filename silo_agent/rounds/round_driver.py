"""The agent's driver: takes part in rounds until the aggregator says that there are no more. Owns the clock, the
disk and retries; no cryptography.
"""

import logging
import secrets
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from time import monotonic, sleep
from typing import Any, Final

from torch import get_num_threads

from crypto.backends.backend_spec import backend_spec
from crypto.encoding.wire import encode
from crypto.errors import (
    IdentityError,
    InputError,
    OutputError,
    PlanError,
    PreparationFailed,
    ProtocolError,
    RoundAborted,
    SparsiloError,
)
from crypto.names import Phase
from crypto.plan import Plan
from crypto.privacy.noise_shares import noise_shares
from crypto.secagg.round import Round
from crypto.secagg.session import SiloSession
from silo_agent.checkpoint.dense_weights import DenseWeights
from silo_agent.checkpoint.model_folder import model_folder
from silo_agent.config import AgentConfig
from silo_agent.consent.accusations import Accusations
from silo_agent.consent.audit_log import AuditLog
from silo_agent.consent.ledger import Release
from silo_agent.consent.policy import Policy
from silo_agent.consent.state_store import STATE_FILE, StateStore
from silo_agent.host.logs import lines_about
from silo_agent.host.metrics import SiloMetrics
from silo_agent.host.whole_file import write_whole
from silo_agent.identity.own_files import read_identity
from silo_agent.model.calibration import check_text
from silo_agent.model.device import named_device
from silo_agent.network.calls import Advance, Call, Committed, Upload
from silo_agent.network.transport import Transport
from silo_agent.opened_sums.opened_rounds import Start
from silo_agent.releases.noise import Noise, NoisyRelease, NoisyVotes
from silo_agent.releases.silo_side import SiloRelease
from silo_agent.rounds.adopted_masks import adopt_masks
from silo_agent.rounds.agreement import Agreement
from silo_agent.rounds.offer_checks import check_start
from silo_agent.rounds.one_round import one_round
from silo_agent.rounds.run_files import drop_work, prune_runs
from silo_agent.rounds.run_of_plan import RunOfPlan
from silo_agent.rounds.run_pruning import Progress
from silo_agent.rounds.withdrawals import Withdrawals
from sparsilo.v1 import round_pb2

OFFER_SECONDS: Final = 1.0
"""How often a plan that nobody has decided on is asked for again."""

MOST_DELAY: Final = 60.0
"""How long an agent that stays waits at most after an error, of which there was one after another."""
WITHDRAWN_TRIES: Final = 10
"""How often after a round that failed an agent asks who else withdrew, before it looks at another round."""

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
        announce: Callable[[], None],
        idle: Callable[[], None],
    ) -> None:
        """`between_calls` is called between two rounds, and once every POLL_SECONDS while there is none, `idle` only
        in the latter case.

        `announce` is called where the aggregator does not hear this silo, which then calls it once more.
        """
        self._config, self._transport, self._metrics = config, transport, metrics
        self._progress, self._between_calls, self._announce = progress, between_calls, announce
        self._idle = idle
        self._signing_key, self._roster = read_identity(config)
        self._weights = DenseWeights.open(model_folder(config.model))
        check_text(config.calibration)  # whatever is wrong with text or tokenizer is found before anybody calls
        _ = self._weights.tokenizer
        self._device = named_device(config.device)
        self._store, self._audit = StateStore(config.state / STATE_FILE), AuditLog(config.state)
        self._accusations = Accusations(config.state)
        self._agreement = Agreement(config, self._weights, self._store, self._audit, metrics)
        self._withdrawals = Withdrawals(config, transport)
        self._run: RunOfPlan | None = None

    def run(self) -> None:
        """Take part in one round after another.

        With `stay` in the config nothing that the aggregator answers ends it, and no error: it is logged, and then the
        agent goes on.
        """
        delay, tries = OFFER_SECONDS, 1
        while True:
            try:
                self._between_calls()
                self._agreement.observe()
                self._withdraw(tries)
                offer = self._next()
                if offer is None:
                    self._idle()
                elif self._is_over(offer):
                    return
                delay, tries = OFFER_SECONDS, 1
            except SparsiloError as error:
                if not self._config.stay:
                    raise
                _log.error("%s", error)
                sleep(delay)
                delay, tries = min(2 * delay, MOST_DELAY), WITHDRAWN_TRIES

    def _withdraw(self, tries: int) -> None:
        """Withdraw from rounds that are over; after one that failed, give the others some seconds to do the same."""
        for attempt in range(tries):
            if attempt:
                sleep(OFFER_SECONDS)
            if self._withdrawals.settle(self._signing_key):
                return

    def _is_over(self, offer: round_pb2.Offer) -> bool:
        """Take part in what is offered; return whether it was the end of everything."""
        match offer.WhichOneof("offer"):
            case "round":
                self._consider(offer.round)
            case "over" if self._config.stay:
                raise RoundAborted("the aggregator says that there are no more rounds")
            case "over" if offer.over.failure:
                raise RoundAborted(offer.over.failure)
            case "over":
                return True
            case _:
                raise PlanError("the aggregator offers nothing that this agent knows")
        return False

    def _next(self) -> round_pb2.Offer | None:
        try:
            return self._transport.next()
        except IdentityError:  # the certificate was replaced while no agent ran, and its key is not known yet
            with suppress(SparsiloError):  # what the next call says is what is wrong
                self._announce()
            return self._transport.next()

    def _consider(self, offered: round_pb2.RoundOffer) -> None:
        """Take part in a round that this silo agrees to. Where it does not, the aggregator need not wait."""
        round_ = Round.of(offered.plan, offered.index, offered.input, offered.cohort)
        try:
            with self._declining(round_):
                self._signing_key, self._roster = read_identity(self._config)
                release = self._agreement.release(round_, self._roster)
            if release is None:
                sleep(OFFER_SECONDS)  # nobody decided yet: the same round will be offered again, or it is gone
            else:
                with lines_about(round_.plan.digest.hex()[:16], round_.index):
                    self.take_part(round_, release)
        except PreparationFailed as error:
            if not self._config.stay:
                raise error.__cause__ or error from None
        except (InputError, IdentityError) as error:
            if not self._config.stay:
                raise
            _log.error("%s", error)

    @contextmanager
    def _declining(self, round_: Round) -> Iterator[None]:
        """Tell the aggregator where it need not wait for this silo: it has not spoken in the round, and will not."""
        try:
            with self._on_disk():
                yield
        except (InputError, IdentityError, PreparationFailed) as error:
            with suppress(ProtocolError):  # the round may be over
                self._transport.decline(round_.digest, error.code)
            raise

    def take_part(self, round_: Round, release: Release) -> None:
        """Go through one round that this silo agreed to: what it starts from, what to release, then phase by phase."""
        plan, kind = round_.plan, round_.plan.release_kind(round_.index)
        outcome = "failed"
        self._metrics.enter(Phase.PLAN)
        _log.info("%s round: begins, with %d silos", kind, len(round_.silos))
        try:
            spec = backend_spec(plan.backend)
            with self._declining(round_):
                run = self._run_of(plan, release.data)
                start = run.start(round_.index, self._roster)
                check_start(round_, start, self._config.silo)
                run.fetch(round_.index)
                session = spec.silo_session(round_, self._config.silo, self._signing_key, secrets.token_bytes)
                prepare = partial(self._prepare, run, start, release.data)
                calls = one_round(session, prepare, release, self._store, get_num_threads())
                first = next(calls)
            self._go_through(session, first, calls)
            with self._on_disk():
                if spec.verify is not None:
                    write_whole(run.files.transcript(round_), encode(session.transcript))
            self._metrics.enter(Phase.DONE)
            outcome = "done"
            self._note("round_done", round=round_.digest.hex(), survivors=list(session.survivors))
            _log.info("%s round: done, over %s", kind, ", ".join(session.survivors))
            if self._config.stay and round_.index == len(plan.message.rounds) - 1:
                drop_work(self._config.state)
        except SparsiloError as error:
            self._metrics.enter(Phase.ABORTED)
            reason = str(error) if isinstance(error, PreparationFailed) else error.code
            self._note("round_failed", round=round_.digest.hex(), reason=reason)
            _log.error("%s round: failed: %s", kind, reason)
            raise
        finally:
            with suppress(SparsiloError):  # a disk that fails; the next round's seed takes this one's place
                self._store.forget_noise()
            self._metrics.rounds.labels(kind, outcome).inc()

    def _prepare(self, run: RunOfPlan, start: Start, data: bytes) -> SiloRelease:
        """Compute what this silo releases in the round that `start` is followed by, once it is charged for it.

        Raises ReleaseRefused where the privacy budget has no room for it. Raises PreparationFailed whatever went wrong
        then. An agent that stays does so when the plan's time to prepare is over: neither what it was nor when must be
        heard outside (14.2.3).
        """
        self._agreement.charge(start.round, data)
        began = monotonic()
        try:
            return self._with_noise(start.round, run.prepare(start))
        except Exception as error:  # from torch and the disk it may be of any kind
            if self._config.stay:
                _log.error("%s", _reason(error))
                sleep(max(0.0, began + run.plan.message.preparation_seconds - monotonic()))
            raise PreparationFailed(_reason(error)) from error

    def _with_noise(self, round_: Round, release: SiloRelease) -> SiloRelease:
        """Return what is released with this silo's noise, where the plan has noise."""
        if not round_.plan.pruning.has_noise:
            return release
        alone = Policy.read(self._config.policy).whole_noise
        seed = self._store.noise_seed(round_.digest, secrets.token_bytes)
        noise = Noise(seed, round_.digest, noise_shares(round_.plan) if alone else 1)
        of_votes = round_.plan.pruning.vote_units
        return NoisyVotes(release, noise, round_.plan) if of_votes else NoisyRelease(release, noise)

    def _run_of(self, plan: Plan, data: bytes) -> RunOfPlan:
        """Return the plan's run on this text; what an earlier plan's, or text's, left in memory goes."""
        if self._run is None or (self._run.plan.digest, self._run.data) != (plan.digest, data):
            self._metrics.blocks.set(len(plan.block_weights))
            self._metrics.blocks_done.set(0)
            self._run = RunOfPlan(
                *(plan, data, self._config, self._weights, self._device, self._transport, self._progress)
            )
            if self._config.stay:  # else whoever started this process may want its files
                adopt_masks(self._run.files, plan, self._config.silo, self._store.offers())
                drop_work(self._config.state, but=self._run.files.work)
                if self._config.retention is not None:
                    prune_runs(self._config.state, max(1, self._config.retention))
        return self._run

    @contextmanager
    def _on_disk(self) -> Iterator[None]:
        """A disk that is full or fails is this institution's to mend, and ends one round. Raises OutputError."""
        try:
            yield
        except OSError as error:
            problem = f"{error.filename or self._config.state}: {error.strerror or error}"
            raise OutputError(problem, hint="is there room on the disk of `state`?") from error

    def _go_through(self, session: SiloSession, call: Call, calls: Generator[Call, Any, None]) -> None:
        try:
            while True:
                is_new = self._metrics.enter(session.phase)
                match call:
                    case Upload():
                        self._note_release(session)
                    case Committed() if is_new:
                        self._say(session, f"recomputes {len(session.assigned)} chunks")
                    case Advance():
                        self._say(session, "waits for the others")
                call = calls.send(self._transport.perform(call))
        except StopIteration:
            self._accusations.settle(session.round.digest)
        except SparsiloError as error:
            self._accuse(session, error)
            raise

    def _say(self, session: SiloSession, what: str) -> None:
        """Log what this silo does in the present phase."""
        kind = session.round.plan.release_kind(session.round.index)
        _log.info("%s round: phase %s, %s", kind, session.phase, what)

    def _accuse(self, session: SiloSession, error: SparsiloError) -> None:
        """Keep what there is of a round that ended, where this silo signed what it opened (14.6.1)."""
        round_ = session.round.digest
        if round_ in self._accusations.standing():
            write_whole(self._accusations.evidence(round_), encode(session.transcript))
            self._note("accusation", round=round_.hex(), reason=error.code)

    def _note_release(self, session: SiloSession) -> None:
        """Note in the audit log, before the first word leaves, what will."""
        round_ = session.round
        sent = sum(backend_spec(round_.plan.backend).upload_lengths(round_.layout))
        kind, plan = round_.plan.release_kind(round_.index), round_.plan.digest.hex()
        self._note("release", round=round_.digest.hex(), kind=kind, plan=plan, bytes=sent)
        self._say(session, f"{sent} bytes of masked words leave")

    def _note(self, event: str, **fields: object) -> None:
        self._audit.append(event, "agent", datetime.now(UTC), **fields)


def _reason(error: Exception) -> str:
    """Say what failed. Words of an error that nobody here raised may be those of the text: only known ones are kept."""
    return str(error) if isinstance(error, SparsiloError | OSError | RuntimeError) else type(error).__name__
