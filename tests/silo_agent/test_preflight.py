"""`silo-agent preflight`: everything in order, one thing wrong at a time, and the truth about the crypto library."""

import json
import re
import sysconfig
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import cryptography
import pytest
import yaml
from cryptography.hazmat.backends.openssl.backend import backend
from cryptography.hazmat.bindings import _rust

from commands import Ran, run
from crypto.identity import Authority
from crypto.names import Suite
from models import tiny_llama, write_text
from plans import signing_keys
from silo_agent.cli import cli
from silo_agent.preflight import linked_libcrypto

SILO = "silo-001"
NAMES = ["config", "identity", "TLS", "model", "device", "calibration", "state", "crypto library", "FIPS mode"]
AUTHORITY = Authority("ours", datetime.now(UTC), timedelta(days=1))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("model") / "dense")


class Home:
    """An agent's folder, in order until a test changes it."""

    def __init__(self, folder: Path, model: Path, suite: Suite = Suite.DEFAULT) -> None:
        self.folder, keys, own = folder, signing_keys(3, suite), AUTHORITY.issue(SILO)
        files: dict[str, bytes] = {
            "signing_key": keys[SILO].to_bytes().hex().encode(),
            "roster": yaml.safe_dump({silo: key.public_bytes.hex() for silo, key in keys.items()}).encode(),
            "certificate": own.certificate,
            "private_key": own.private_key,
            "authority": AUTHORITY.certificate,
        }
        other = keys[next(silo for silo in keys if silo != SILO)]
        (folder / "another_key").write_text(other.to_bytes().hex())
        (folder / "another_certificate").write_bytes(AUTHORITY.issue("ward-9").certificate)
        for name, content in files.items():
            (folder / name).write_bytes(content)
        write_text(folder / "notes.txt", 300, seed=0)
        self.config: dict[str, Any] = {
            "silo": SILO,
            "aggregator": "127.0.0.1:9",
            "model": str(model),
            "calibration": "notes.txt",
            "state": "state",
            "suite": suite.profile,
            **{name: name for name in files},
        }

    def preflight(self, capsys: pytest.CaptureFixture[str], *more: object, **changes: object) -> Ran:
        (self.folder / "agent.yaml").write_text(yaml.safe_dump({**self.config, **changes}))
        return run(cli, ["preflight", "--config", self.folder / "agent.yaml", *more], capsys)


@pytest.fixture
def home(tmp_path: Path, model: Path) -> Home:
    return Home(tmp_path, model)


def checks(ran: Ran) -> dict[str, tuple[str, str]]:
    return {check["check"]: (check["status"], check["message"]) for check in ran.data["checks"]}


