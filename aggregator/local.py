"""`aggregator local`: a whole federation on this machine, through the code that a deployment runs.

This process is the aggregator. Every calibration file gets a silo-agent process of its own, with its own identity,
that dials in over mTLS on loopback. All keys live in a folder that goes when the run ends.
"""

import asyncio
import json
import logging
import os
import secrets
import sys
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import yaml
from prometheus_client import CollectorRegistry

from aggregator.metrics import AggregatorMetrics
from aggregator.planning import CohortSettings, Planner, PruningSettings, silo_names
from aggregator.pruned_tensors import PrunedTensors
from aggregator.releases.evaluation import open_evaluation
from aggregator.report import Perplexity, make_report, seen
from aggregator.report_html import write_report_html
from aggregator.round_driver import ClosedRound, RoundDriver, Watch
from aggregator.servicer import serve
from aggregator.sparse_checkpoint import write_sparse_model
from crypto.errors import ConfigError, InputError, LinkError, OutputError, SparsiloError
from crypto.identity import Authority
from crypto.names import Backend, ReleaseKind, Suite
from crypto.plan import FEWEST_SILOS, MOST_SILOS, Plan
from crypto.primitives.signing import SigningKey
from silo_agent.bitmask_container import stored_bytes
from silo_agent.calibration import read_sequences
from silo_agent.dense_weights import DenseWeights
from silo_agent.device import named_device
from silo_agent.health import serve_health
from silo_agent.opened_rounds import Start
from silo_agent.pruned_file import PrunedFile, file_digest
from silo_agent.run_pruning import pruned_files

LIFETIME: Final = timedelta(days=7)
LEAVE_SECONDS: Final = 30.0
DENSE: Final = "dense"
FEDERATED: Final = "federated"
ALONE: Final = " alone"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LocalSettings:
    """What the command line asked for."""

    model: Path
    calibration: tuple[Path, ...]
    out: Path
    pruning: PruningSettings
    threshold: int | None
    backend: Backend
    phase_seconds: int
    save_counts: bool
    evaluate: int
    """Held-out sequences a silo; 0 evaluates nothing."""
    candidates: Mapping[str, Path]
    """Keep masks or pruned weights to evaluate beside the others."""
    device: str
    suite: Suite
    save_transcript: bool


