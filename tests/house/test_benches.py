"""Every bench can be imported: a bench that nobody has run for a month must not have rotted."""

from importlib import import_module
from pathlib import Path

import pytest

BENCHES = sorted(file.stem for file in (Path(__file__).parents[2] / "bench").glob("*.py") if file.stem != "__init__")
OTHERS_PACKAGES = {"masking"}  # compares with a package that only its make target installs


@pytest.mark.parametrize("name", [name for name in BENCHES if name not in OTHERS_PACKAGES])
def test_a_bench_is_imported(name: str) -> None:
    import_module(f"bench.{name}")
