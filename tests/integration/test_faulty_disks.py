"""A disk that is full or read-only in the middle of a run, as a file system of its own (needs root): an aggregator's
ends the run by that name, a silo's that silo's part in it. Once it is mended all goes on, without a restart.
"""

import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

import pytest

from aggregator.runs.submitted import Run, Runs
from support.deployment import Deployment, until
from support.models import write_text
from support.small_plans import SMALL_PLANS

pytestmark = pytest.mark.parts

SILOS: Final = ("a", "b", "c", "d")


class Disk:
    """A file system in memory, mounted at a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._mount("mount", "-t", "tmpfs", "-o", "size=64m", "none", f"{folder}")

    def _mount(self, command: str, *arguments: str, may_fail: bool = False) -> bool:
        ran = subprocess.run(
            [shutil.which(command) or command, *arguments], check=not may_fail, capture_output=may_fail
        )
        return ran.returncode == 0

    def fill(self) -> None:
        with suppress(OSError), (self._folder / "ballast").open("wb", buffering=0) as ballast:
            while True:
                ballast.write(bytes(1 << 12))

    def free(self) -> None:
        (self._folder / "ballast").unlink()

    def write_protect(self) -> None:
        self._mount("mount", "--bind", f"{self._folder}", f"{self._folder}")  # what is open for writing stays so
        read_only = ("mount", "-o", "remount,bind,ro", f"{self._folder}")
        until(lambda: self._mount(*read_only, may_fail=True))  # not while somebody writes

    def allow_writes(self) -> None:
        self._mount("umount", "-l", f"{self._folder}")

    def close(self) -> None:
        while self._folder.is_mount():
            self._mount("umount", "-l", f"{self._folder}")


FAULTS: Final[dict[str, tuple[Callable[[Disk], None], Callable[[Disk], None], str]]] = {
    "full": (Disk.fill, Disk.free, "full|No space left"),
    "read-only": (Disk.write_protect, Disk.allow_writes, "readonly|Read-only"),
}
"""What breaks a disk, what mends it, and what is said of it."""


class Faulty:
    """Four silos; `whose` state folder lies on a disk of its own. Silo d's agent is not there yet."""

    def __init__(self, folder: Path, whose: str, capsys: pytest.CaptureFixture[str]) -> None:
        self.deployment = Deployment(folder, SILOS, capsys)
        self.state = folder / "state"
        if whose == "aggregator":
            self.disk = Disk(self.state)
        self.server = self.deployment.serve()
        for silo in SILOS:
            self.deployment.enroll(silo)
            self.deployment.policy(silo, approval="auto", **SMALL_PLANS)
        self.deployment.pin()
        if whose == "silo":
            self.disk = Disk(folder / "d" / "state")
        for silo in SILOS[:3]:
            self.deployment.start(silo)

    def begin(self) -> str:
        """Submit a run over texts of its own; return once it waits for d, or is over."""
        for silo in SILOS:
            file = self.deployment.folder / f"{silo}.txt"
            file.write_text(write_text(file, 900, seed=ord(silo) + len(self.runs())).read_text())
        name = self.deployment.submit(phase_seconds=20, preparation_seconds=60)
        until(lambda: any(run.run == name and (run.phase == "plan" or run.is_over) for run in self.runs()))
        return name

    def runs(self) -> list[Run]:
        return Runs(self.state).all()


@pytest.fixture
def faulty(request: pytest.FixtureRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Faulty]:
    made = Faulty(tmp_path, request.param, capsys)
    yield made
    made.deployment.close()
    made.disk.close()


@pytest.mark.clause("4.11")
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("faulty", ["aggregator"], indirect=True)
def test_of_the_aggregator(fault: str, faulty: Faulty) -> None:
    break_, mend, said = FAULTS[fault]
    name = faulty.begin()
    break_(faulty.disk)
    faulty.deployment.start("d")
    faulty.server.wait_for(f"run {name}: failed: .*({said})")
    mend(faulty.disk)
    until(lambda: faulty.deployment.aggregator("rounds", "show", name, "--output", "json").data["status"] == "failed")
    again = faulty.deployment.wait(faulty.begin())
    assert (again.code, again.data["survivors"]) == (0, 4), faulty.server.said
    assert "Traceback" not in faulty.server.said
    assert all(agent.process.poll() is None for agent in faulty.deployment.agents.values())


@pytest.mark.clause("7.21")
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("faulty", ["silo"], indirect=True)
def test_of_a_silo(fault: str, faulty: Faulty) -> None:
    break_, mend, said = FAULTS[fault]
    agent = faulty.deployment.start("d")
    agent.wait_for("metrics on")
    until((faulty.deployment.folder / "d/state/agent.sqlite").exists)
    break_(faulty.disk)
    waited = faulty.deployment.wait(faulty.begin())
    assert (waited.code, waited.data["survivors"]) == (0, 3), faulty.server.said
    agent.wait_for(f"ERROR .*({said})")
    mend(faulty.disk)
    waited = faulty.deployment.wait(faulty.begin())
    assert (waited.code, waited.data["survivors"]) == (0, 4), faulty.server.said + agent.said
    assert agent.process.poll() is None
    assert "Traceback" not in agent.said
