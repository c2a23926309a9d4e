"""`aggregator serve`: answers silos on one port, and carries out one submitted run after another until it is stopped.

Whatever happened is on disk: stopped at any moment and started again, it goes on in the same round.
"""

import asyncio
import logging
import os
import secrets
import signal
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

from prometheus_client import CollectorRegistry

from aggregator.config import AggregatorConfig
from aggregator.edge.servicer import serve
from aggregator.metrics import AggregatorMetrics
from aggregator.rounds.journal import OpenJournal
from aggregator.rounds.round_driver import RoundDriver
from aggregator.rounds.sqlite_journal import SqliteJournal
from aggregator.rounds.withdrawals import Withdrawals
from aggregator.runs.plan_file import PlanFile
from aggregator.runs.planning import Planner
from aggregator.runs.run import PruningRun
from aggregator.runs.run_folder import PLAN_YAML, RunFolder
from aggregator.runs.submitted import Run, Runs, Status
from aggregator.silos.admission import Clock, enrolled, utc_now
from aggregator.silos.enrolments import Enrolments
from aggregator.silos.identity_service import IdentityService
from aggregator.silos.server_identity import ServerIdentity
from crypto.errors import ConfigError, DiskFailed, InputError, ModelError, RoundAborted, SparsiloError
from crypto.plan import Plan
from silo_agent.checkpoint.dense_weights import DenseWeights
from silo_agent.checkpoint.model_folder import model_folder
from silo_agent.host.health import serve_health
from silo_agent.results.manifest import MANIFEST_FILE

CANCELLED: Final = "the aggregator's people cancelled the run"
"""What silos are told of a run that was cancelled."""
LOOK_SECONDS: Final = 1.0
"""How often a newly submitted run is looked for, and whether somebody cancelled the one at work."""

_log = logging.getLogger(__name__)


async def run_aggregator(config: AggregatorConfig, clock: Clock = utc_now) -> None:
    """Serve until SIGTERM or SIGINT. Raises ConfigError, IdentityError or ModelError where it cannot begin."""
    identity, enrolments = ServerIdentity(config, clock), Enrolments(config.state)
    registry = CollectorRegistry()
    metrics = AggregatorMetrics(registry)
    work = Work(config, metrics, enrolments)
    metrics.connected_silos.set_function(work.driver.present.connected)
    metrics.enrolled_silos.set_function(lambda: len(enrolments.roster()))
    metrics.certificate_expiry.set_function(identity.expiry)
    ready = False
    health_port = serve_health(registry, lambda: ready, config.metrics_host, config.metrics_port)
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    await work.take_up()
    service = IdentityService(enrolments, identity.authority, config.suite, clock)
    server, port = await serve(work.driver, enrolled(enrolments, clock), config.address, identity.current, service)
    _log.info("aggregator on port %d, metrics on http://%s:%d/metrics", port, config.metrics_host, health_port)
    ready = True
    tasks = [asyncio.create_task(work.go_on()), asyncio.create_task(stopped.wait())]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if tasks[0].done():
            await tasks[0]
    finally:
        await server.stop()  # first: silos shall take a stop for a lost connection, not for the end of the round
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@dataclass(frozen=True)
class RunAtWork:
    """A submitted run that has begun, in its folder."""

    run: str
    folder: RunFolder
    pruning: PruningRun


Progress = tuple[str, int, int | None, Mapping[str, object] | None]
"""What a run is at, as Runs.advance takes it."""


