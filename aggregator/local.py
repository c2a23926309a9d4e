"""`aggregator local`: a whole federation on this machine, through the code that a deployment runs.

This process is the aggregator. Every calibration file gets a silo-agent process of its own, with its own identity,
that dials in over mTLS on loopback. All keys live in a folder that goes when the run ends.
"""

import asyncio
import logging
import os
import secrets
import sys
from asyncio.subprocess import DEVNULL, Process
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import yaml
from prometheus_client import CollectorRegistry

from aggregator.metrics import AggregatorMetrics
from aggregator.results.report import Report
from aggregator.rounds.round_driver import RoundDriver, Watch
from aggregator.rounds.servicer import serve
from aggregator.runs.evaluation import is_reserved
from aggregator.runs.planning import Planner, silo_names
from aggregator.runs.run import PruningRun, Wanted
from aggregator.silos.admission import known, utc_now
from crypto.errors import ConfigError, InputError, LinkError, OutputError, SparsiloError
from crypto.identity import Authority
from crypto.names import Backend, Suite
from crypto.plan import FEWEST_SILOS, MOST_SILOS
from crypto.plan_options import PlanOptions
from crypto.primitives.signing import SigningKey
from crypto.roster import roster_file
from silo_agent.config import write_secret
from silo_agent.host.health import serve_health
from silo_agent.model.calibration import read_sequences, usual_length
from silo_agent.model.dense_weights import DenseWeights
from silo_agent.model.device import named_device
from silo_agent.model.pruned_file import PrunedFile
from silo_agent.rounds.run_pruning import pruned_files

LIFETIME: Final = timedelta(days=7)
LEAVE_SECONDS: Final = 30.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LocalSettings:
    """What the command line asked for."""

    model: Path
    calibration: tuple[Path, ...]
    out: Path
    asked: PlanOptions
    backend: Backend
    wanted: Wanted
    device: str
    suite: Suite


def run_local(settings: LocalSettings, watch: Watch) -> Report:
    """Runs it; the report. OUT appears whole or not at all.

    Raises InputError before anything is started, LinkError or RoundAborted after.
    """
    weights = _check(settings)
    with _work_folder(settings.out) as work:
        federation = Federation(settings, weights, Path(work), watch)
        report, result = asyncio.run(federation.run())
        if settings.out.exists():
            settings.out.rmdir()
        result.rename(settings.out)
    return report


