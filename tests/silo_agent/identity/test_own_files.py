"""A roster, a signing key and TLS files are taken as they should be, and an error names the file, never its content."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml

from crypto.errors import IdentityError
from crypto.identity import Authority
from crypto.names import Suite
from crypto.primitives.signing import SigningKey
from silo_agent.config import AgentConfig
from silo_agent.host.credential_files import read_signing_key
from silo_agent.identity.own_files import read_roster, read_tls
from silo_agent.settings.layered_config import config_file
from support.key_files import write_key

KEY = SigningKey.from_bytes(bytes(range(32)), Suite.DEFAULT)
P384 = SigningKey.from_bytes(bytes(range(48)), Suite.FIPS)


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
    write_key(secret, key.to_bytes().hex())
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
    write_key(file, spelling.format(KEY.to_bytes().hex()))
    assert read_signing_key(file, Suite.DEFAULT).public_bytes == KEY.public_bytes


@pytest.mark.parametrize(
    "content", [None, b"", CONTENT.encode(), CONTENT.encode() * 2 + b"00", b"xyz" + CONTENT.encode()]
)
def test_a_signing_key_that_is_none(content: bytes | None, tmp_path: Path) -> None:
    file = tmp_path / "signing_key"
    if content is not None:
        write_key(file, content)
    with pytest.raises(IdentityError) as refused:
        read_signing_key(file, Suite.DEFAULT)
    assert refused.value.message.startswith(f"{file}: ")
    assert CONTENT not in str(refused.value)


def test_a_signing_key_in_another_encoding(tmp_path: Path) -> None:
    write_key(tmp_path / "signing_key", b"\xff" + CONTENT.encode())
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
    write_key(tmp_path / "tls.key", OWN.private_key)
    (tmp_path / "ca.crt").write_bytes(THEIRS.certificate)
    file = tmp_path / "agent.yaml"
    file.write_text(config_file(AgentConfig.beside("ward-3", "host:50051", Path("dense"), Path("notes.txt"))))
    return AgentConfig.read(file)


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
        write_key(file, content)
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
        write_key(tls.private_key, still.private_key)
    with pytest.raises(IdentityError) as refused:
        read_tls(tls, now)
    assert refused.value.message.startswith(
        f"{getattr(tls, field)}: is valid from 2030-05-17 11:00 to 2030-05-24 12:00"
    )
