"""A dishonest aggregator serves another keep mask than the plan names, to have the silos evaluate what it likes."""

from pathlib import Path
from typing import Any

import pytest

from attacks.stage import AGGREGATOR, FOUR
from crypto.errors import ProtocolError

pytestmark = pytest.mark.clause("7.5")


def test_it_is_not_kept(network: Any, tmp_path: Path) -> None:
    served, digest = tmp_path / "served", bytes(32)
    served.write_bytes(b"another keep mask")
    network.driver.files.offer_candidate(digest, served, [FOUR])
    with pytest.raises(ProtocolError, match="not the one that was announced") as found:
        network.caller(network.authority.issue(FOUR)).candidate(digest, tmp_path / "kept.safetensors", 1 << 20)
    assert type(found.value) is ProtocolError
    assert found.value.party == AGGREGATOR
    assert list(tmp_path.iterdir()) == [served]
