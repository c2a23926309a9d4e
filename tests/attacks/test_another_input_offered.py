"""A dishonest aggregator has a round start from other sums than the opened ones, or from different ones by silo."""

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from attacks.coin import ME, drawn, offer_of, played, serve, start_after
from attacks.stage import flip
from crypto.encoding.wire import encode
from crypto.errors import BadAudit, UnexpectedMessage
from crypto.names import Phase
from silo_agent.model.calibration import data_digest
from silo_agent.rounds.run_files import RunFiles

pytestmark = pytest.mark.clause("2.2.2", "2.2.3", "2.2.4")


def test_only_the_digest_of_what_was_opened_is_accepted(approach: Callable[..., Any], tmp_path: Path) -> None:
    silo = approach()
    world, start = drawn(silo, tmp_path)
    honest = offer_of(start.round)
    made_up = sha256(b"sparsilo/1 input" + world.round.digest + bytes(32)).digest()
    for input_ in (flip(honest["input_"]), bytes(32), made_up, world.round.digest):
        silo.refuses(silo.agreed, UnexpectedMessage, "with another input", **honest | {"input_": input_})
    for input_ in (b"", honest["input_"][:31], honest["input_"] + b"x"):
        silo.refuses(silo.agreed, UnexpectedMessage, "with an input of", **honest | {"input_": input_})
    silo.accepts(silo.agreed, **honest)


def test_a_second_sampling_round_without_the_silos_that_a_coin_does_not_suit(
    approach: Callable[..., Any], tmp_path: Path
) -> None:
    """Sound in itself, it is not the one that this silo was in: what it starts from is what it signed."""
    silo = approach()
    world, _ = drawn(silo, tmp_path)
    again = played(world.plan, 7, lost={ME: Phase.PLAN})
    assert again.round.digest == world.round.digest
    files = RunFiles(silo.config.state, world.plan.digest, data_digest(silo.config.calibration))
    files.begin()
    own = files.transcript(world.round)
    own.write_bytes(encode(world.silos[ME].transcript))
    silo.downloaded.add(own.name)
    serve(silo, again)
    start = start_after(again, tmp_path)
    silo.refuses(silo.agreed, BadAudit, "not the one that was signed", **offer_of(start.round))
