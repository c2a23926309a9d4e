"""Plans for tests: small, valid, and changed one field at a time."""

from hashlib import sha512
from typing import Any

from crypto.names import Backend, Suite
from crypto.plan import Plan, least_threshold
from crypto.plan_rules import checked_plan
from crypto.primitives.signing import SigningKey, private_key_bytes
from sparsilo.v1 import plan_pb2


def silo_names(count: int) -> list[str]:
    return [f"silo-{index:03d}" for index in range(count)]


def signing_keys(count: int, suite: Suite = Suite.DEFAULT) -> dict[str, SigningKey]:
    """Reproducible identities; nothing in a test depends on their secrecy."""
    size = private_key_bytes(suite)
    return {silo: SigningKey.from_bytes(sha512(silo.encode()).digest()[:size], suite) for silo in silo_names(count)}


def plan_message(
    silos: int = 4,
    *,
    threshold: int | None = None,
    colluders: int = 0,
    shape: tuple[int, int] = (6, 10),
    tensors: int = 2,
    group: str = "layer",
    chunk_words: int = 4,
    backend: Backend = Backend.DOUBLE_MASKING,
    run: bytes = b"0123456789abcdef",
    suite: Suite = Suite.DEFAULT,
    least_survivors: int | None = None,
) -> plan_pb2.Plan:
    if threshold is None:
        threshold = least_threshold(silos, colluders, honest=2)
    return plan_pb2.Plan(
        protocol="sparsilo/1",
        run=run,
        suite=suite,
        backend=backend,
        roster=[
            plan_pb2.Member(silo=silo, signing_key=key.public_bytes) for silo, key in signing_keys(silos, suite).items()
        ],
        threshold=threshold,
        least_survivors=least_survivors or threshold,
        two_honest_survivors=threshold - colluders == 2,
        colluders=colluders,
        model=[
            plan_pb2.Tensor(name=f"blocks.{index}.weight", digest=bytes(32), shape=shape, prunable=True)
            for index in range(tensors)
        ],
        pruning=plan_pb2.Pruning(
            pruner="wanda", sparsity_ratio="0.5", comparison_group=group, samples=4, sequence_length=16
        ),
        rounds=[plan_pb2.Round(votes=plan_pb2.Votes())],
        chunk_words=chunk_words,
        phase_seconds=5,
        preparation_seconds=60,
    )


def llama_tensors(weights: Any) -> list[plan_pb2.Tensor]:
    """What a plan says of the tensors of tests/models' tiny Llama."""
    tensors = []
    for name, digest in sorted(weights.digest().items()):
        prunable = name.endswith("_proj.weight")
        block = int(name.split(".")[2]) if prunable else 0
        shape = weights.tensor(name).shape
        tensors.append(plan_pb2.Tensor(name=name, digest=digest, shape=shape, prunable=prunable, block=block))
    return tensors


def model_files(weights: Any) -> list[plan_pb2.File]:
    """What a plan says of the other files of a model folder."""
    return [plan_pb2.File(name=name, digest=digest) for name, digest in weights.file_digests.items()]


def plan(silos: int = 4, **fields: object) -> Plan:
    return checked_plan(plan_message(silos, **fields))  # type: ignore[arg-type]
