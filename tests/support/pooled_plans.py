"""Plans that pool statistics, over tensors whose inputs are shared as a test says."""

from collections.abc import Iterator
from typing import Any

from crypto.names import ReleaseKind
from crypto.plan import Plan
from crypto.releases.planned_rounds import planned_rounds
from sparsilo.v1 import plan_pb2
from support.plans import plan_message

PRUNERS = {ReleaseKind.ENERGIES: "wanda", ReleaseKind.GRAM: "sparsegpt"}
TARGET = ReleaseKind.DENSE_TARGET


def pooled(
    kind: ReleaseKind,
    tensors: list[tuple[str, int, tuple[int, int], str]],
    *,
    silos: int = 4,
    schedule: str = "iterative",
    chunk_words: int = 4,
    **pruning: object,
) -> plan_pb2.Plan:
    """A plan of the kind, over tensors given as (name, block, shape, whose input it shares)."""
    message = plan_message(silos, chunk_words=chunk_words, group="row")
    del message.model[:], message.rounds[:]
    only_attention = pruning.get("gram_inputs") == "attention"
    attention = {shared or name for name, _, _, shared in tensors if "attn" in name}
    for name, block, shape, shared in sorted(tensors):
        of_products = kind is not ReleaseKind.ENERGIES and (name in attention or not only_attention)
        each = of_products or "clip" in pruning
        exponents = b"" if shared else b"\xf0" * (shape[1] if each else 1)
        message.model.add(
            name=name, digest=bytes(32), shape=shape, prunable=True, block=block,
            shares_input_of=shared, scale_exponents=exponents,
        )  # fmt: skip
        if kind is TARGET and name.endswith("w"):
            message.model[-1].output_exponents = bytes(shape[0])
    message.pruning.pruner, message.pruning.schedule = PRUNERS.get(kind, "sparsegpt"), schedule
    for field, value in pruning.items():
        setattr(message.pruning, field, value)
    for release, block in planned_rounds(Plan(message, b""), kind):
        getattr(message.rounds.add(block=block), release).SetInParent()
    return message


def small(kind: ReleaseKind, **options: Any) -> plan_pb2.Plan:
    """A plan of the kind about four tensors, two of which share an input."""
    tensors = [
        ("blocks.0.k", 0, (3, 10), ""),
        ("blocks.0.q", 0, (6, 10), "blocks.0.k"),
        ("blocks.0.up", 0, (8, 6), ""),
        ("blocks.1.k", 1, (3, 10), ""),
    ]
    return pooled(kind, tensors, **options)


def llama(hidden: int, intermediate: int, kv: int, blocks: int) -> Iterator[tuple[str, int, tuple[int, int], str]]:
    """The prunable tensors of a Llama: q, k and v share an input, and so do gate and up."""
    for block in range(blocks):
        for name, rows, columns, shared in (
            *(("attn.k", kv, hidden, ""), ("attn.q", hidden, hidden, "attn.k"), ("attn.v", kv, hidden, "attn.k")),
            ("attn.o", hidden, hidden, ""),
            *(
                ("gate", intermediate, hidden, ""),
                ("up", intermediate, hidden, "gate"),
                ("w", hidden, intermediate, ""),
            ),
        ):
            yield f"b{block}.{name}", block, (rows, columns), shared and f"b{block}.{shared}"
