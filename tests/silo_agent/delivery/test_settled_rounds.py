"""A transcript that comes to DONE takes back the accusation of whoever signed its opening, and of nobody else."""

from pathlib import Path

import pytest

from crypto.errors import IdentityError
from crypto.names import Phase
from scenarios.world import World, random_lanes
from silo_agent.consent.accusations import Accusations
from silo_agent.consent.audit_log import AUDIT_FILE, read_audit_log
from silo_agent.consent.state_store import STATE_FILE, StateStore
from silo_agent.delivery.settled_rounds import settle_accusations
from support.plans import plan, signing_keys, silo_names
from support.saved_round import save

SILOS = silo_names(5)
RESTARTED, UNHEARD = SILOS[0], SILOS[1]
KEYS = signing_keys(5)
ROSTER = {silo: key.public_bytes for silo, key in KEYS.items()}


@pytest.fixture
def world() -> World:
    """One silo is lost once it has signed the opening and drawn its coin, another before its signature arrives."""
    agreed = plan(5, threshold=3)
    played = World(agreed, KEYS, {RESTARTED: Phase.AUDIT, UNHEARD: Phase.OPENING})
    played.run(random_lanes(agreed, seed=3))
    return played


def accusing(folder: Path, world: World) -> Accusations:
    """A silo that had recorded what it signed in OPENING when it ended."""
    StateStore(folder / STATE_FILE).say(world.round.digest, Phase.OPENING, b"its signature")
    return Accusations(folder)


@pytest.mark.clause("14.6.2")
@pytest.mark.parametrize(("silo", "standing"), [(RESTARTED, 0), (UNHEARD, 1)])
def test_who_signed_the_opening_that_came_to_done(silo: str, standing: int, world: World, tmp_path: Path) -> None:
    accusations, transcript = accusing(tmp_path / silo, world), save(world, tmp_path / "t")
    assert accusations.standing() == [world.round.digest]
    settle_accusations(tmp_path / silo, silo, transcript, ROSTER)
    assert len(accusations.standing()) == standing
    log = tmp_path / silo / AUDIT_FILE
    events = [(entry["event"], entry["round"]) for entry in read_audit_log(log)] if log.exists() else []
    assert events == [("accusation_settled", world.round.digest.hex())] * (1 - standing)


@pytest.mark.clause("14.6.2")
def test_another_round_or_roster_settles_nothing(world: World, tmp_path: Path) -> None:
    other = World(plan(5, threshold=3, run=bytes(16)), KEYS)
    other.run(random_lanes(other.plan, seed=4))
    accusations, transcript = accusing(tmp_path / "state", other), save(world, tmp_path / "t")
    settle_accusations(tmp_path / "state", RESTARTED, transcript, ROSTER)
    assert not (tmp_path / "state" / AUDIT_FILE).exists()
    swapped = {**ROSTER, SILOS[2]: ROSTER[SILOS[3]], SILOS[3]: ROSTER[SILOS[2]]}
    with pytest.raises(IdentityError):
        settle_accusations(tmp_path / "state", RESTARTED, transcript, swapped)
    assert accusations.standing() == [other.round.digest]
