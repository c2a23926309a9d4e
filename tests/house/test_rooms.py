"""The three rings, by the imports that are written: pure core, drivers, edges; and what pyproject.toml declares."""

import ast
import sys
import tomllib
from pathlib import Path

import pytest

from bench.house import imports
from crypto.names import Backend

ROOT = Path(__file__).parents[2]
PACKAGES = ("crypto", "silo_agent", "aggregator")
FILES = {
    file.relative_to(ROOT).as_posix(): file.read_text()
    for package in PACKAGES
    for file in sorted((ROOT / package).rglob("*.py"))
}

IMPURE = {
    *("socket", "ssl", "time", "logging", "os", "random", "secrets", "asyncio", "threading", "subprocess"),
    *("pathlib", "io", "shutil", "tempfile", "multiprocessing", "concurrent", "uuid", "importlib", "sys"),
}
"""Standard modules by which a clock, a disk, a network, a thread, a log or randomness could enter the core."""

FOUND_BY_NAME = {"crypto/backends/backend_spec.py", "crypto/releases/release_spec.py"}
"""The core's only files that may import a module by a name put together: one spec a backend and a release kind, so that
a new one is a file and no line in a list.
"""

CORE = {"numpy", "google.protobuf", "cryptography", "dp_accounting", "scipy", "sparsilo.v1", "crypto"}

MODULES = {  # what each distribution is imported as
    "click": "click",
    "cryptography": "cryptography",
    "dp-accounting": "dp_accounting",
    "grpcio": "grpc",
    "huggingface-hub": "huggingface_hub",
    "numpy": "numpy",
    "prometheus-client": "prometheus_client",
    "protobuf": "google",
    "psycopg": "psycopg",
    "pyyaml": "yaml",
    "rich": "rich",
    "safetensors": "safetensors",
    "scipy": "scipy",
    "tokenizers": "tokenizers",
    "torch": "torch",
    "transformers": "transformers",
}

EDGES: dict[str, set[str]] = {
    "grpc": {
        "silo_agent/network/transport.py",
        *(f"aggregator/edge/{name}.py" for name in ("callers", "listener", "servicer")),
    },
    "click": {
        *("silo_agent/host/terminal.py", "silo_agent/settings/config_command.py", "silo_agent/cli.py"),
        *(
            f"silo_agent/commands/{name}.py"
            for name in [
                "approval",
                "gain",
                "identity",
                "ledger",
                "preflight",
                "prune",
                "result",
                "run",
                "state",
                "support_bundle",
                "verify",
            ]
        ),
        *(
            "aggregator/cli.py",
            *(f"aggregator/commands/{name}.py" for name in ("containers", "local", "results", "runs", "silos")),
        ),
    },
    "rich": {"silo_agent/host/terminal.py", "aggregator/commands/local.py", "aggregator/results/report_tables.py"},
    "prometheus_client": {
        "silo_agent/host/metrics.py",
        "silo_agent/host/health.py",
        "silo_agent/commands/run.py",
        "aggregator/metrics.py",
    }
    | {"aggregator/local.py", "aggregator/serve.py"},
    "psycopg": {"aggregator/rounds/postgres_journal.py"},
    "dp_accounting": {"crypto/privacy/accountant.py"},
    "scipy": {"crypto/privacy/accountant.py"},
}
"""Libraries, most of them an edge's, and the only files that may import each."""

BACKENDS = {f"crypto.backends.{backend}" for backend in Backend}
"""What nobody else imports: whoever wants to know something about a backend asks its spec."""


