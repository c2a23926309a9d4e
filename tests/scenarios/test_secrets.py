"""What a silo must keep to itself, and use once."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from crypto.backends.double_masking import key_agreement
from crypto.names import Phase
from crypto.primitives import sealed
from scenarios.simulation import Schedule, Simulation
from scenarios.world import World, random_lanes
from support.plans import plan, signing_keys


@pytest.mark.clause("3.3.3", "4.10")
def test_no_key_seed_share_or_coin_is_on_a_silos_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secrets: list[bytes] = []

    def noting(make: Callable[..., Any], secret: Callable[[Any], bytes]) -> Callable[..., Any]:
        def made(*arguments: Any) -> Any:
            value = make(*arguments)
            secrets.append(secret(value))
            return value

        return made

    for kind in (MLKEM768PrivateKey, X25519PrivateKey):
        noted = type(
            kind.__name__, (), {"generate": staticmethod(noting(kind.generate, lambda k: k.private_bytes_raw()))}
        )
        monkeypatch.setattr(sealed, kind.__name__, noted)
    schedule = Schedule(1, kills=[])
    schedule.loss = schedule.doubled = 0.0
    monkeypatch.setattr(schedule.chance, "randbytes", noting(schedule.chance.randbytes, bytes), raising=False)
    world = Simulation(schedule, tmp_path)
    world.run()
    world.check()
    assert world.closed is not None
    silos = len(schedule.plan.silos)
    assert len(secrets) > silos * (2 + 3 + silos - 1)  # sealing keys; seed, bundle key and coin; contributions
    written = b"".join((tmp_path / f"{silo}.sqlite").read_bytes() for silo in schedule.plan.silos)
    assert world.round.digest in written
    assert [secret for secret in secrets if secret in written or secret.hex().encode() in written] == []


@pytest.mark.clause("3.6.2", "4.3")
def test_a_bundle_key_encrypts_once_however_often_the_message_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[bytes] = []
    seal_bundle = key_agreement.seal_bundle
    monkeypatch.setattr(key_agreement, "seal_bundle", lambda key, *rest: (used.append(key), seal_bundle(key, *rest))[1])
    agreed = plan(4, threshold=3)
    world, lanes = World(agreed, signing_keys(4)), random_lanes(agreed, seed=1)
    while world.aggregator.phase is not Phase.UPLOAD:
        for silo in agreed.silos:
            assert world.silos[silo].message() == world.silos[silo].message()
        world.step(lanes)
    assert len(used) == len(set(used)) == 4
