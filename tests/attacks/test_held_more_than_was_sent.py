"""A dishonest aggregator says that it holds other chunks than it does, to be sent less, or something twice."""

from pathlib import Path

import pytest

from attacks.stage import AGGREGATOR, ZERO, Agent, Stage, assert_silent
from crypto.errors import BadUpload
from crypto.names import Phase
from silo_agent.network.calls import Upload

pytestmark = pytest.mark.clause("6.5.3", "6.5.5")


def uploading(folder: Path) -> tuple[Agent, Upload]:
    """An agent that is about to upload four chunks."""
    stage = Stage()
    agent = Agent(stage, ZERO, folder)
    stage.go_on(Phase.UPLOAD)
    assert isinstance(agent.call, Upload)
    return agent, agent.call


@pytest.mark.parametrize(("sent", "claimed"), [(0, 1), (0, 4), (0, 5), (2, 3), (2, 4), (4, 5), (4, (1 << 32) - 1)])
def test_more_than_was_sent_ends_the_round(sent: int, claimed: int, tmp_path: Path) -> None:
    agent, call = uploading(tmp_path)
    for _, _ in zip(range(sent), call.chunks(0), strict=False):
        pass
    with pytest.raises(BadUpload, match=f"claims to hold {claimed} chunks") as refused:
        next(call.chunks(claimed))
    assert refused.value.party == AGGREGATOR
    assert_silent(agent.session)


def test_whatever_it_claims_the_bytes_are_the_same(tmp_path: Path) -> None:
    _, call = uploading(tmp_path)
    honest = list(call.chunks(0))
    for claimed in (3, 0, 2, 4, 0):
        assert list(call.chunks(claimed)) == honest[claimed:]
