"""What kills and a long soak have in common: a federation of processes that start in a moment."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from kills.federation import SILOS, KilledFederation
from support.deployment import Deployment


@pytest.fixture
def federation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[KilledFederation]:
    deployment = Deployment(tmp_path, SILOS, capsys)
    killed = KilledFederation(deployment)
    yield killed
    killed.programs.close()
    deployment.close()