def _work_folder(out: Path) -> TemporaryDirectory[str]:
    """A hidden folder beside OUT, so that the result can be renamed into place; closed to other users."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        return TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent)
    except OSError as error:
        raise OutputError(f"{out.parent}: {error.strerror}", hint="name another place with --out") from None


def _check(settings: LocalSettings) -> DenseWeights:
    """Everything that can be found wrong before a process is started."""
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
        read_sequences(
            file,
            weights.tokenizer,
            samples=settings.asked.samples,
            sequence_length=length,
            held_out=settings.wanted.evaluate,
        )
    for name, file in settings.wanted.candidates.items():
        if is_reserved(name):
            raise ConfigError(f"--candidate: the name {name!r} is taken", hint="choose another")
        PrunedFile(file).check((name, tuple(weights.shape(name)), weights.dtype(name)) for name in weights.prunable)
    return weights


class Federation:
    """One aggregator and its agents, for one `local`."""

    def __init__(self, settings: LocalSettings, weights: DenseWeights, work: Path, watch: Watch) -> None:
        self._settings = settings
        self._weights = weights
        self._work = work
        self._watch = watch
        self._calibration = dict(sorted(zip(silo_names(settings.calibration), settings.calibration, strict=True)))
        self._signing_keys = {silo: SigningKey.generate(settings.suite) for silo in self._calibration}
        roster = {silo: key.public_bytes for silo, key in self._signing_keys.items()}
        suite, backend = settings.suite, settings.backend
        self._planner = Planner(weights, settings.asked, roster, suite, secrets.token_bytes, backend)
        self._plan = self._planner.pruning()  # found wrong here, before a process is started
        self.agents: dict[str, Process] = {}

    async def run(self) -> tuple[Report, Path]:
        """The report and the folder that becomes OUT."""
        authority = Authority("sparsilo local", datetime.now(UTC), LIFETIME)
        registry = CollectorRegistry()
        self.driver = driver = RoundDriver(AggregatorMetrics(registry), self._watch, len(os.sched_getaffinity(0)))
        own = authority.issue("aggregator", ("localhost", "127.0.0.1"))
        admit = known(frozenset(self._calibration), utc_now)
        server, port = await serve(driver, admit, "127.0.0.1:0", lambda: (own, authority.certificate))
        health_port = serve_health(registry, lambda: True, "127.0.0.1", 0)
        _log.info("aggregator on 127.0.0.1:%d, metrics on http://127.0.0.1:%d/metrics", port, health_port)
        for silo in self._calibration:
            self.agents[silo] = await self._start(silo, authority, f"127.0.0.1:{port}")
        watchers = [asyncio.create_task(self._watch_agent(silo)) for silo in self.agents]
        run = PruningRun(
            *(self._planner, self._plan, self._weights, driver, self._work, self._settings.wanted, self._watch),
            self._own_pruned,
        )
        rounds = asyncio.create_task(run.finish())
        try:
            await self._until_done(rounds, watchers)
            return await rounds
        except SparsiloError as error:
            await driver.finish(error.message)
            raise
        finally:
            rounds.cancel()
            await driver.finish()
            await self._leave(watchers)
            await asyncio.gather(rounds, *watchers, return_exceptions=True)
            await server.stop(None)

    @staticmethod
    async def _until_done(rounds: asyncio.Task[Any], watchers: list[asyncio.Task[None]]) -> None:
        """Until the rounds have ended; raises an agent's own error, which explains a failed round better."""
        while not rounds.done():
            running = [watcher for watcher in watchers if not watcher.done()]
            await asyncio.wait([rounds, *running], return_when=asyncio.FIRST_COMPLETED)
            for watcher in watchers:
                if watcher.done():
                    watcher.result()

    # Processes

    async def _start(self, silo: str, authority: Authority, target: str) -> Process:
        home = self._home(silo)
        home.mkdir(mode=0o700, parents=True)
        identity = authority.issue(silo)
        write_secret(home / "signing_key", self._signing_keys[silo].to_bytes().hex().encode())
        write_secret(home / "tls.key", identity.private_key)
        (home / "tls.crt").write_bytes(identity.certificate)
        (home / "ca.crt").write_bytes(authority.certificate)
        roster = {each: key.public_bytes for each, key in self._signing_keys.items()}
        (home / "roster.yaml").write_bytes(roster_file(roster))
        policy = {
            "models": "any",
            "approval": "auto",
            **({"least_survivors": 2, "least_honest_survivors": 2} if self._settings.asked.threshold == 2 else {}),
            "budget": {"releases": 1_000_000},
        }
        (home / "policy.yaml").write_text(yaml.safe_dump(policy), encoding="utf-8")
        config = {
            "silo": silo,
            "aggregator": target,
            "model": str(self._settings.model.absolute()),
            "calibration": str(self._calibration[silo].absolute()),
            "state": "state",
            "signing_key": "signing_key",
            "roster": "roster.yaml",
            "certificate": "tls.crt",
            "private_key": "tls.key",
            "authority": "ca.crt",
            "backend": str(self._settings.backend),
            "suite": self._settings.suite.profile,
            "policy": "policy.yaml",
            "device": self._settings.device,
        }
        (home / "agent.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
        # All silos share this machine's cores: more threads than cores, or waiting by spinning, would slow them all.
        threads = str(max(1, (os.cpu_count() or 1) // len(self._calibration)))
        environment = {"OMP_NUM_THREADS": threads, "OMP_WAIT_POLICY": "PASSIVE", **os.environ}
        with (home / "agent.log").open("wb") as log:
            return await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "silo_agent.cli", "run", "--config", home / "agent.yaml"),
                stdin=DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
            )

    async def _watch_agent(self, silo: str) -> None:
        """Ends quietly with the agent; raises what the agent said where its input or identity was at fault."""
        code = await self.agents[silo].wait()
        if code == 0:
            return
        lines = (self._home(silo) / "agent.log").read_text(encoding="utf-8", errors="replace").strip().splitlines()
        said = lines[-1].removeprefix("error: ") if lines else "said nothing"
        _log.warning("%s: its agent ended with exit code %d: %s", silo, code, said)
        await self.driver.gone(silo)
        if code in (InputError.exit_code, LinkError.exit_code):
            raise (InputError if code == InputError.exit_code else LinkError)(f"{silo}: {said}")

    async def _leave(self, watchers: list[asyncio.Task[None]]) -> None:
        """Agents leave when they hear that all is over; those that do not are ended."""
        _, waiting = await asyncio.wait(watchers, timeout=LEAVE_SECONDS)
        for agent in self.agents.values():
            if agent.returncode is None:
                with suppress(ProcessLookupError):
                    agent.kill()
        if waiting:
            await asyncio.wait(waiting)

    def _own_pruned(self) -> dict[str, Path]:
        """What each silo would have without the others, where it got that far: its pruned weights or keep masks."""
        found = {}
        for silo in self._calibration:
            files = pruned_files(self._home(silo) / "state", self._plan, None)
            alone = files.weights if files.weights.exists() else files.keep_masks
            if alone.exists():
                found[silo] = alone
        return found

    def _home(self, silo: str) -> Path:
        return self._work / "silos" / silo
