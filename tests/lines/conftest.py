"""A federation over a bad line: the aggregator on one host, its silos on the other."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from lines.line import HERE, Line, ip
from support.deployment import Deployment, Program

SILOS = ("a", "b", "c")


class FarFederation:
    """Three silos, enrolled over a good line, and an aggregator on another host than theirs."""

    def __init__(self, folder: Path, line: Line, capsys: pytest.CaptureFixture[str]) -> None:
        self.line = line
        self.deployment = Deployment(folder, SILOS, capsys, host=HERE, hidden=384)
        ip("addr", "add", f"{HERE}/32", "dev", "lo")  # commands that enrol run on this host
        try:
            near = self.deployment.serve()
            for silo in SILOS:
                self.deployment.enroll(silo)
                self.deployment.policy(silo, approval="auto", least_samples=1, least_sequence_length=2)
            self.deployment.pin()
            near.end()
        finally:
            ip("addr", "del", f"{HERE}/32", "dev", "lo")

    def start(self) -> Program:
        """Start the aggregator here and all agents there; return the former."""
        server = self.deployment.serve(within=self.line.here.prefix)
        for silo in SILOS:
            self.deployment.start(silo, within=self.line.there.prefix)
        return server


@pytest.fixture
def far(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[FarFederation]:
    line = Line(seed=1)
    federation = FarFederation(tmp_path, line, capsys)
    yield federation
    federation.deployment.close()
    line.close()