class Work:
    """The submitted runs, carried out one after another."""

    def __init__(self, config: AggregatorConfig, metrics: AggregatorMetrics, enrolments: Enrolments) -> None:
        self._config, self._metrics, self._enrolments = config, metrics, enrolments
        self._weights = DenseWeights.open(model_folder(config.model))
        self._runs = Runs(config.state)
        self._at_work: RunAtWork | None = None
        self._progress: Progress | None = None
        """What the run is at; None where that is noted."""
        self.driver = RoundDriver(metrics, self._watch, len(os.sched_getaffinity(0)), _journals(config.journal))
        self.driver.withdrawals = Withdrawals(config.state)
        for run in self._runs.all():
            self._publish(run.run)

    def _publish(self, run: str) -> None:
        """Let silos fetch a result that an earlier process left; one that is damaged is left out."""
        folder = self._runs.folder(run)
        if (folder.result / MANIFEST_FILE).exists():
            try:
                self.driver.files.results.publish(folder.plan(), folder.result)
            except (SparsiloError, OSError) as error:
                _log.error("run %s: its result cannot be fetched: %s", run, error)

    async def take_up(self) -> None:
        """Take up what a stopped process left: to be awaited before any silo is heard."""
        runs = await asyncio.to_thread(self._runs.all)
        for run in runs:
            if run.is_over:
                self._runs.folder(run.run).clear(keep_rounds=run.status == Status.FAILED)
        await self._prune()
        left = next((run for run in runs if run.status == Status.RUNNING), None)
        if left is not None:
            self._at_work = await self._begin(left)
        if self._at_work is not None:
            try:
                await self._at_work.pruning.take_up()
            except (SparsiloError, OSError) as error:
                await self._failed(self._at_work.run, error)
                self._at_work = None

    async def go_on(self) -> None:
        """Carry out whatever is submitted, until this is cancelled."""
        while True:
            while self._at_work is None:
                if (run := await asyncio.to_thread(self._runs.next)) is not None:
                    self._at_work = await self._begin(run)
                else:
                    await asyncio.sleep(LOOK_SECONDS)
            await self._carry_out(self._at_work)
            self._at_work = None

    async def _begin(self, run: Run) -> RunAtWork | None:
        """Return the run, which is at work from now on; None where it cannot be, which is then noted."""
        folder, weights = self._runs.folder(run.run), self._weights
        await asyncio.to_thread(self._runs.begin, run.run)
        try:
            asked, plan = PlanFile.read(folder.path / PLAN_YAML), folder.plan()
            roster = {member.silo: member.signing_key for member in plan.message.roster}
            planner = Planner(weights, asked, roster, self._config.suite, secrets.token_bytes, watch=self._watch)
            if (planner.model, planner.files) != (list(plan.message.model), list(plan.message.files)):
                raise ModelError(f"{self._config.model}: is not the model that the run was planned for")
            pruning = PruningRun(planner, plan, weights, self.driver, folder.path, asked.wanted(), self._watch)
        except (SparsiloError, OSError) as error:
            await self._failed(run.run, error)
            return None
        return RunAtWork(run.run, folder, pruning)

    async def _carry_out(self, at_work: RunAtWork) -> None:
        run, folder = at_work.run, at_work.folder
        finishing = asyncio.create_task(at_work.pruning.finish(folder.result))
        looking = [
            asyncio.create_task(self._cancel_when_asked(run, finishing)),
            asyncio.create_task(self._notice_revoked(at_work.pruning.plan)),
            asyncio.create_task(self._note_progress(run)),
        ]
        try:
            report = await finishing
        except asyncio.CancelledError:
            if not (by := await self._cancelled_by(run)):
                raise  # this process is stopped: the next one goes on
            _log.warning("run %s: cancelled by %s", run, by)
            if at_work.pruning.report is not None:  # the result stands
                at_work.pruning.not_evaluated(RoundAborted(CANCELLED), folder.result)
            await self._ended(run, Status.CANCELLED, by)
        except (SparsiloError, OSError) as error:
            await self._failed(run, error)
        else:
            await self._ended(run, Status.DONE, report.unevaluated)
            _log.info("run %s: done: %s", run, folder.result)
        finally:
            for task in looking:
                task.cancel()
        at_work.pruning.withdraw()

    async def _cancel_when_asked(self, run: str, finishing: asyncio.Task[Any]) -> None:
        """Cancel the work on a run once somebody asks for it. The silos are told why the round ended."""
        while not await self._cancelled_by(run):
            await asyncio.sleep(LOOK_SECONDS)
        finishing.cancel(CANCELLED)

    async def _cancelled_by(self, run: str) -> str:
        """Return who asked that a run be cancelled; nobody where that cannot be read."""
        with suppress(InputError):
            return (await asyncio.to_thread(self._runs.find, run)).cancelled_by
        return ""

    async def _note_progress(self, run: str) -> None:
        """Note now and then what the run is at: a file that is locked holds up no round."""
        while True:
            await asyncio.to_thread(self._write_progress, run)
            await asyncio.sleep(LOOK_SECONDS)

    def _write_progress(self, run: str) -> None:
        progress, self._progress = self._progress, None
        if progress is not None:
            try:
                self._runs.advance(run, *progress)
            except InputError as error:  # people see it later
                _log.warning("%s", error)

    async def _notice_revoked(self, plan: Plan) -> None:
        """Let nobody wait for a silo that was revoked, also where it is enrolled again with another key."""
        noticed: set[str] = set()
        for silo_of_plan in plan.silos:  # which may be enrolled again since an earlier run
            self.driver.present.returned(silo_of_plan)
        while True:
            with suppress(InputError):  # the disk's trouble is told to whoever calls
                for silo in await asyncio.to_thread(self._enrolments.silos):
                    of_plan = silo.silo in plan.silos and silo.silo not in noticed
                    if of_plan and (silo.revoked or silo.signing_key != plan.signing_key(silo.silo)):
                        noticed.add(silo.silo)
                        await self.driver.gone(silo.silo, "it is revoked")
            await asyncio.sleep(LOOK_SECONDS)

    async def _failed(self, run: str, error: SparsiloError | OSError) -> None:
        """Note why a run failed. What was the disk's fault or this side's can go on; no silo was told that it ended."""
        why, keep_rounds = str(error), isinstance(error, OSError | InputError | DiskFailed)
        if keep_rounds and self._runs.folder(run).has_rounds:
            why += f". What was summed is kept: aggregator rounds retry {run}"
        _log.error("run %s: failed: %s", run, why)
        await self._ended(run, Status.FAILED, why, keep_rounds=keep_rounds)

    async def _ended(self, run: str, status: Status, why: str, *, keep_rounds: bool = False) -> None:
        """Note the end of a run, also on a disk that was full a moment ago, and remove what nobody needs any more."""
        self._runs.folder(run).remove_halves()
        await asyncio.to_thread(self._write_progress, run)
        while True:
            try:
                await asyncio.to_thread(self._runs.end, run, status, why, datetime.now(UTC))
                break
            except InputError as error:
                _log.error("run %s: %s, which is not noted yet: %s", run, status, error)
                await asyncio.sleep(LOOK_SECONDS)
        self._metrics.runs.labels(status).inc()
        self._runs.folder(run).clear(keep_rounds=keep_rounds)
        await self._prune()

    async def _prune(self) -> None:
        if self._config.retention is None:
            return
        try:
            for pruned in await asyncio.to_thread(self._runs.prune, self._config.retention):
                _log.info("run %s: its folder is removed, as `retention` says", pruned)
        except (InputError, OSError) as error:  # it is tried again after the next run
            _log.warning("retention: %s", error)

    def _watch(self, task: str, done: int, total: int) -> None:
        if self._at_work is not None:
            rounds = self._at_work.pruning.closed
            survivors = min((len(closed.survivors) for closed in rounds), default=None)
            waiting = self.driver.waiting
            self._progress = task, len(rounds), survivors, waiting.as_dict() if waiting else None
        _log.info("%s: %d of %d", task, done, total)


def _journals(url: str) -> OpenJournal:
    """Return what opens a round's journal. Raises ConfigError where that needs a package that is not installed."""
    if not url:
        return SqliteJournal
    try:
        from aggregator.rounds.postgres_journal import PostgresJournal  # noqa: PLC0415 - needs the extra `postgresql`
    except ImportError:
        hint = "install it: pip install 'sparsilo[postgresql]'"
        raise ConfigError("journal: the package psycopg is not installed", hint=hint) from None
    return partial(PostgresJournal, url)
