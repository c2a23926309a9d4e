"""The demo as a visitor runs it, held against what the README says of it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.minutes
def test_federated_beats_sharing_nothing(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "bench.demo.run", "--out", str(tmp_path / "demo")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    report = json.loads((tmp_path / "demo" / "pruned" / "report.json").read_text())
    perplexity = report["perplexity"]
    assert perplexity["dense"] < perplexity["federated"]
    assert perplexity["federated"] < perplexity["self_calibrated"]
    assert report["survivors"] == ["cpp-headers", "licences", "python-code", "python-manual"]
    for words in ("federated", "bytes up", "Phases", "Sparse model: ", "The aggregator saw masked words"):
        assert words in ran.stdout
