"""A federation of three silos as people run it, which most tests of whole processes have."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.deployment import Deployment


@pytest.fixture
def deployment(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Deployment]:
    made = Deployment(tmp_path, ["a", "b", "c"], capsys)
    yield made
    made.close()
