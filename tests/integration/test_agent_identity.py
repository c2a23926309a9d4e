"""`silo-agent run` against a real servicer over mTLS: whoever is not who it should be is told so on one line."""

import asyncio
import signal
from collections.abc import Iterator
from copy import copy
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from prometheus_client import CollectorRegistry

from aggregator.metrics import AggregatorMetrics
from aggregator.rounds.round_driver import RoundDriver
from crypto.identity import Authority, Certified
from crypto.names import Suite
from crypto.primitives.signing import SigningKey
from silo_agent.cli import cli
from support.commands import Ran, run
from support.driven import looping, on, serving
from support.enrolling import Aggregator
from support.key_files import write_key
from support.models import tiny_llama, write_text
from support.plans import signing_keys

KEYS = signing_keys(3)
SILO = "silo-001"
DAY = timedelta(days=1)
AUTHORITY, OTHER = (Authority(name, datetime.now(UTC), DAY) for name in ("ours", "theirs"))
SERVER = AUTHORITY.issue("aggregator", ("127.0.0.1",))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("model") / "dense")


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Little patience with a lost connection; and the agent's way with SIGTERM ends with the test."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


class Home:
    """An agent's folder, in order until a test changes it."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.folder = folder
        self.config = {
            "silo": SILO,
            "aggregator": "",
            "model": str(model),
            "calibration": write_text(folder / "notes.txt", 300, seed=0).name,
            "state": "state",
            "signing_key": "signing_key",
            "roster": "roster.yaml",
            "certificate": "tls.crt",
            "private_key": "tls.key",
            "authority": "ca.crt",
            "policy": "policy.yaml",
            "reconnect_seconds": 1,
        }
        write_key(folder / "signing_key", KEYS[SILO].to_bytes().hex())
        (folder / "roster.yaml").write_text(yaml.safe_dump({s: key.public_bytes.hex() for s, key in KEYS.items()}))
        (folder / "policy.yaml").write_text("models: any\napproval: auto\n")
        (folder / "ca.crt").write_bytes(AUTHORITY.certificate)
        self.certify(AUTHORITY.issue(SILO))

    def certify(self, identity: Certified) -> None:
        (self.folder / "tls.crt").write_bytes(identity.certificate)
        write_key(self.folder / "tls.key", identity.private_key)

    def run(self, port: int, capsys: pytest.CaptureFixture[str], **changes: object) -> Ran:
        """`silo-agent run`; a failure is one line on stderr."""
        file = self.folder / "agent.yaml"
        file.write_text(yaml.safe_dump({**self.config, "aggregator": f"127.0.0.1:{port}", **changes}))
        ran = run(cli, ["run", "--config", file], capsys)
        if ran.code:
            assert ran.err.startswith("error: ")
            assert ran.err.count("\n") == 1
        assert ran.out == ""
        return ran


@pytest.fixture
def home(tmp_path: Path, model: Path) -> Home:
    return Home(tmp_path, model)


@pytest.fixture(scope="module")
def driver() -> RoundDriver:
    """With nothing to do: whoever is let in leaves again, done."""
    driver = RoundDriver(AggregatorMetrics(CollectorRegistry()), lambda *_: None)
    asyncio.run(driver.finish())
    return driver


@pytest.fixture(scope="module")
def port(driver: RoundDriver) -> Iterator[int]:
    with serving(driver, KEYS, SERVER, AUTHORITY.certificate) as port:
        yield port


def test_who_is_in_order_is_let_in(home: Home, port: int, capsys: pytest.CaptureFixture[str]) -> None:
    ran = home.run(port, capsys)
    assert (ran.code, ran.err) == (0, "")


@pytest.mark.clause("7.10")
def test_a_certificate_that_was_replaced_while_no_agent_ran(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    """The agent announces it, and is heard; one that only bears the silo's name is not."""
    with looping() as loop:
        aggregator = Aggregator(home.folder / "aggregator", loop)
        on(loop, aggregator.driver.finish())
        (home.folder / "ca.crt").write_bytes(aggregator.identity.trusted)
        home.certify(aggregator.enroll(SILO, SILO))
        assert home.run(aggregator.port, capsys).code == 0
        home.certify(aggregator.authority.issue(SILO, now=datetime.now(UTC), lifetime=DAY))
        assert home.run(aggregator.port, capsys).code == 0
        key = SigningKey.generate(Suite.DEFAULT)
        (home.folder / "signing_key").write_text(key.to_bytes().hex())
        roster = {silo: (key if silo == SILO else other).public_bytes.hex() for silo, other in KEYS.items()}
        (home.folder / "roster.yaml").write_text(yaml.safe_dump(roster))
        home.certify(aggregator.authority.issue(SILO, now=datetime.now(UTC), lifetime=DAY))
        ran = home.run(aggregator.port, capsys)
        assert ran.code == 2
        assert "not the one that silo-001 calls with" in ran.err
        on(loop, aggregator.server.stop())


