"""A silo that is enrolled but of no run, or of another one, fetches what is offered to the silos of a run."""

from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from attacks.stage import FOUR, ZERO, Stage
from crypto.encoding.wire import encode
from crypto.errors import ProtocolError
from crypto.names import Phase
from silo_agent.network.calls import Committed
from silo_agent.opened_sums.committed_words import SUM_FILE, TRANSCRIPT_FILE
from sparsilo.v1 import words_pb2

pytestmark = pytest.mark.clause("7.11")


def test_they_are_served_to_the_runs_silos_alone(network: Any, tmp_path: Path) -> None:
    """Four silos have a run; the fifth is known to the aggregator too."""
    stage = Stage(Phase.DONE, silos=4)
    (tmp_path / SUM_FILE).write_bytes(b"".join(stage.opened))
    (tmp_path / TRANSCRIPT_FILE).write_bytes(encode(stage.aggregator.transcript))
    closed = SimpleNamespace(round=stage.round, folder=tmp_path)
    network.driver.files.offer_opened(cast(Any, closed))  # as much of a round as is used
    candidate = tmp_path / "candidate"
    candidate.write_bytes(b"keep mask")
    digest = sha256(b"keep mask").digest()
    network.driver.files.offer_candidate(digest, candidate, stage.plan.silos)
    member, other = (network.caller(network.authority.issue(silo)) for silo in (ZERO, FOUR))
    for request in (
        words_pb2.FileRequest(opened_sum=stage.round.digest),
        words_pb2.FileRequest(transcript=stage.round.digest),
        words_pb2.FileRequest(candidate=digest),
    ):
        member.download(request, tmp_path / "served", 1 << 20)
        assert (tmp_path / "served").stat().st_size > 0
        with pytest.raises(ProtocolError, match="no such file is offered"):
            other.download(request, tmp_path / "fetched", 1 << 20)
        assert not (tmp_path / "fetched").exists() or (tmp_path / "fetched").read_bytes() == b""


def test_no_words_are_served_to_a_silo_that_is_no_auditor(network: Any) -> None:
    """What a silo asks for by another name than its own it cannot ask for: the name is its certificate's."""
    request = words_pb2.CommittedRequest(round=Stage().round.digest).SerializeToString()
    network.finish()
    with pytest.raises(ProtocolError):
        network.caller(network.authority.issue(FOUR)).perform(Committed(lambda _: request, list))
