"""Lets tests of every folder import the shared makers beside this file (`from models import tiny_llama`)."""

import os
import sys
from pathlib import Path

import pytest
from hypothesis import settings

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: workers and silos share the cores as it is

sys.path.insert(0, str(Path(__file__).parent))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--schedule", help="run one schedule of tests/scenarios/test_schedules.py, by its seed")
    parser.addoption("--rewrite-stories", action="store_true", help="write tests/scenarios/stories/ anew")
    parser.addoption(
        "--write-docs", action="store_true", help="with all of tests/model_types: write docs/model-types.md"
    )


# A loaded machine is slow, not wrong: no test is timed.
settings.register_profile("sparsilo", deadline=None)
settings.load_profile("sparsilo")
