"""The plan: what every silo agrees to, hashed into every signature, seal and derived key of the run.

Its rules are in crypto/plan_rules. Layouts are derived from the plan by both roles rather than transmitted, so they
cannot disagree (docs/protocol.md, section 2; crypto/releases).
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from math import prod
from typing import Final

from crypto.errors import IdentityError
from crypto.names import Backend, ReleaseKind, Suite
from crypto.pruning.work import PruningWork
from sparsilo.v1 import plan_pb2

MAX_PLAN_BYTES: Final = 1 << 22
FEWEST_SILOS: Final = 3
MOST_SILOS: Final = 200
RUN_BYTES: Final = 16
DIGEST_BYTES: Final = 32
USUAL_LEAST_RATE: Final = 125_000
"""Bytes a second, 1 Mbit/s: an eighth of what a line of 8 Mbit/s has."""
SILO_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
"""A DNS label (RFC 1123): a silo's name is also its certificate's subject."""


def least_threshold(silos: int, colluders: int, honest: int) -> int:
    """Return the smallest t with 2t > silos + colluders and t - colluders >= honest.

    Two sets of t silos then share an honest one (Bonawitz et al. 2017, section 6), and whatever is combined of sums
    that overlap is of `honest` honest silos or more (docs/adr/0028).
    """
    return max((silos + colluders) // 2 + 1, honest + colluders)


@dataclass(frozen=True)
class Plan:
    """A plan as its message says; crypto/plan_rules makes checked ones. `encoded` is the message's canonical bytes."""

    message: plan_pb2.Plan
    encoded: bytes

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of the canonical encoding, with its own domain tag."""
        return sha256(b"sparsilo/1 plan" + self.encoded).digest()

    @cached_property
    def model_digest(self) -> bytes:
        """The digest of the dense model that the plan is about."""
        tensors, files = (
            {entry.name: entry.digest for entry in listed} for listed in (self.message.model, self.message.files)
        )
        return model_digest(tensors, files)

    @cached_property
    def silos(self) -> tuple[str, ...]:
        """Names in roster order; a silo's index here plus one is its Shamir point."""
        return tuple(member.silo for member in self.message.roster)

    def signing_key(self, silo: str) -> bytes:
        """Return the roster's public key of a silo of this plan."""
        return self.message.roster[self.silos.index(silo)].signing_key

    def check_roster(self, pinned: Mapping[str, bytes]) -> None:
        """Raise IdentityError, naming who differs, unless names and keys are exactly the pinned ones."""
        offered = {member.silo: member.signing_key for member in self.message.roster}
        changed = sorted({silo for silo, _ in {*offered.items()} ^ {*pinned.items()}})
        if changed:
            raise IdentityError(f"the plan's roster differs from the pinned one at {', '.join(changed)}")

    def point(self, silo: str) -> int:
        """Return a silo's Shamir evaluation point, nonzero."""
        return self.silos.index(silo) + 1

    @property
    def suite(self) -> Suite:
        """The cryptographic algorithms."""
        return Suite(self.message.suite)

    @property
    def backend(self) -> Backend:
        """How words are hidden."""
        return Backend(self.message.backend)

    @property
    def honest_survivors(self) -> int:
        """Honest silos that every sum of the plan, and every combination of such sums, is over at least."""
        return 2 if self.message.two_honest_survivors else 3

    @property
    def least_bytes_per_second(self) -> int:
        """The least rate of a silo's words at which UPLOAD and AUDIT go on waiting for it."""
        return self.message.least_bytes_per_second or USUAL_LEAST_RATE

    @cached_property
    def pruning(self) -> PruningWork:
        """The plan's work. There is one kind of it so far; another joins it in `oneof work`."""
        return PruningWork(self.message.pruning, self.message.roster, self.block_weights)

    @property
    def prunable(self) -> Iterator[plan_pb2.Tensor]:
        """The tensors that the run prunes, in the plan's order."""
        return (tensor for tensor in self.message.model if tensor.prunable)

    @cached_property
    def block_weights(self) -> tuple[int, ...]:
        """Prunable weights of each block."""
        weights = [0] * (1 + max(tensor.block for tensor in self.prunable))
        for tensor in self.prunable:
            weights[tensor.block] += prod(tensor.shape)
        return tuple(weights)

    def release_kind(self, round_index: int) -> ReleaseKind:
        """Return what the round sums."""
        return ReleaseKind(self.message.rounds[round_index].WhichOneof("release") or "")

    def block(self, round_index: int) -> int | None:
        """Return the block that the round is about; None: all of them."""
        spec = self.message.rounds[round_index]
        return spec.block if spec.HasField("block") else None

    def tensors(self, round_index: int) -> Iterator[plan_pb2.Tensor]:
        """Return the prunable tensors that the round is about, in the plan's order.

        Those with `output_exponents` have rounds of their own, after the others of their block.
        """
        block, kind = self.block(round_index), self.release_kind(round_index)
        for tensor in self.prunable:
            is_last = bool(tensor.output_exponents)
            apart = {ReleaseKind.GRAM: is_last, ReleaseKind.DENSE_TARGET: not is_last}.get(kind, False)
            if block in (None, tensor.block) and not apart:
                yield tensor

    def round_digest(self, round_index: int, input_digest: bytes, cohort: Sequence[str] = ()) -> bytes:
        """Return what signatures, seals and keys of a round are bound to: plan, index, what it starts from, and who."""
        drawn = bytes(silo in cohort for silo in self.silos) if cohort else b""
        where = self.digest + round_index.to_bytes(4, "little")
        return sha256(b"sparsilo/1 round" + where + input_digest + drawn).digest()

    def is_sampled(self, round_index: int) -> bool:
        """Tell whether a cohort of the roster, drawn by the silos' joint coin, takes part in the round."""
        return bool(self.pruning.cohort_floor) and self.block(round_index) is not None


def model_digest(tensors: Mapping[str, bytes], files: Mapping[str, bytes]) -> bytes:
    """Return the SHA-256 that stands for a model: over names and digests of its tensors and its other files, both
    ascending by name (docs/formats.md, section 2).
    """
    listed = (
        b"".join(sha256(name.encode()).digest() + digests[name] for name in sorted(digests))
        for digests in (tensors, files)
    )
    return sha256(b"sparsilo/1 model" + b"".join(sha256(part).digest() for part in listed)).digest()


def oriented(tensor: plan_pb2.Tensor) -> tuple[int, int]:
    """Return (d_out, d_in) of a prunable tensor, whichever comes first where it is stored."""
    first, second = tensor.shape
    return (second, first) if tensor.input_first else (first, second)