def within(name: str, packages: set[str]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def offences(file: str, source: str) -> list[str]:
    """Every import of `file` that its ring forbids."""
    names, package = list(imports(source)), file.partition("/")[0]
    found = [name for name in names if name.startswith((".", "__import__")) or within(name, {"proto", "tests"})]
    if package == "crypto":
        standard = set(sys.stdlib_module_names) - IMPURE
        allowed = CORE | standard | ({"importlib"} if file in FOUND_BY_NAME else set())
        found += [name for name in names if not within(name, allowed)]
    if not file.startswith("crypto/backends/"):
        found += [name for name in names if within(name, BACKENDS)]
    if package == "silo_agent":
        found += [name for name in names if within(name, {"aggregator"})]
    found += [name for edge, files in EDGES.items() if file not in files for name in names if within(name, {edge})]
    return found


def test_there_are_files_in_every_ring() -> None:
    assert {file.split("/")[0] for file in FILES} == set(PACKAGES)
    assert {"crypto/plan.py", *EDGES["grpc"], *EDGES["click"]} <= set(FILES)


@pytest.mark.parametrize("file", FILES)
def test_imports_stay_in_their_ring(file: str) -> None:
    assert offences(file, FILES[file]) == []


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("crypto/x.py", "import torch"),
        ("crypto/x.py", "from torch import Tensor"),
        ("crypto/x.py", "def f():\n    import grpc"),
        ("crypto/x.py", "from prometheus_client import Counter"),
        ("crypto/x.py", "import numpy as np, click"),
        ("crypto/x.py", "try:\n    import rich.console\nexcept ImportError:\n    pass"),
        ("crypto/x.py", "import os.path"),
        ("crypto/privacy/x.py", "import scipy.optimize"),
        ("silo_agent/x.py", "from dp_accounting.pld import common"),
        ("crypto/x.py", "from os import urandom"),
        ("crypto/x.py", "from time import monotonic"),
        ("crypto/x.py", "if TYPE_CHECKING:\n    import logging"),
        ("crypto/x.py", "__import__('socket')"),
        ("crypto/x.py", "from importlib import import_module"),
        ("crypto/x.py", "from google.cloud import storage"),
        ("crypto/x.py", "from silo_agent.config import AgentConfig"),
        ("crypto/x.py", "from . import plan"),
        ("crypto/backends/x.py", "from importlib import import_module"),
        ("crypto/x.py", "from crypto.backends.double_masking.phases import TABLE"),
        ("silo_agent/x.py", "from crypto.backends.insecure_plaintext import sessions"),
        ("silo_agent/x.py", "from aggregator.rounds.spool import Spool"),
        ("silo_agent/x.py", "import aggregator"),
        ("silo_agent/x.py", "import grpc"),
        ("silo_agent/rounds/round_driver.py", "import grpc.aio"),
        ("silo_agent/network/transport.py", "import click"),
        ("aggregator/edge/servicer.py", "import rich"),
        ("aggregator/results/report_tables.py", "import click"),
        ("aggregator/results/report_tables.py", "from prometheus_client import Counter"),
        ("aggregator/x.py", "from proto.sparsilo.v1 import plan_pb2"),
        ("aggregator/x.py", "from tests.plans import plan"),
        ("aggregator/x.py", "from ..crypto import plan"),
    ],
)
def test_an_import_out_of_its_ring_is_found(file: str, source: str) -> None:
    assert offences(file, source)


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("crypto/x.py", "from datetime import datetime, timedelta\nimport numpy as np\nfrom crypto.plan import Plan"),
        ("crypto/backends/backend_spec.py", "from importlib import import_module"),
        ("crypto/backends/x.py", "from crypto.backends.double_masking.phases import TABLE"),
        ("aggregator/x.py", "from crypto.backends.backend_spec import backend_spec"),
        ("crypto/x.py", "from google.protobuf.message import Message\nfrom sparsilo.v1 import plan_pb2"),
        ("silo_agent/network/transport.py", "import grpc\nfrom crypto import plan"),
        ("aggregator/x.py", "import os\nfrom silo_agent.pruning.keep_mask import keep_top"),
    ],
)
def test_an_import_within_its_ring_is_left_alone(file: str, source: str) -> None:
    assert offences(file, source) == []


@pytest.mark.parametrize("file", [file for file in FILES if file.startswith("crypto/")])
def test_the_core_reads_no_clock_opens_no_file_and_prints_nothing(file: str) -> None:
    for node in ast.walk(ast.parse(FILES[file])):
        if isinstance(node, ast.Attribute):
            assert node.attr not in {"now", "utcnow", "today", "default_rng"}, f"{file}:{node.lineno}"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in {"open", "print", "input", "exec", "eval"}, f"{file}:{node.lineno}"


def test_proto_is_never_a_package() -> None:
    assert not (ROOT / "proto" / "__init__.py").exists()
    assert (ROOT / "proto" / "sparsilo" / "v1" / "__init__.py").exists()


def test_packages_have_an_init_file_without_code() -> None:
    folders = {(ROOT / file).parent for file in FILES} | {ROOT / "proto/sparsilo", ROOT / "proto/sparsilo/v1"}
    folders.remove(ROOT / "silo_agent/pruning/pruners")  # what all the files beside it are, and finding one by its name
    for folder in folders:
        for node in ast.parse((folder / "__init__.py").read_text()).body:  # nothing, or a docstring
            assert isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant), folder


def third_party() -> set[str]:
    own = {*PACKAGES, "sparsilo", *sys.stdlib_module_names}
    stubs = (file.read_text() for file in (ROOT / "proto").rglob("*_pb2.py"))
    return {name.split(".")[0] for source in (*FILES.values(), *stubs) for name in imports(source)} - own


def declared() -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    entries = (*project["dependencies"], *project["optional-dependencies"]["postgresql"])
    names = {entry.split("[")[0].split(">")[0].split("=")[0].split("<")[0] for entry in entries}
    return {name.strip().lower().replace("_", "-") for name in names}


def test_every_import_is_declared_and_every_declaration_is_imported() -> None:
    assert declared() <= set(MODULES), "say here what it is imported as"
    assert {MODULES[name] for name in declared()} == third_party()
