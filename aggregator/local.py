"""`aggregator local`: a whole federation on this machine, through the code that a deployment runs.

This process is the aggregator. Every calibration file gets a silo-agent process of its own, with its own identity,
that dials in over mTLS on loopback. All keys live in a folder that goes when the run ends.
"""

import asyncio
import logging
import os
import secrets
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from prometheus_client import CollectorRegistry

from aggregator.edge.servicer import serve
from aggregator.local_agents import LocalAgents
from aggregator.metrics import AggregatorMetrics
from aggregator.results.report import Report
from aggregator.rounds.round_driver import RoundDriver, Watch
from aggregator.runs.evaluation import is_reserved
from aggregator.runs.planning import Planner, silo_names
from aggregator.runs.run import PruningRun, Wanted
from aggregator.silos.admission import known, utc_now
from crypto.errors import ConfigError, OutputError, SparsiloError
from crypto.identity import Authority
from crypto.names import Backend, ReleaseKind, Suite
from crypto.plan import FEWEST_SILOS, MOST_SILOS
from crypto.plan_options import PlanOptions
from crypto.primitives.signing import SigningKey
from crypto.pruning.pruners import PRUNERS
from silo_agent.checkpoint.dense_weights import DenseWeights
from silo_agent.checkpoint.pruned_file import PrunedFile
from silo_agent.config import AgentConfig
from silo_agent.host.health import serve_health
from silo_agent.model.calibration import check_text, data_digest, read_sequences, usual_length
from silo_agent.model.device import named_device
from silo_agent.pruning.pruned_files import pruned_files
from silo_agent.rounds.run_files import RunFiles

LIFETIME: Final = timedelta(days=7)
"""How long the authority of one run, and the certificates that it issues, are in force."""
RESULT_FOLDER: Final = "result"
UNBOUNDED: Final = 1_000_000_000
"""How much of anything a run on one machine may ask for, and how often: as good as whatever it likes."""
WIDEST: Final = {
    "least_sparsity_ratio": 0,
    "most_sparsity_ratio": 1,
    "least_sparsity_ratio_of_others": 0,
    "most_sparsity_ratio_of_others": 1,
    "least_samples": 1,
    "most_samples": UNBOUNDED,
    "least_sequence_length": 2,
    "most_sequence_length": UNBOUNDED,
    "least_held_out_sequences": 1,
    "most_held_out_sequences": UNBOUNDED,
    "most_rounds": UNBOUNDED,
}
"""Bounds of a rehearsal's policy: whoever asks is whoever agrees."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LocalSettings:
    """What the command line of `aggregator local` asked for."""

    model: Path
    calibration: tuple[Path, ...]
    out: Path
    asked: PlanOptions
    backend: Backend
    evaluate: int
    """Held-out sequences a silo; 0 evaluates nothing."""
    wanted: Wanted
    device: str
    suite: Suite


def run_local(settings: LocalSettings, watch: Watch) -> Report:
    """Run the federation; return its report. OUT appears whole or not at all.

    Raises InputError before anything is started, LinkError or RoundAborted after.
    """
    weights = _check(settings)
    with _work_folder(settings.out) as work:
        federation = Federation(settings, weights, Path(work), watch)
        report = asyncio.run(federation.run())
        if settings.out.exists():
            settings.out.rmdir()
        federation.result.rename(settings.out)
    return report


def _work_folder(out: Path) -> TemporaryDirectory[str]:
    """Return a hidden folder beside OUT, closed to other users, from which the result can be renamed into place."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        return TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent)
    except OSError as error:
        raise OutputError(f"{out.parent}: {error.strerror}", hint="name another place with --out") from None


def _check(settings: LocalSettings) -> DenseWeights:
    """Open the model. Raises InputError for everything that can be found wrong before a process is started."""
    silos = len(settings.calibration)
    if not FEWEST_SILOS <= silos <= MOST_SILOS:
        raise ConfigError(
            f"--calibration: {silos} silos given, {FEWEST_SILOS} to {MOST_SILOS} are needed",
            hint="a sum hides a silo only among others; give --calibration once a silo",
        )
    if settings.out.exists() and (not settings.out.is_dir() or any(settings.out.iterdir())):
        raise OutputError(f"{settings.out}: is not an empty folder", hint="name a new one with --out")
    named_device(settings.device)
    weights = DenseWeights.open(settings.model)
    length = usual_length(weights.config, settings.asked.sequence_length)
    for file in settings.calibration:
        if settings.asked.epsilon is not None:  # then a text has as many units as it has
            check_text(file)
            continue
        read_sequences(
            file,
            weights.tokenizer,
            samples=settings.asked.samples,
            sequence_length=length,
            held_out=settings.evaluate,
        )
    for name, file in settings.wanted.candidates.items():
        if is_reserved(name):
            raise ConfigError(f"--candidate: the name {name!r} is taken", hint="choose another")
        PrunedFile(file).check_keep_masks({name: tuple(weights.shape(name)) for name in weights.prunable})
    return weights


