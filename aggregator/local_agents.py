"""The silos of `aggregator local`: a folder and a `silo-agent run` process each, on this machine."""

import asyncio
import logging
import os
import sys
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

import yaml

from crypto.errors import InputError, LinkError
from crypto.identity import Authority
from crypto.primitives.signing import SigningKey
from crypto.roster import roster_file
from silo_agent.config import AgentConfig
from silo_agent.host.credential_files import write_secret, write_signing_key
from silo_agent.settings.layered_config import config_file

LEAVE_SECONDS: Final = 30.0
"""How long an agent may take to leave after it heard that all is over."""

_log = logging.getLogger(__name__)


class LocalAgents:
    """Agent processes, by silo, that run from folders below `folder`."""

    def __init__(
        self,
        folder: Path,
        signing_keys: Mapping[str, SigningKey],
        policy: Mapping[str, object],
        on_failure: Callable[[str], Awaitable[None]],
    ) -> None:
        """Start nothing yet. `policy` is every silo's; `on_failure` is told the silo whose agent failed."""
        self._folder, self._signing_keys, self._policy, self._on_failure = folder, signing_keys, policy, on_failure
        self.processes: dict[str, Process] = {}
        self._watchers: list[asyncio.Task[None]] = []

    def home(self, silo: str) -> Path:
        """Return the folder that a silo's agent runs from."""
        return self._folder / silo

    async def start(self, config: AgentConfig, authority: Authority) -> None:
        """Start the agent of `config`, which names its own files beside agent.yaml; `authority` certifies it."""
        home = self._write_home(config, authority)
        # All silos share this machine's cores: more threads than cores, or waiting by spinning, would slow them all.
        threads = str(max(1, (os.cpu_count() or 1) // len(self._signing_keys)))
        environment = {"OMP_NUM_THREADS": threads, "OMP_WAIT_POLICY": "PASSIVE", **os.environ}
        with (home / "agent.log").open("wb") as log:
            self.processes[config.silo] = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "silo_agent.cli", "run", "--config", home / "agent.yaml"),
                stdin=DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
            )

    def watch(self) -> list[asyncio.Task[None]]:
        """Return a task for each agent, which ends with it and raises what explains its end (see `_watch`)."""
        self._watchers = [asyncio.create_task(self._watch(silo)) for silo in self.processes]
        return self._watchers

    async def leave(self) -> None:
        """Wait until all watched agents have ended; those that take longer than LEAVE_SECONDS are killed."""
        _, waiting = await asyncio.wait(self._watchers, timeout=LEAVE_SECONDS)
        for process in self.processes.values():
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    process.kill()
        if waiting:
            await asyncio.wait(waiting)

    def _write_home(self, config: AgentConfig, authority: Authority) -> Path:
        """Write a silo's keys, certificates, roster, policy.yaml and agent.yaml; return their folder."""
        home = self.home(config.silo)
        home.mkdir(mode=0o700, parents=True)
        own = authority.issue(config.silo)
        roster = {silo: key.public_bytes for silo, key in self._signing_keys.items()}
        write_signing_key(home / config.signing_key, self._signing_keys[config.silo])
        write_secret(home / config.private_key, own.private_key)
        (home / config.certificate).write_bytes(own.certificate)
        (home / config.authority).write_bytes(authority.certificate)
        (home / config.roster).write_bytes(roster_file(roster))
        (home / config.policy).write_text(yaml.safe_dump(self._policy), encoding="utf-8")
        (home / "agent.yaml").write_text(config_file(config), encoding="utf-8")
        return home

    async def _watch(self, silo: str) -> None:
        """Return when the agent has ended. Raises its last words where its input or identity was at fault."""
        code = await self.processes[silo].wait()
        if code == 0:
            return
        lines = (self.home(silo) / "agent.log").read_text(encoding="utf-8", errors="replace").strip().splitlines()
        last_words = lines[-1].removeprefix("error: ") if lines else "said nothing"
        _log.warning("%s: its agent ended with exit code %d: %s", silo, code, last_words)
        await self._on_failure(silo)
        if code in (InputError.exit_code, LinkError.exit_code):
            raise (InputError if code == InputError.exit_code else LinkError)(f"{silo}: {last_words}")
