"""What a plan says of the prunables' inputs, found on text that the model writes: who shares one, how large it is.

The scales of fixed point have to be known before anybody's text is summed, and to everybody. They need not be right,
only near: lanes have room above them, and silos say how much did not fit.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from typing import Final

import numpy as np
import torch
from torch import Tensor

from crypto.errors import ModelError
from silo_agent.checkpoint.blocks import Block
from silo_agent.checkpoint.dense_weights import DenseWeights
from silo_agent.model.activations import BlockWalk
from silo_agent.writing.self_text import WRITING, self_sequences

SCALING: Final = "scaling inputs of blocks"
"""What is being done once that text is written."""

RECORDS: Final = 16
MOST_TOKENS: Final = 64
"""Of each record: a scale is a power of two, so little text will do."""

BELOW_MEAN: Final = 32
"""Bits that a sum of squares of usual size has in its lane; those above are room for stronger features."""

HEADROOM: Final = 5
"""Exponent of two by which a feature may be larger on the silos' text than on the model's own: 2^10 in energy."""

FAINTEST: Final = 2.0**-20
"""Of the mean energy: a feature that is fainter on the model's own text gets the scale of one that is so faint."""


class Scaling(StrEnum):
    """What the exponents of an input's features are for."""

    SUMS = "sums"
    """One for all features: sums of squares in lanes of 64 bits."""
    PRODUCTS = "products"
    """One each: products of two features in lanes of 32 bits."""
    UNITS = "units"
    """One each: the energy that a unit of text is expected to have there."""


@dataclass(frozen=True)
class Input:
    """What a plan says of the input of one prunable."""

    shares_input_of: str
    """The first prunable of the block with the same input; empty where that is this one."""
    scale_exponents: bytes
    """Signed bytes; none where it shares another's."""
    output_exponents: bytes = b""
    """Signed bytes, one an output, of a prunable whose target is summed."""


def public_scales(
    weights: DenseWeights,
    scaling: Callable[[str], Scaling],
    tokens: int,
    device: torch.device,
    progress: Callable[[str, int, int], None],
    *,
    aims: bool = False,
) -> dict[str, Input]:
    """Return by prunable what a plan says of its input, where each silo, or each unit of text, has so many `tokens`.

    `scaling` says of a prunable what the exponents are for; for products those of another that shares its input are.
    `progress` is told what is being done, how much of it is done, and how much there is. Where a block's last layer
    `aims` at the dense model, its outputs have scales too.
    Raises ModelError where a target is to be summed, and no prunable of a block has one.
    """
    length = min(MOST_TOKENS, getattr(weights.config, "max_position_embeddings", None) or MOST_TOKENS)
    text = self_sequences(
        weights, samples=RECORDS, sequence_length=length, device=device, progress=partial(progress, WRITING)
    )
    inputs: dict[str, Input] = {}
    walk = BlockWalk(weights, text, device=device)
    for block in walk:
        energies = walk.energies()
        last = _last(walk, block, weights) if aims else ""
        usual = {name: energy * (tokens / text.numel()) for name, energy in energies.items()}
        shared = {name: _first_with_input(name, energies, walk.tokens, text.numel()) for name in block.prunable}
        of_products = {first or name for name, first in shared.items() if scaling(name) is Scaling.PRODUCTS}
        for name, first in shared.items():
            what = Scaling.PRODUCTS if name in of_products else scaling(name)
            inputs[name] = Input(first, b"" if first else _exponents(usual[name], what))
        progress(SCALING, block.index + 1, len(weights.blocks))
        if aims or block is not weights.blocks[-1]:
            walk.advance({})
        if aims:
            outputs = _exponents(walk.outputs() * (tokens / text.numel()), Scaling.PRODUCTS)
            inputs[last] = replace(inputs[last], output_exponents=outputs)
    return inputs


def _last(walk: BlockWalk, block: Block, weights: DenseWeights) -> str:
    """Return the last prunable that writes to the residual stream with nothing after it."""
    writers = [name for name in block.prunable if walk.writes_last(name)]
    if not writers or len(block.prunable) == 1:
        raise ModelError(
            f"{weights.folder}: {block.prefix}: has no weight matrix that writes to the residual stream last, after "
            "others",
            hint="--release gram does without a target",
        )
    return writers[-1]


def _first_with_input(name: str, energies: Mapping[str, Tensor], reached: Mapping[str, int], tokens: int) -> str:
    """Return the first prunable, by name, that shares the input of `name`, or nothing where that is itself.

    An expert's input is its own: which tokens reach it is for the text to say.
    """
    if reached[name] != tokens:
        return ""
    first = min(other for other, energy in energies.items() if energy is energies[name])
    return "" if first == name else first


def _exponents(energy: Tensor, scaling: Scaling) -> bytes:
    """Return exponents of two as signed bytes: for all features of an input, or one each."""
    values = energy.double().cpu().numpy()
    mean = values.mean() or 1.0
    of_each = np.log2(np.maximum(values, mean * FAINTEST))
    match scaling:
        case Scaling.SUMS:
            exponents = np.array([np.rint(np.log2(mean)) - BELOW_MEAN])
        case Scaling.PRODUCTS:
            exponents = np.ceil(of_each / 2) + HEADROOM
        case Scaling.UNITS:
            exponents = np.rint(of_each)
    encoded: bytes = exponents.clip(-128, 127).astype(np.int8).tobytes()
    return encoded