class Federation:
    """One aggregator, which is this process, and its agents."""

    def __init__(self, settings: LocalSettings, weights: DenseWeights, work: Path, watch: Watch) -> None:
        self._settings = settings
        self._weights = weights
        self._work = work
        self.result: Final = work / RESULT_FOLDER
        """Where the result is made; it is renamed to the folder that the user named once it is whole."""
        self._watch = watch
        self._calibration = dict(sorted(zip(silo_names(settings.calibration), settings.calibration, strict=True)))
        self._signing_keys = {silo: SigningKey.generate(settings.suite) for silo in self._calibration}
        roster = {silo: key.public_bytes for silo, key in self._signing_keys.items()}
        suite, backend = settings.suite, settings.backend
        self._planner = Planner(weights, settings.asked, roster, suite, secrets.token_bytes, backend, watch=watch)
        self._plan = self._planner.pruning(settings.evaluate)  # found wrong here, before a process is started

    async def run(self) -> Report:
        """Carry out all rounds; return the report.

        Raises LinkError or RoundAborted, and an agent's own error where one says why.
        """
        authority = Authority("sparsilo local", datetime.now(UTC), LIFETIME)
        registry = CollectorRegistry()
        driver = RoundDriver(AggregatorMetrics(registry), self._watch, len(os.sched_getaffinity(0)))
        self.agents = LocalAgents(self._work / "silos", self._signing_keys, self._policy(), driver.gone)
        own = authority.issue("aggregator", ("localhost", "127.0.0.1"))
        admit = known(frozenset(self._calibration), utc_now)
        server, port = await serve(driver, admit, "127.0.0.1:0", lambda: (own, authority.certificate))
        health_port = serve_health(registry, lambda: True, "127.0.0.1", 0)
        _log.info("aggregator on 127.0.0.1:%d, metrics on http://127.0.0.1:%d/metrics", port, health_port)
        for silo in self._calibration:
            await self.agents.start(self._agent_config(silo, f"127.0.0.1:{port}"), authority)
        watchers = self.agents.watch()
        run = PruningRun(
            *(self._planner, self._plan, self._weights, driver, self._work, self._settings.wanted, self._watch),
            self._own_keep_masks,
        )
        rounds = asyncio.create_task(run.finish(self.result))
        try:
            await self._until_done(rounds, watchers)
            return await rounds
        except SparsiloError as error:
            await driver.finish(error.message)
            return run.not_evaluated(error, self.result)
        finally:
            rounds.cancel()
            await driver.finish()
            await self.agents.leave()
            await asyncio.gather(rounds, *watchers, return_exceptions=True)
            await server.stop()

    @staticmethod
    async def _until_done(rounds: asyncio.Task[Any], watchers: list[asyncio.Task[None]]) -> None:
        """Wait until the rounds have ended. Raises an agent's own error, which explains a failed round better."""
        while not rounds.done():
            running = [watcher for watcher in watchers if not watcher.done()]
            await asyncio.wait([rounds, *running], return_when=asyncio.FIRST_COMPLETED)
            for watcher in watchers:
                if watcher.done():
                    watcher.result()

    def _agent_config(self, silo: str, address: str) -> AgentConfig:
        """Return the config of a silo's agent, which dials `address`."""
        model, calibration = self._settings.model.absolute(), self._calibration[silo].absolute()
        return replace(
            AgentConfig.beside(silo, address, model, calibration),
            backend=self._settings.backend,
            suite=self._settings.suite,
            device=self._settings.device,
        )

    def _policy(self) -> dict[str, object]:
        """Return every silo's policy: whoever runs all silos on one machine agrees to the kinds that they asked for."""
        asked = {self._plan.release_kind(index) for index in range(len(self._plan.message.rounds))}
        policy: dict[str, object] = {
            "models": "any",
            "approval": "auto",
            "release_kinds": sorted(kind.value for kind in asked | {ReleaseKind.EVALUATION}),
            "budget": {"releases": UNBOUNDED},
            **WIDEST,
            "candidates": UNBOUNDED,
        }
        if self._settings.asked.threshold == 2:
            policy |= {"least_survivors": 2, "least_honest_survivors": 2}
        return policy

    def _own_keep_masks(self) -> dict[str, Path]:
        """Return, by silo, the keep masks that it has alone, where it got that far; none with new weights beside."""
        if PRUNERS[self._plan.pruning.pruner].updates_weights:
            return {}
        files = {}
        for silo, text in self._calibration.items():
            run_files = RunFiles(self.agents.home(silo) / "state", self._plan.digest, data_digest(text))
            files[silo] = pruned_files(run_files.work, None).keep_masks
        return {silo: file for silo, file in files.items() if file.exists()}
