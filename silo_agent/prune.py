"""A silo's own keep masks, block by block: Wanda on the silo's calibration sequences."""

import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from decimal import Decimal
from pathlib import Path

import torch
from torch import Tensor

from crypto.errors import ModelError, OutputError
from crypto.names import ComparisonGroup
from silo_agent.activations import BlockWalk
from silo_agent.dense_weights import DenseWeights
from silo_agent.keep_mask import keep_by_score
from silo_agent.pruners import wanda


def keep_masks(
    weights: DenseWeights,
    sequences: Tensor,
    *,
    sparsity_ratio: Decimal,
    group: ComparisonGroup,
    device: torch.device,
    progress: Callable[[int, int], None],
) -> Iterator[tuple[str, Tensor]]:
    """Yield each prunable weight's name and keep mask (bool, the weight's shape, on the CPU), in the model's order.

    A block's statistics come from the dense block on the outputs of the already pruned blocks before it. `sequences`
    is int64 [samples, L]. `progress` is called with (blocks done, blocks). ConfigError: a ratio outside 0 to 1, or
    sequences longer than the model's positions. ModelError: NaN or infinity in weights or activations.
    """
    walk = BlockWalk(weights, sequences, device=device)
    for block in walk:
        keep = {}
        for name, energy in walk.energies().items():
            weight = weights.tensor(name).to(device)
            score = wanda.score(weight, energy)
            if not score.isfinite().all():
                raise ModelError(
                    f"{weights.folder}: {name}: weights or activations are not finite",
                    hint="use a bfloat16 or float32 copy of the model",
                )
            keep[name] = keep_by_score(score, weight, sparsity_ratio, group)
            yield name, keep[name].cpu()
        progress(block.index + 1, len(weights.blocks))
        if block is not weights.blocks[-1]:
            walk.advance(keep)


def write_keep_masks(path: Path, masks: Iterable[tuple[str, Tensor]]) -> None:
    """Write bool tensors as a safetensors file, one in memory at a time; `path` appears whole or not at all.

    OutputError: `path` exists (found before the first mask is asked for), or its folder cannot be written.
    """
    if path.exists():
        raise OutputError(f"{path}: exists", hint="remove it or choose another name")
    header: dict[str, dict[str, object]] = {}
    try:
        # The header, which comes first, is known last: the masks wait in a file of their own.
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".keep-masks-") as folder:
            whole = Path(folder, path.name)
            with tempfile.TemporaryFile(dir=folder) as data, whole.open("wb") as out:
                for name, mask in masks:
                    start = data.tell()
                    data.write(mask.numpy().tobytes())
                    header[name] = {"dtype": "BOOL", "shape": list(mask.shape), "data_offsets": [start, data.tell()]}
                text = json.dumps(header).encode()
                out.write(len(text).to_bytes(8, "little") + text)
                data.seek(0)
                shutil.copyfileobj(data, out)
            whole.replace(path)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror}", hint="choose another place") from error
