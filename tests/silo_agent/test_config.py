"""Every mistake in an agent's config is named with its file and field."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml

from crypto.errors import ConfigError, IdentityError
from crypto.identity import Authority
from crypto.names import Backend, Suite
from crypto.primitives.signing import SigningKey
from silo_agent.config import AgentConfig, read_roster, read_signing_key, read_tls

KEY = SigningKey.from_bytes(bytes(range(32)), Suite.DEFAULT)
P384 = SigningKey.from_bytes(bytes(range(48)), Suite.FIPS)
PATHS = {
    "model": "dense",
    "calibration": "texts/notes.txt",
    "state": "../state",
    "signing_key": "signing_key",
    "roster": "/etc/sparsilo/roster.yaml",
    "certificate": "tls.crt",
    "private_key": "tls.key",
    "authority": "ca.crt",
    "policy": "policy.yaml",
}
GIVEN: dict[str, object] = {"silo": "ward-3", "aggregator": "host:50051", **PATHS}


def config(folder: Path, given: object) -> Path:
    file = folder / "agent.yaml"
    file.write_text(given if isinstance(given, str) else yaml.safe_dump(given))
    return file


def test_fields_defaults_and_paths_relative_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "dense").mkdir()
    read = AgentConfig.read(config(tmp_path, GIVEN))
    assert (read.silo, read.aggregator) == ("ward-3", "host:50051")
    assert (read.backend, read.suite, read.device) == (Backend.DOUBLE_MASKING, Suite.DEFAULT, "cpu")
    assert (read.proxy, read.proxy_file, read.reconnect_seconds) == ("", None, 60)
    assert (read.renew_certificate, read.stay) == (False, False)
    assert (read.capacity, read.sparsity_ratio) == (0, "")
    assert (read.metrics_host, read.metrics_port) == ("127.0.0.1", 0)
    for field, path in PATHS.items():
        assert getattr(read, field) == (Path(path) if path.startswith("/") else Path(f"{tmp_path}/{path}"))


def test_a_model_that_is_no_folder_is_a_hub_id(tmp_path: Path) -> None:
    assert AgentConfig.read(config(tmp_path, GIVEN | {"model": "owner/dense@v2"})).model == "owner/dense@v2"


def test_fields_that_have_defaults_can_be_given(tmp_path: Path) -> None:
    more = {"backend": "insecure_plaintext", "device": "cuda:1", "metrics_host": "0.0.0.0", "metrics_port": 9100}  # noqa: S104
    more |= {"suite": "fips", "proxy": "none", "proxy_file": "proxy", "reconnect_seconds": 5}
    more |= {"renew_certificate": True, "stay": True}
    more |= {"capacity": 7, "sparsity_ratio": "0.3"}
    read = AgentConfig.read(config(tmp_path, GIVEN | more))
    assert (read.backend, read.suite) == (Backend.INSECURE_PLAINTEXT, Suite.FIPS)
    assert (read.proxy, read.proxy_file, read.reconnect_seconds) == ("none", tmp_path / "proxy", 5)
    assert (read.renew_certificate, read.stay) == (True, True)
    assert (read.capacity, read.sparsity_ratio) == (7, "0.3")
    assert (read.device, read.metrics_host, read.metrics_port) == ("cuda:1", "0.0.0.0", 9100)  # noqa: S104


@pytest.mark.parametrize("field", GIVEN)
def test_a_missing_field(field: str, tmp_path: Path) -> None:
    file = config(tmp_path, {name: value for name, value in GIVEN.items() if name != field})
    with pytest.raises(ConfigError) as refused:
        AgentConfig.read(file)
    assert refused.value.message == f"{file}: {field}: is missing"


@pytest.mark.parametrize(
    ("field", "value", "problem"),
    [
        *(
            (field, value, "must be a text")
            for field in [*GIVEN, "backend", "suite", "device", "sparsity_ratio"]
            for value in (7, "", None, ["x"])
        ),
        *(
            (field, value, "whole number")
            for field in ("metrics_port", "reconnect_seconds", "capacity")
            for value in ("9100", 1.5, True, None)
        ),
        ("suite", "FIPS", "'FIPS' is unknown"),
        ("suite", Suite.FIPS.value, "is unknown"),
        ("backend", "double-masking", "'double-masking' is unknown"),
        ("backend", "DOUBLE_MASKING", "is unknown"),
        ("calibrations", "x", "unknown field"),
        ("Silo", "x", "unknown field"),
    ],
)
def test_a_wrong_field(field: str, value: object, problem: str, tmp_path: Path) -> None:
    file = config(tmp_path, GIVEN | {field: value})
    with pytest.raises(ConfigError) as refused:
        AgentConfig.read(file)
    assert refused.value.message.startswith(f"{file}: {field}: ")
    assert problem in refused.value.message
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("silo: a\nmodel: [", "line 2: is not YAML"),
        ("silo: a\n  model: b: c\n", "line 2: is not YAML"),
        ("silo: !!python/object:os.system x", "is not YAML"),
        ("silo: 2024-13-01", "is not YAML"),  # PyYAML's own ValueError: a date, but not one
        ("metrics_port: 0x_", "is not YAML"),
        ("silo: \0", "is not YAML"),
        ("", "`field: value`"),
        ("- silo\n", "`field: value`"),
        ("just text", "`field: value`"),
        ("1: one\n", "`field: value`"),
    ],
)
def test_a_file_that_is_no_mapping(content: str, problem: str, tmp_path: Path) -> None:
    file = config(tmp_path, content)
    with pytest.raises(ConfigError) as refused:
        AgentConfig.read(file)
    assert refused.value.message.startswith(f"{file}: ")
    assert problem in refused.value.message
    assert "\n" not in str(refused.value)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: cannot be read: No such file"):
        AgentConfig.read(tmp_path / "none.yaml")
    (tmp_path / "latin.yaml").write_bytes("silo: é\n".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"latin\.yaml: is not UTF-8"):
        AgentConfig.read(tmp_path / "latin.yaml")


def test_a_roster(tmp_path: Path) -> None:
    keys = {"a": KEY.public_bytes, "b": SigningKey.from_bytes(bytes(32), Suite.DEFAULT).public_bytes}
    file = tmp_path / "roster.yaml"
    file.write_text(yaml.safe_dump({silo: key.hex() for silo, key in keys.items()}))
    assert read_roster(file, Suite.DEFAULT) == keys
    file.write_text(yaml.safe_dump({"a": P384.public_bytes.hex()}))
    assert read_roster(file, Suite.FIPS) == {"a": P384.public_bytes}


@pytest.mark.parametrize(("key", "suite"), [(KEY, Suite.FIPS), (P384, Suite.DEFAULT)])
def test_a_key_of_the_other_suite(key: SigningKey, suite: Suite, tmp_path: Path) -> None:
    roster, secret = tmp_path / "roster.yaml", tmp_path / "signing_key"
    roster.write_text(yaml.safe_dump({"a": key.public_bytes.hex()}))
    secret.write_text(key.to_bytes().hex())
    with pytest.raises(IdentityError, match=r"roster\.yaml: a: a public signing key of"):
        read_roster(roster, suite)
    with pytest.raises(IdentityError, match="signing_key: a signing key is") as refused:
        read_signing_key(secret, suite)
    assert key.to_bytes().hex()[:16] not in str(refused.value)


CONTENT = "00112233445566778899aabbccddeeff"  # not a key, but what must not show in a message


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, ["cannot be read", "No such file"]),
        ("a: [", ["line 1"]),
        ("", ["roster.yaml"]),
        (f"{CONTENT}\n", ["roster.yaml"]),
        ("a: not hex\n", ["a", "hex"]),
        (f"a: {CONTENT}0\n", ["a", "hex"]),
        (f"a: {CONTENT}\n", ["a"]),  # half a key
        (f"a: {CONTENT * 2}00\n", ["a"]),
        ("a:\n", ["a"]),
        ("a: [1, 2]\n", ["a"]),
    ],
)
def test_a_roster_that_is_none(content: str | None, words: list[str], tmp_path: Path) -> None:
    file = tmp_path / "roster.yaml"
    if content is not None:
        file.write_text(content)
    with pytest.raises(IdentityError) as refused:
        read_roster(file, Suite.DEFAULT)
    assert refused.value.message.startswith(f"{file}: ")
    assert all(word in refused.value.message for word in words)
    assert CONTENT not in str(refused.value)


@pytest.mark.parametrize("spelling", ["{}", "{}\n", "  {}\r\n"])
def test_a_signing_key(spelling: str, tmp_path: Path) -> None:
    file = tmp_path / "signing_key"
    file.write_text(spelling.format(KEY.to_bytes().hex()))
    assert read_signing_key(file, Suite.DEFAULT).public_bytes == KEY.public_bytes


@pytest.mark.parametrize(
    "content", [None, b"", CONTENT.encode(), CONTENT.encode() * 2 + b"00", b"xyz" + CONTENT.encode()]
)
def test_a_signing_key_that_is_none(content: bytes | None, tmp_path: Path) -> None:
    file = tmp_path / "signing_key"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(IdentityError) as refused:
        read_signing_key(file, Suite.DEFAULT)
    assert refused.value.message.startswith(f"{file}: ")
    assert CONTENT not in str(refused.value)


def test_a_signing_key_in_another_encoding(tmp_path: Path) -> None:
    (tmp_path / "signing_key").write_bytes(b"\xff" + CONTENT.encode())
    with pytest.raises(IdentityError, match="signing_key: is not a signing key") as refused:
        read_signing_key(tmp_path / "signing_key", Suite.DEFAULT)
    assert CONTENT not in str(refused.value)


NOW = datetime(2030, 5, 17, 12, tzinfo=UTC)
DAY = timedelta(days=1)
OURS, THEIRS = (Authority(name, NOW, 7 * DAY) for name in ("ours", "theirs"))
OWN = OURS.issue("ward-3")


@pytest.fixture
def tls(tmp_path: Path) -> AgentConfig:
    (tmp_path / "tls.crt").write_bytes(OWN.certificate)
    (tmp_path / "tls.key").write_bytes(OWN.private_key)
    (tmp_path / "ca.crt").write_bytes(THEIRS.certificate)
    return AgentConfig.read(config(tmp_path, GIVEN))


def test_certificates_and_key(tls: AgentConfig) -> None:
    own, authority = read_tls(tls, NOW)
    assert (own.certificate, own.private_key, authority) == (OWN.certificate, OWN.private_key, THEIRS.certificate)
    tls.authority.write_bytes(THEIRS.certificate + OURS.certificate)  # as while an authority is replaced
    assert read_tls(tls, NOW)[1] == THEIRS.certificate + OURS.certificate


NO_PEM = [b"", CONTENT.encode(), OWN.certificate[:300], b"\xff\xfe"]
MALFORMED = {
    "certificate": [None, *NO_PEM, OWN.private_key, OURS.issue("ward-3").certificate],
    "private_key": [None, *NO_PEM, OWN.certificate, OURS.issue("ward-3").private_key],
    "authority": [None, *NO_PEM, OWN.private_key],
}


@pytest.mark.parametrize(
    ("field", "content"), [(field, content) for field, contents in MALFORMED.items() for content in contents]
)
def test_certificates_and_keys_that_are_none(field: str, content: bytes | None, tls: AgentConfig) -> None:
    file: Path = getattr(tls, field)
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(IdentityError) as refused:
        read_tls(tls, NOW)
    named = tls.private_key if content and content.startswith(b"-----BEGIN CERT") and len(content) > 300 else file
    assert refused.value.message.startswith(f"{named}: "), "a pair that does not match is told of the key"
    assert CONTENT not in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("now", [NOW - DAY, NOW + 8 * DAY])
@pytest.mark.parametrize("field", ["certificate", "authority"])
def test_a_certificate_outside_its_time(field: str, now: datetime, tls: AgentConfig) -> None:
    longer = Authority("longer", NOW - 9 * DAY, 90 * DAY)
    still = longer.issue("ward-3")
    if field == "certificate":
        tls.authority.write_bytes(longer.certificate)
    else:
        tls.certificate.write_bytes(still.certificate)
        tls.private_key.write_bytes(still.private_key)
    with pytest.raises(IdentityError) as refused:
        read_tls(tls, now)
    assert refused.value.message.startswith(
        f"{getattr(tls, field)}: is valid from 2030-05-17 11:55 to 2030-05-24 12:00"
    )