def test_why_all_is_over_is_passed_on(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    driver = RoundDriver(AggregatorMetrics(CollectorRegistry()), lambda *_: None)
    asyncio.run(driver.finish("phase keys: too few"))
    with serving(driver, KEYS, SERVER, AUTHORITY.certificate) as port:
        ran = home.run(port, capsys)
    assert ran.code == 1
    assert "phase keys: too few" in ran.err


def test_a_certificate_from_another_authority(home: Home, port: int, capsys: pytest.CaptureFixture[str]) -> None:
    home.certify(OTHER.issue(SILO))
    ran = home.run(port, capsys)
    assert ran.code == 2
    assert "certificate" in ran.err


def test_a_certificate_that_has_expired(home: Home, port: int, capsys: pytest.CaptureFixture[str]) -> None:
    earlier = copy(AUTHORITY)
    earlier._now, earlier._end = AUTHORITY._now - 2 * DAY, AUTHORITY._now - DAY
    home.certify(earlier.issue(SILO))
    ran = home.run(port, capsys)
    assert ran.code == 2
    assert "certificate" in ran.err


def test_an_aggregator_of_another_authority(home: Home, port: int, capsys: pytest.CaptureFixture[str]) -> None:
    (home.folder / "ca.crt").write_bytes(OTHER.certificate)
    ran = home.run(port, capsys)
    assert ran.code == 2
    assert "authority in the config" in ran.err


def test_a_silos_certificate_is_no_aggregators(
    home: Home, driver: RoundDriver, capsys: pytest.CaptureFixture[str]
) -> None:
    """One silo cannot pose as the aggregator to another."""
    with serving(driver, KEYS, AUTHORITY.issue("silo-000"), AUTHORITY.certificate) as port:
        ran = home.run(port, capsys)
    assert ran.code == 2
    assert "certificate" in ran.err


def test_an_aggregator_under_another_address(
    home: Home, driver: RoundDriver, capsys: pytest.CaptureFixture[str]
) -> None:
    elsewhere = AUTHORITY.issue("aggregator", ("aggregator.example", "127.0.0.2"))
    with serving(driver, KEYS, elsewhere, AUTHORITY.certificate) as port:
        ran = home.run(port, capsys)
    assert ran.code == 2
    assert "certificate" in ran.err


@pytest.mark.clause("7.1")
def test_a_silo_that_is_not_in_the_run(home: Home, driver: RoundDriver, capsys: pytest.CaptureFixture[str]) -> None:
    with serving(driver, ["silo-000", "silo-002"], SERVER, AUTHORITY.certificate) as port:
        ran = home.run(port, capsys)
    assert ran.code == 2
    assert "the aggregator refuses this silo: 'silo-001' is not a silo of this run" in ran.err


@pytest.mark.parametrize("name", ["silo-002", "aggregator", "SILO-001"])
def test_a_certificate_in_anothers_name(name: str, home: Home, port: int, capsys: pytest.CaptureFixture[str]) -> None:
    home.certify(AUTHORITY.issue(name))
    ran = home.run(port, capsys)
    assert ran.code == 2
    assert f"{home.folder / 'tls.crt'}: is for {name}, not for silo-001" in ran.err


def test_nothing_listens(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    ran = home.run(9, capsys)
    assert ran.code == 2
    assert "127.0.0.1:9: cannot be reached" in ran.err
    assert "check the address" in ran.err


@pytest.mark.parametrize("field", ["signing_key", "roster", "certificate", "private_key", "authority"])
def test_a_missing_file(field: str, home: Home, port: int, capsys: pytest.CaptureFixture[str]) -> None:
    ran = home.run(port, capsys, **{field: "none.pem"})
    assert ran.code == 2
    assert f"{home.folder / 'none.pem'}: cannot be read" in ran.err


MALFORMED = {
    "certificate": [b"", b"not PEM", SERVER.certificate[:200], SERVER.private_key],
    "private_key": [b"", b"not PEM", SERVER.private_key[:100], SERVER.certificate, SERVER.private_key],
    "authority": [b"", b"\n", b"not PEM", SERVER.certificate[:200], SERVER.private_key],
}
"""The last private key is sound, but another certificate's. gRPC would end the process that gives it an empty
certificate or key, and trust every public authority instead of an empty one.
"""


@pytest.mark.parametrize(
    ("field", "case"), [(field, case) for field, contents in MALFORMED.items() for case in range(len(contents))]
)
def test_a_malformed_file(field: str, case: int, home: Home, port: int, capsys: pytest.CaptureFixture[str]) -> None:
    content = MALFORMED[field][case]
    write_key(home.folder / "bad.pem", content)
    ran = home.run(port, capsys, **{field: "bad.pem"})
    assert ran.code == 2
    assert f"{home.folder / 'bad.pem'}: " in ran.err
    assert "not PEM" not in ran.err


def test_an_unknown_field(home: Home, port: int, capsys: pytest.CaptureFixture[str]) -> None:
    ran = home.run(port, capsys, calibrations="notes.txt")
    assert ran.code == 4
    assert "agent.yaml: calibrations: unknown field" in ran.err


def test_a_config_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ran = run(cli, ["run", "--config", tmp_path / "none.yaml"], capsys)
    assert (ran.code, ran.err.count("\n")) == (4, 1)
    assert "none.yaml: cannot be read" in ran.err


def test_a_signing_key_that_is_not_the_rosters(home: Home, port: int, capsys: pytest.CaptureFixture[str]) -> None:
    write_key(home.folder / "other_key", SigningKey.generate(Suite.DEFAULT).to_bytes().hex())
    ran = home.run(port, capsys, signing_key="other_key")
    assert ran.code == 2
    assert "is not the public key of" in ran.err