def run_local(settings: LocalSettings, watch: Watch) -> dict[str, Any]:
    """Runs it; the report. OUT appears whole or not at all.

    Raises InputError before anything is started, LinkError or RoundAborted after.
    """
    weights = _check(settings)
    with _work_folder(settings.out) as work:
        federation = Federation(settings, weights, Path(work), watch)
        report, result = asyncio.run(federation.run())
        (result / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        write_report_html(report, settings.model.name, seen(report), result / "report.html")
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
    for file in settings.calibration:
        read_sequences(
            file,
            weights.tokenizer,
            samples=settings.pruning.samples,
            sequence_length=settings.pruning.sequence_length,
            held_out=settings.evaluate,
        )
    for name, file in settings.candidates.items():
        if name in (DENSE, FEDERATED) or name.endswith(ALONE):
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
        cohort = CohortSettings(roster, settings.threshold, settings.backend, settings.phase_seconds, settings.suite)
        self._planner = Planner(weights, settings.pruning, cohort, secrets.token_bytes)
        self._plan = self._planner.pruning()  # found wrong here, before a process is started
        self.agents: dict[str, Process] = {}

    async def run(self) -> tuple[dict[str, Any], Path]:
        """The report and the folder that becomes OUT."""
        authority = Authority("sparsilo local", datetime.now(UTC), LIFETIME)
        registry = CollectorRegistry()
        self.driver = driver = RoundDriver(AggregatorMetrics(registry), self._watch, len(os.sched_getaffinity(0)))
        own = authority.issue("aggregator", ("localhost", "127.0.0.1"))
        server, port = await serve(driver, frozenset(self._calibration), "127.0.0.1:0", own, authority.certificate)
        health_port = serve_health(registry, lambda: True, "127.0.0.1", 0)
        _log.info("aggregator on 127.0.0.1:%d, metrics on http://127.0.0.1:%d/metrics", port, health_port)
        for silo in self._calibration:
            self.agents[silo] = await self._start(silo, authority, f"127.0.0.1:{port}")
        watchers = [asyncio.create_task(self._watch_agent(silo)) for silo in self.agents]
        rounds = asyncio.create_task(self._rounds())
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

    async def _rounds(self) -> tuple[dict[str, Any], Path]:
        result = self._work / "out"
        result.mkdir()
        plan = self._plan
        rounds, pruned = await self._prune(plan)
        traffic = {silo: replace(self.driver.traffic[silo]) for silo in plan.silos}  # before an evaluation adds to it
        self._watch("writing model", 0, 1)
        achieved = await asyncio.to_thread(
            write_sparse_model, self._weights, pruned.pruned, result / "model", self._provenance(plan, rounds, pruned)
        )
        if self._settings.save_counts:
            pruned.write_counts(result / "keep_counts.safetensors")
        if self._settings.save_transcript:
            for closed in rounds:
                name = f"transcript-{closed.session.round.index}" if len(rounds) > 1 else "transcript"
                closed.save_transcript(result / name)
                self._write_roster(result / name)
        self._watch("writing model", 1, 1)
        perplexity = await self._evaluate(pruned) if self._settings.evaluate else None
        report = make_report(plan, rounds, achieved, traffic, pruned.keep_counts, perplexity)
        return {**report, "bytes_on_disk": self._bytes_on_disk(result / "model", achieved)}, result

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

    async def _prune(self, plan: Plan) -> tuple[list[ClosedRound], PrunedTensors]:
        """Every round of the plan, each from what the ones before it opened."""
        rounds: list[ClosedRound] = []
        pruned = PrunedTensors(plan, self._weights, self._folder("pruned"))
        for index in range(len(plan.message.rounds)):
            start = Start(plan, [closed.opened for closed in rounds])
            closed = await self.driver.run(start.round, self._folder(f"round-{index}"))
            self.driver.offer_opened(closed)
            rounds.append(closed)
            if plan.release_kind(index) in (ReleaseKind.VOTES, ReleaseKind.WEIGHTS):
                tensors = Start(plan, [closed.opened for closed in rounds]).expanded(closed.opened, self._weights)
                await asyncio.to_thread(pruned.add, tensors, len(closed.session.survivors))
        await asyncio.to_thread(pruned.write)
        return rounds, pruned

    async def _evaluate(self, pruned: PrunedTensors) -> Perplexity:
        """A second run over the same silos, whose own pruned weights are at hand only because all is on this machine.

        A silo that layer sampling spared some blocks has no pruned model of its own.
        """
        alone = {} if self._plan.cohort_floor else self._own_pruned()
        files = {
            **{silo + ALONE: file for silo, file in alone.items()},
            **self._settings.candidates,
            FEDERATED: pruned.file,
        }
        digests = {name: file_digest(file) for name, file in files.items()}
        for name, file in files.items():
            self.driver.offer_candidate(digests[name], file)
        plan = self._planner.evaluation(self._settings.evaluate, {DENSE: None, **digests})
        closed = await self.driver.run(Start(plan).round, self._folder("evaluation"))
        found = await asyncio.to_thread(open_evaluation, plan.message.rounds[0].evaluation, closed.opened.chunks())
        return Perplexity(
            dense=found[DENSE],
            alone={silo: found[silo + ALONE] for silo in alone},
            federated=found[FEDERATED],
            candidates={name: found[name] for name in self._settings.candidates},
        )

    def _provenance(self, plan: Plan, rounds: list[ClosedRound], pruned: PrunedTensors) -> dict[str, str]:
        """What the model file says of its origin; nothing that two runs of the same work would differ in."""
        pruning = plan.message.pruning
        return {
            "sparsilo.release": str(plan.release_kind(len(rounds) - 1)),
            "sparsilo.pruner": pruning.pruner,
            "sparsilo.sparsity": str(plan.sparsity),
            "sparsilo.allocation": str(plan.allocation),
            "sparsilo.schedule": str(plan.schedule),
            "sparsilo.survivors": str(min(len(closed.session.survivors) for closed in rounds)),
            "sparsilo.pruned_sha256": pruned.digest.hex(),
        }

    # Processes

    async def _start(self, silo: str, authority: Authority, target: str) -> Process:
        home = self._home(silo)
        home.mkdir(mode=0o700, parents=True)
        identity = authority.issue(silo)
        _write_secret(home / "signing_key", self._signing_keys[silo].to_bytes().hex().encode())
        _write_secret(home / "tls.key", identity.private_key)
        (home / "tls.crt").write_bytes(identity.certificate)
        (home / "ca.crt").write_bytes(authority.certificate)
        self._write_roster(home)
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
            "least_honest_survivors": 2 if self._settings.threshold == 2 else 3,
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

    def _write_roster(self, folder: Path) -> None:
        roster = {silo: key.public_bytes.hex() for silo, key in self._signing_keys.items()}
        (folder / "roster.yaml").write_text(yaml.safe_dump(roster), encoding="utf-8")

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

    def _folder(self, name: str) -> Path:
        folder = self._work / name
        folder.mkdir(mode=0o700)
        return folder


def _write_secret(file: Path, content: bytes) -> None:
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as out:
        out.write(content)