def test_all_in_order(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    ran = home.preflight(capsys, "--output", "json")
    assert (ran.code, ran.err) == (0, "")
    assert json.loads(ran.out)["status"] == "done"
    found = checks(ran)
    assert list(found) == NAMES
    assert {status for status, _ in found.values()} == {"ok", "fact"}
    assert "silo silo-001, suite default" in found["config"][1]
    assert "14 prunable tensors" in found["model"][1]
    assert "records with text: 1;" in found["calibration"][1]
    assert (home.folder / "state" / "agent.sqlite").exists()


def test_a_line_a_check_for_a_person(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    lines = home.preflight(capsys).out.splitlines()
    assert [re.split(r"  +", line)[:2] for line in lines] == [
        ["ok" if name not in NAMES[-2:] else "fact", name] for name in NAMES
    ]


WRONG: dict[str, tuple[dict[str, object], int, str, str]] = {
    "an unknown field": ({"sliced": 1}, 4, "config", "sliced: unknown field"),
    "no signing key": ({"signing_key": "none"}, 2, "identity", "none: cannot be read"),
    "another silo's key": ({"signing_key": "another_key"}, 2, "identity", "is not the public key of"),
    "keys of another suite": ({"suite": "fips"}, 2, "identity", "a public signing key of 32 bytes is not"),
    "a certificate that is none": ({"certificate": "roster"}, 2, "TLS", "roster: holds no PEM certificate"),
    "another's certificate": ({"certificate": "another_certificate"}, 2, "TLS", f"is for ward-9, not for {SILO}"),
    "no authority": ({"authority": "none"}, 2, "TLS", "none: cannot be read"),
    "no model": ({"model": "none"}, 4, "model", "none: no such folder"),
    "no such device": ({"device": "cuda:99"}, 4, "device", "'cuda:99' is not available"),
    "no text": ({"calibration": "none.txt"}, 4, "calibration", "none.txt: No such file"),
    "text of another kind": ({"calibration": "roster"}, 4, "calibration", "neither .txt nor .jsonl"),
    "an empty text": ({"calibration": "empty.txt"}, 4, "calibration", "empty.txt: has no text"),
    "a bad last line": ({"calibration": "bad.jsonl"}, 4, "calibration", "bad.jsonl: line 2: not valid JSON"),
    "a state folder that is a file": ({"state": "roster"}, 4, "state", "roster: File exists"),
    "a state folder below a file": ({"state": "roster/state"}, 4, "state", "Not a directory"),
    "a store that is none": ({"state": "damaged"}, 4, "state", "file is not a database"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_said_with_its_exit_code(case: str, home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    changes, code, name, problem = WRONG[case]
    (home.folder / "empty.txt").touch()
    (home.folder / "bad.jsonl").write_text('{"text": "a"}\n{"text": \n')
    (home.folder / "damaged").mkdir()
    (home.folder / "damaged" / "agent.sqlite").write_text("not a database, but long enough to be read as one" * 9)
    ran = home.preflight(capsys, "--output", "json", **changes)
    assert ran.code == code
    assert ran.err.count("\n") == 1
    assert problem in ran.err
    found = checks(ran)
    assert problem in found[name][1]
    assert [check for check, (status, _) in found.items() if status == "failed"] == [name]
    assert list(found) == (NAMES if name != "config" else ["config", *NAMES[-2:]])
    assert json.loads(ran.out)["error"]["message"] in found[name][1]


def test_the_first_of_several_failures_gives_the_exit_code(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    ran = home.preflight(capsys, calibration="none.txt", roster="none")
    assert ran.code == 2
    assert [line.split()[1] for line in ran.out.splitlines() if line.startswith("failed")] == [
        "identity",
        "calibration",
    ]


# The crypto library


def test_a_suite_of_approved_algorithms_is_no_validated_module(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ran = Home(tmp_path, model, Suite.FIPS).preflight(capsys, "--output", "json")
    assert (ran.code, ran.err) == (0, "")
    found = checks(ran)
    version = backend.openssl_version_text()
    assert found["crypto library"][0] == "fact"
    assert found["crypto library"][1].startswith(f"cryptography {cryptography.__version__}, {version} ")
    status, said = found["FIPS mode"]
    assert status == "warning"
    assert said.startswith("off: not a validated ")
    assert version in said
    assert "Approved algorithms do not make a module validated" in said


def test_fips_mode_is_on_where_the_library_says_so(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "_fips_enabled", True)
    status, said = checks(Home(tmp_path, model, Suite.FIPS).preflight(capsys, "--output", "json"))["FIPS mode"]
    assert (status, said[:3]) == ("fact", "on:")
    assert "its certificate says, not this program" in said


def test_whether_openssl_is_inside_the_module_or_shared() -> None:
    """Python's own ssl module links the shared library; the wheel that tests install has OpenSSL inside."""
    shared = list(Path(sysconfig.get_path("platstdlib")).glob("lib-dynload/_ssl*.so"))
    assert [linked_libcrypto(file)[:12] for file in shared] == ["libcrypto.so"] * len(shared)
    assert linked_libcrypto(Path(_rust.__file__)) == ""


@pytest.mark.parametrize(
    "name",
    ["libcrypto.so.3", "libcrypto.so.1.1", "libcrypto-1e8e2a3b.so.3", "libcrypto.3.dylib", "libcrypto-3-x64.dll"],
)
def test_the_shared_library_is_named(name: str, tmp_path: Path) -> None:
    (tmp_path / "module").write_bytes(b"\x7fELF\0libc.so.6\0" + name.encode() + b"\0crypto\0libcrypto\0")
    assert linked_libcrypto(tmp_path / "module") == name
