"""A roster has one file, one fingerprint, and signatures that hold for nothing else."""

from hashlib import sha256

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from crypto.errors import BadSignature
from crypto.names import Suite
from crypto.roster import (
    check_certificate_key,
    check_enrolment,
    check_signature,
    fingerprint,
    roster_file,
    sign_certificate_key,
    sign_enrolment,
    sign_roster,
)
from support.plans import signing_keys

ROSTERS = {
    suite: {silo: key.public_bytes for silo, key in signing_keys(4, suite).items()}
    for suite in (Suite.DEFAULT, Suite.FIPS)
}


@given(st.dictionaries(st.from_regex(r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True), st.binary(min_size=1)))
def test_the_file_is_yaml_that_says_the_roster_whatever_silos_are_called(roster: dict[str, bytes]) -> None:
    """Names such as `null`, `on` or `12e3` mean something to YAML where they are not quoted."""
    read = yaml.safe_load(roster_file(roster)) or {}
    assert {silo: bytes.fromhex(key) for silo, key in read.items()} == roster
    assert list(read) == sorted(roster)


def test_the_fingerprint_is_what_sha256sum_prints_of_the_file() -> None:
    roster = {"b": b"\2\3", "a": b"\1"}
    assert roster_file(roster) == b'"a": "01"\n"b": "0203"\n'
    assert fingerprint(roster) == sha256(b'"a": "01"\n"b": "0203"\n').digest()


@pytest.mark.parametrize("suite", list(Suite))
def test_a_members_signature_is_for_this_roster_and_this_silo(suite: Suite) -> None:
    keys, roster = signing_keys(4, suite), ROSTERS[suite]
    signature = sign_roster(keys["silo-001"], roster)
    check_signature(suite, roster, "silo-001", signature)
    fewer = {silo: key for silo, key in roster.items() if silo != "silo-003"}
    for other, silo, forged in (
        (roster, "silo-002", signature),
        (fewer, "silo-001", signature),
        (roster | {"silo-003": roster["silo-002"]}, "silo-001", signature),
        (roster, "silo-001", signature[:-1] + bytes([signature[-1] ^ 1])),
        (roster, "silo-001", b""),
        (roster, "silo-001", keys["silo-001"].sign(b"enrolment", fingerprint(roster))),
    ):
        with pytest.raises(BadSignature):
            check_signature(suite, other, silo, forged)


@pytest.mark.parametrize("suite", list(Suite))
def test_an_enrolment_is_signed_with_the_key_that_it_names(suite: Suite) -> None:
    key, other = (signing_keys(4, suite)[silo] for silo in ("silo-000", "silo-001"))
    signature = sign_enrolment(key, "a", b"request", b"key")
    check_enrolment(suite, key.public_bytes, "a", b"request", b"key", signature)
    for public, silo, request, certificate_key in (
        (other.public_bytes, "a", b"request", b"key"),
        (key.public_bytes, "b", b"request", b"key"),
        (key.public_bytes, "a", b"another", b"key"),
        (key.public_bytes, "a", b"request", b""),
        (key.public_bytes, "ar", b"equest", b"key"),
    ):
        with pytest.raises(BadSignature):
            check_enrolment(suite, public, silo, request, certificate_key, signature)


@pytest.mark.parametrize("suite", list(Suite))
def test_a_certificates_key_is_announced_by_the_silos_signing_key(suite: Suite) -> None:
    key, other = (signing_keys(4, suite)[silo] for silo in ("silo-000", "silo-001"))
    signature = sign_certificate_key(key, "a", b"key")
    check_certificate_key(suite, key.public_bytes, "a", b"key", signature)
    for public, silo, certificate_key, forged in (
        (other.public_bytes, "a", b"key", signature),
        (key.public_bytes, "b", b"key", signature),
        (key.public_bytes, "a", b"another", signature),
        (key.public_bytes, "a", b"key", sign_enrolment(key, "a", b"key", b"")),
    ):
        with pytest.raises(BadSignature):
            check_certificate_key(suite, public, silo, certificate_key, forged)
