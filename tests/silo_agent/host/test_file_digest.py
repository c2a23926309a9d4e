"""The digest of a file is of all of it."""

from hashlib import sha256
from pathlib import Path

import pytest

from silo_agent.host.file_digest import file_digest


@pytest.mark.parametrize("size", [0, 1, 262_143, 262_144, 262_145, 1_000_000])  # hashlib reads 262,144 bytes at a time
def test_it_is_of_the_whole_file(size: int, tmp_path: Path) -> None:
    content = bytes(index % 251 for index in range(size))
    (tmp_path / "file").write_bytes(content)
    assert file_digest(tmp_path / "file") == sha256(content).digest()
