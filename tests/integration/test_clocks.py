"""Clocks that are wrong, on either side, by up to 40 minutes. Whole processes get theirs from Debian's libfaketime."""

from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from crypto.errors import IdentityError
from crypto.identity import check_certificates
from sparsilo.v1 import identity_pb2
from support.deployment import Deployment
from support.driven import looping, on
from support.enrolling import Aggregator

SILOS = ("a", "b", "c", "d")
MINUTES = (-40, -10, 10, 40)


@pytest.mark.parametrize("minutes", MINUTES)
def test_a_silo_enrols_and_calls_across_clocks(minutes: int, tmp_path: Path) -> None:
    """Whose clock is right does not matter: certificates are checked by the one and made by the other."""
    ahead = timedelta(minutes=minutes)
    with looping() as loop:
        aggregator = Aggregator(tmp_path, loop, ahead)
        own = aggregator.enroll("a")
        check_certificates(own.certificate, datetime.now(UTC))
        with closing(aggregator.transport(own)) as transport:
            reply = transport.identify("Status", identity_pb2.StatusRequest(), identity_pb2.StatusReply)
        assert abs(reply.unix_seconds - (datetime.now(UTC) + ahead).timestamp()) < 60
        on(loop, aggregator.server.stop())


@pytest.mark.parametrize(("hours", "words"), [(3, "is not yet valid"), (-24 * 31, "has expired")])
def test_clocks_too_far_apart_are_named(hours: int, words: str, tmp_path: Path) -> None:
    with looping() as loop:
        aggregator = Aggregator(tmp_path, loop, timedelta(hours=hours))
        clock = f"the certificate shown there {words}, and this machine's clock says {datetime.now(UTC):%Y-%m-%d}"
        with pytest.raises(IdentityError, match=clock) as refused:
            aggregator.enroll("a")
        assert "set the clock that is wrong, this machine's or the aggregator's" in refused.value.hint
        on(loop, aggregator.server.stop())


def clock(minutes: int) -> dict[str, str]:
    """The environment of a process whose clock is wrong by so much. Time goes on as it should."""
    [library] = Path("/usr/lib").glob("*/faketime/libfaketime.so.1")
    return {"LD_PRELOAD": str(library), "FAKETIME": f"{minutes:+d}m", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}


@pytest.fixture
def deployment(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Deployment]:
    made = Deployment(tmp_path, SILOS, capsys)
    yield made
    made.close()


def finish(deployment: Deployment) -> None:
    for agent in deployment.agents.values():
        agent.wait_for("metrics on")
    waited = deployment.wait(deployment.submit())
    assert waited.code == 0, waited.err
    assert all(agent.process.poll() is None for agent in deployment.agents.values())


@pytest.mark.parts
@pytest.mark.parametrize("minutes", MINUTES)
def test_an_aggregator_whose_clock_is_wrong_after_a_restart(minutes: int, deployment: Deployment) -> None:
    """Its agents stay, trust the certificate that it issues itself anew, and take part."""
    aggregator = deployment.serve()
    deployment.join()
    aggregator.end()
    deployment.serve(**clock(minutes))
    finish(deployment)


@pytest.mark.parts
def test_silos_whose_clocks_are_wrong(deployment: Deployment) -> None:
    deployment.serve()
    deployment.join()
    for silo, minutes in zip(SILOS, MINUTES, strict=True):
        deployment.agents[silo].end()
        deployment.start(silo, **clock(minutes))
    finish(deployment)


@pytest.mark.parts
def test_an_aggregator_whose_clock_is_a_day_ahead_and_then_right(deployment: Deployment) -> None:
    """No agent ends for it, and each says which clocks differ."""
    aggregator = deployment.serve()
    deployment.join()
    aggregator.end()
    ahead = deployment.serve(**clock(24 * 60))
    for agent in deployment.agents.values():
        agent.wait_for("the certificate shown there is not yet valid, and this machine's clock says 20..-")
    ahead.end()
    deployment.serve()
    finish(deployment)
