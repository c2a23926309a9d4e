"""A dishonest aggregator respells an ECDSA signature, which splits silos over bytes that all verify."""

from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA384

from attacks.stage import FOUR, ZERO, Stage, altered, assert_refused, assert_turned_away, entry, heard
from crypto.errors import BadSignature
from crypto.names import Phase, Suite
from crypto.primitives.signing import verify
from sparsilo.v1 import round_pb2

pytestmark = pytest.mark.clause("3.0.2", "3.1.2")

ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973
FIELDS = {Phase.PLAN: "keys", Phase.UPLOAD: "roots", Phase.CONSISTENCY: "signatures", Phase.AUDIT: "signatures"}


def twin(signature: bytes) -> bytes:
    return signature[:48] + (ORDER - int.from_bytes(signature[48:], "big")).to_bytes(48, "big")


def respell(body: Any) -> None:
    body.signature = twin(body.signature)


@pytest.mark.parametrize("phase", FIELDS)
def test_a_silo_and_an_honest_aggregator_refuse_it(phase: Phase) -> None:
    stage = Stage(phase, suite=Suite.FIPS)
    if phase is Phase.UPLOAD:
        stage.upload(FOUR, stage.lanes[FOUR])
    for index in stage.silos[FOUR].assigned if phase is Phase.AUDIT else ():
        stage.silos[FOUR].audit(index, stage.committed(index))
    message = altered(stage.silos[FOUR].message(), respell, round_pb2.SiloMessage)
    assert_turned_away(stage, FOUR, message, BadSignature)
    answer = altered(stage.answers()[ZERO], lambda body: respell(entry(body, FIELDS[phase], FOUR)))
    assert_refused(stage.silos[ZERO], answer, BadSignature, FOUR)


def test_ecdsa_itself_takes_it() -> None:
    stage = Stage(suite=Suite.FIPS)
    key = stage.keys[FOUR]
    signature, public = key.sign(b"context", b"message"), stage.plan.signing_key(FOUR)
    r, s = (int.from_bytes(half, "big") for half in (signature[:48], twin(signature)[48:]))
    signed = b"sparsilo/1 signature" + (7).to_bytes(2, "little") + b"contextmessage"
    point = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP384R1(), public)
    point.verify(encode_dss_signature(r, s), signed, ec.ECDSA(SHA384()))
    verify(Suite.FIPS, public, signature, b"context", b"message", party=FOUR)
    with pytest.raises(BadSignature):
        verify(Suite.FIPS, public, twin(signature), b"context", b"message", party=FOUR)
    assert len(heard(stage.silos[FOUR].message()).signature) == 96
