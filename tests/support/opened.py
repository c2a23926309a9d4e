"""Plans of rounds that follow from one another, opened sums of them made by hand, and the lanes of a release."""

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

from crypto.encoding.layout import pack_chunk
from crypto.names import ReleaseKind
from crypto.plan import Plan
from crypto.plan_rules import checked_plan
from crypto.releases.planned_rounds import planned_rounds
from crypto.releases.release_spec import layout_of
from crypto.secagg.round import Round
from silo_agent.opened_sums.opened_sum import OpenedRound
from silo_agent.releases.silo_side import SiloRelease
from sparsilo.v1 import plan_pb2
from support.plans import plan_message

Tensors = Mapping[str, tuple[int, tuple[int, int], bool]]
"""By name: block, stored shape, and whether that is [d_in, d_out]."""


def planned(
    tensors: Tensors | Sequence[plan_pb2.Tensor],
    release: ReleaseKind = ReleaseKind.VOTES,
    *,
    silos: int = 5,
    capacities: Sequence[int] = (),
    own_ratios: Mapping[str, str] | None = None,
    chunk_words: int = 3,
    **pruning: object,
) -> Plan:
    """The rounds in which these tensors are pruned so."""
    message = plan_message(silos, chunk_words=chunk_words)
    del message.model[:], message.rounds[:]
    message.model.extend(
        tensors
        if isinstance(tensors, Sequence)
        else [
            plan_pb2.Tensor(name=name, digest=bytes(32), shape=shape, prunable=True, block=block, input_first=turned)
            for name, (block, shape, turned) in sorted(tensors.items())
        ]
    )
    for field, value in pruning.items():
        if isinstance(value, list):
            getattr(message.pruning, field).extend(value)
        else:
            setattr(message.pruning, field, value)
    for member, capacity in zip(message.roster, capacities, strict=False):
        member.capacity = capacity
    for member in message.roster:
        member.sparsity_ratio = (own_ratios or {}).get(member.silo, "")
    for kind, block in planned_rounds(Plan(message, b""), release):
        getattr(message.rounds.add(block=block), kind).SetInParent()
    return checked_plan(message)


def opened(
    round_: Round, sums: Mapping[str, Sequence[int]], survivors: int, folder: Path, root: bytes = bytes(32)
) -> OpenedRound:
    """A round that opened these sums, by section."""
    folder.mkdir(exist_ok=True)
    file = folder / f"{round_.index}.words"
    file.write_bytes(b"".join(packed(round_, sums, survivors)))
    return OpenedRound(round_, survivors, root, file)


def packed(round_: Round, sums: Mapping[str, Sequence[int]], header: int) -> list[bytes]:
    """The bytes of every chunk, in Python's integers (docs/formats.md, section 4)."""
    chunks = []
    for chunk in round_.layout.chunks:
        lanes, width = sums[chunk.section.name][chunk.start : chunk.start + chunk.lanes], chunk.section.width
        words = [lanes[at : at + 64 // width] for at in range(0, len(lanes), 64 // width)]
        body = [sum(int(lane) << width * place for place, lane in enumerate(word)) for word in words]
        chunks.append(struct.pack(f"<{1 + len(body)}Q", header, *body))
    return chunks


def released(release: SiloRelease, plan: Plan, index: int = 0) -> dict[str, list[int]]:
    """All lanes by section, put together chunk by chunk; every chunk can be packed."""
    lanes: dict[str, list[int]] = {}
    for chunk in layout_of(plan, index).chunks:
        values = release.lanes(chunk)
        assert values.shape == (chunk.lanes,)
        pack_chunk(chunk, values)
        section = lanes.setdefault(chunk.section.name, [])
        assert len(section) == chunk.start
        section += [int(value) for value in values]
    return lanes
