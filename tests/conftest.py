"""Lets tests of every folder import the shared makers beside this file (`from models import tiny_llama`)."""

import sys
from pathlib import Path

from hypothesis import settings

sys.path.insert(0, str(Path(__file__).parent))

# A loaded machine is slow, not wrong: no test is timed.
settings.register_profile("sparsilo", deadline=None)
settings.load_profile("sparsilo")
