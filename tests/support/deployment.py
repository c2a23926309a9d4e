"""A federation as people run it: `aggregator serve` and an agent a silo, each a process, and commands beside them."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import IO, Any

import pytest
import yaml

from aggregator.cli import cli as aggregator
from silo_agent.cli import cli as silo_agent
from support.commands import Ran, run
from support.models import tiny_llama, write_text
from support.small_plans import SMALL_PLANS

PATIENCE = 300.0
PLAN: Mapping[str, object] = {
    "release": "votes",
    "samples": 4,
    "sequence_length": 32,
    "phase_seconds": 60,
    "preparation_seconds": 300,
}


def until(true: Callable[[], Any], patience: float = PATIENCE) -> Any:
    """What `true` gives once it is true."""
    end = time.monotonic() + patience
    while not (found := true()):
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.05)
    return found


class Program:
    """A process whose output goes to a file."""

    def __init__(self, log: Path, *arguments: object, within: Sequence[str] = (), **environment: str) -> None:
        """`within` are words before the command, which say where it is to run."""
        self.log = log
        self._out: IO[bytes] = log.open("ab")
        self.process = subprocess.Popen(
            [*within, sys.executable, "-m", *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            stdout=self._out,
            stderr=self._out,
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
            umask=0o022,  # as most machines have it
        )

    @property
    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def wait_for(self, pattern: str) -> re.Match[str]:
        def found() -> re.Match[str] | None:
            assert self.process.poll() is None or re.search(pattern, self.said), self.said[-2000:]
            return re.search(pattern, self.said)

        match: re.Match[str] = until(found)
        return match

    def end(self, number: int = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        code = self.process.wait(PATIENCE)
        self._out.close()
        return code


class Deployment:
    """In `folder`; call `close` at the end."""

    def __init__(
        self,
        folder: Path,
        silos: Sequence[str],
        capsys: pytest.CaptureFixture[str],
        *,
        host: str = "127.0.0.1",
        hidden: int = 32,
    ) -> None:
        self.folder, self.silos, self._capsys, self._host = folder, tuple(silos), capsys, host
        self.model = tiny_llama(folder / "dense", hidden=hidden)
        self.port = 0
        self.programs: list[Program] = []
        self.agents: dict[str, Program] = {}
        self.config = folder / "aggregator.yaml"

    def serve(self, journal: str = "", *, within: Sequence[str] = (), **environment: str) -> Program:
        """Start it, at first on a port that is free; again on the same."""
        if not self.port:
            import socket

            with socket.socket() as listener:
                listener.bind((self._host, 0))
                self.port = listener.getsockname()[1]
            settings = {
                "public_address": f"{'localhost' if self._host == '127.0.0.1' else self._host}:{self.port}",
                "address": f"{self._host}:{self.port}",
                "model": str(self.model),
                "state": "state",
            }
            self.config.write_text(yaml.safe_dump({**settings, **({"journal": journal} if journal else {})}))
        log = self.folder / f"aggregator-{len(self.programs)}.log"
        program = Program(log, "aggregator.cli", "serve", "--config", self.config, within=within, **environment)
        self.programs.append(program)
        program.wait_for(r"aggregator on port (\d+)")
        return program

    def aggregator(self, *arguments: object) -> Ran:
        return run(aggregator, [*arguments, "--config", self.config], self._capsys)

    def silo(self, silo: str, *arguments: object) -> Ran:
        return run(silo_agent, [*arguments, "--config", self.agent_config(silo)], self._capsys)

    def agent_config(self, silo: str) -> Path:
        return self.folder / silo / "agent.yaml"

    def enroll(self, silo: str, **settings: object) -> Ran:
        """Invite and enrol; `settings` change its agent.yaml."""
        invitation, text = self.folder / f"{silo}.yaml", self.folder / f"{silo}.txt"
        write_text(text, 900, seed=sum(silo.encode()))
        invited = self.aggregator("invite", "--silo", silo, "--out", invitation, "--output", "json")
        assert invited.code == 0, invited.err
        assert invited.data["fingerprint"] == sha256(invitation.read_bytes()).hexdigest()
        arguments = [
            "--invitation",
            invitation,
            "--fingerprint",
            invited.data["fingerprint"],
            "--out",
            self.folder / silo,
        ]
        enrolled = run(silo_agent, ["enroll", *arguments, "--model", self.model, "--calibration", text], self._capsys)
        assert enrolled.code == 0, enrolled.err
        config = yaml.safe_load(self.agent_config(silo).read_text())
        self.agent_config(silo).write_text(yaml.safe_dump({**config, **settings}))
        return enrolled

    def policy(self, silo: str, **fields: object) -> None:
        file = self.folder / silo / "policy.yaml"
        file.write_text(yaml.safe_dump({**yaml.safe_load(file.read_text()), **fields}))

    def pin(self) -> None:
        shown = self.silo(self.silos[0], "roster", "show", "--output", "json")
        assert shown.code == 0, shown.err
        for silo in self.silos:
            pinned = self.silo(silo, "roster", "pin", "--fingerprint", shown.data["fingerprint"])
            assert pinned.code == 0, pinned.err

    def join(self, *, approval: str = "auto", **settings: object) -> None:
        """All silos enrol, pin, and start their agents."""
        for silo in self.silos:
            self.enroll(silo, **settings)
            self.policy(silo, approval=approval, **SMALL_PLANS)
        self.pin()
        for silo in self.silos:
            self.start(silo)

    def start(self, silo: str, *, within: Sequence[str] = (), **environment: str) -> Program:
        log = self.folder / f"{silo}-{len(self.programs)}.log"
        program = Program(
            log, "silo_agent.cli", "run", "--config", self.agent_config(silo), within=within, **environment
        )
        self.agents[silo] = program
        self.programs.append(program)
        return program

    def submit(self, **fields: object) -> str:
        plan = self.folder / "plan.yaml"
        plan.write_text(yaml.safe_dump({**PLAN, **fields}))
        submitted = self.aggregator("plan", "submit", plan, "--output", "json")
        assert submitted.code == 0, submitted.err
        name: str = submitted.data["run"]
        return name

    def wait(self, name: str, timeout: int = int(PATIENCE)) -> Ran:
        return self.aggregator("rounds", "wait", name, "--timeout", timeout, "--output", "json")

    def close(self) -> None:
        for program in self.programs:
            if program.process.poll() is None:
                program.process.kill()
            program.process.wait(PATIENCE)
