"""The committed stubs are what `make proto` generates from the .proto files beside them."""

import subprocess
import sys
from pathlib import Path

import pytest

PROTO = Path(__file__).parents[2] / "proto"
STUBS = PROTO / "sparsilo" / "v1"


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("stubs")
    sources = sorted(str(file) for file in STUBS.glob("*.proto"))
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTO}", f"--python_out={out}", f"--pyi_out={out}"]
    subprocess.run([*command, *sources], check=True)
    return out / "sparsilo" / "v1"


def test_no_stub_is_missing_or_left_over(generated: Path) -> None:
    committed = {file.name for file in STUBS.iterdir() if file.suffix in (".py", ".pyi")}
    assert {file.name for file in generated.iterdir()} | {"__init__.py"} == committed
    assert len(committed) == 1 + 2 * len(list(STUBS.glob("*.proto")))


@pytest.mark.parametrize("suffix", [".py", ".pyi"])
@pytest.mark.parametrize("name", sorted(file.stem for file in STUBS.glob("*.proto")))
def test_a_stub_is_up_to_date(generated: Path, name: str, suffix: str) -> None:
    file = f"{name}_pb2{suffix}"
    assert (generated / file).read_bytes() == (STUBS / file).read_bytes(), f"{file} is stale: run `make proto`"
