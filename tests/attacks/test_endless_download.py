"""A dishonest aggregator serves a file that does not end, to fill the silo's disk."""

from pathlib import Path
from typing import Any

import pytest

from attacks.stage import AGGREGATOR, FOUR
from crypto.errors import ProtocolError
from sparsilo.v1 import words_pb2

pytestmark = pytest.mark.clause("7.12")

MOST = 3 << 20


@pytest.fixture
def endless(tmp_path: Path) -> Path:
    """A file without end, as far as a silo can tell; it takes no room here."""
    with (tmp_path / "endless").open("wb") as file:
        file.truncate(1 << 40)
    return tmp_path / "endless"


@pytest.mark.parametrize("kind", ["candidate", "opened_sum", "transcript"])
def test_it_is_given_up_where_it_is_too_long(kind: str, network: Any, endless: Path, tmp_path: Path) -> None:
    network.driver.files._files[kind, bytes(32)] = endless, [FOUR]
    silo, fetched = network.caller(network.authority.issue(FOUR)), tmp_path / "fetched"
    with pytest.raises(ProtocolError, match=f"more than {MOST} bytes") as refused:
        silo.download(words_pb2.FileRequest(**{kind: bytes(32)}), fetched, MOST)
    assert refused.value.party == AGGREGATOR
    assert not fetched.exists()


def test_nothing_of_a_candidate_stays(network: Any, endless: Path, tmp_path: Path) -> None:
    network.driver.files.offer_candidate(bytes(32), endless, [FOUR])
    with pytest.raises(ProtocolError, match=f"more than {MOST} bytes"):
        network.caller(network.authority.issue(FOUR)).candidate(bytes(32), tmp_path / "kept.safetensors", MOST)
    assert list(tmp_path.iterdir()) == [endless]


def test_a_file_that_is_as_long_as_it_may_be(network: Any, tmp_path: Path) -> None:
    (tmp_path / "served").write_bytes(bytes(MOST))
    network.driver.files.offer_candidate(bytes(32), tmp_path / "served", [FOUR])
    request = words_pb2.FileRequest(candidate=bytes(32))
    network.caller(network.authority.issue(FOUR)).download(request, tmp_path / "fetched", MOST)
    assert (tmp_path / "fetched").stat().st_size == MOST


def test_a_file_that_is_a_byte_longer(network: Any, tmp_path: Path) -> None:
    (tmp_path / "served").write_bytes(bytes(MOST + 1))
    network.driver.files.offer_candidate(bytes(32), tmp_path / "served", [FOUR])
    request = words_pb2.FileRequest(candidate=bytes(32))
    with pytest.raises(ProtocolError, match=f"more than {MOST} bytes"):
        network.caller(network.authority.issue(FOUR)).download(request, tmp_path / "fetched", MOST)
    assert not (tmp_path / "fetched").exists()
