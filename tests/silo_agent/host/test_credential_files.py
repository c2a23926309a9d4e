"""Key files that others can read are refused, and the error says how to close them."""

import os
from pathlib import Path

import pytest

from crypto.errors import IdentityError
from silo_agent.host.credential_files import read_secret


@pytest.fixture
def file(tmp_path: Path) -> Path:
    key = tmp_path / "tls.key"
    key.write_bytes(b"a key")
    return key


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o440, 0o660, 0o700])
def test_a_file_of_its_owner_and_of_the_process_s_group(file: Path, mode: int) -> None:
    """0440 is how the charts mount secrets, and 0660 how Kubernetes leaves files on a volume with an fsGroup."""
    file.chmod(mode)
    assert read_secret(file) == b"a key"


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o606, 0o601, 0o444, 0o777])
def test_a_file_of_everybody(file: Path, mode: int) -> None:
    file.chmod(mode)
    with pytest.raises(IdentityError) as refused:
        read_secret(file)
    assert refused.value.message == f"{file}: is open to others (mode {mode:o})"
    assert refused.value.hint == f"chmod 600 {file}"


@pytest.mark.parametrize("mode", [0o640, 0o620, 0o610])
def test_a_file_of_somebody_elses_group(file: Path, mode: int, monkeypatch: pytest.MonkeyPatch) -> None:
    file.chmod(mode)
    monkeypatch.setattr(os, "getegid", lambda: file.stat().st_gid + 1)
    monkeypatch.setattr(os, "getgroups", lambda: [file.stat().st_gid + 2])
    with pytest.raises(IdentityError, match="is open to others"):
        read_secret(file)
    file.chmod(0o600)
    assert read_secret(file) == b"a key"


def test_a_link_is_as_open_as_what_it_leads_to(file: Path) -> None:
    """Kubernetes mounts links."""
    link = file.with_name("link")
    link.symlink_to(file)
    file.chmod(0o440)
    assert read_secret(link) == b"a key"
    file.chmod(0o444)
    with pytest.raises(IdentityError, match="link: is open to others"):
        read_secret(link)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(IdentityError, match="none: cannot be read: No such file"):
        read_secret(tmp_path / "none")
