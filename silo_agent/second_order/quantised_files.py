"""Quantised weights on their way to a folder that is written in another order: two files each, none in memory."""

from pathlib import Path

import torch

from silo_agent.checkpoint.dense_weights import DenseWeights
from silo_agent.second_order.gptq import Quantised, group_size


class QuantisedFiles:
    """Keeps the quantised weights of a model in `folder`, which is there."""

    def __init__(self, weights: DenseWeights, folder: Path) -> None:
        self._weights, self._folder = weights, folder

    def add(self, name: str, quantised: Quantised) -> None:
        """Keep a weight, which is on the CPU. Raises OSError."""
        for part, values in quantised._asdict().items():
            (self._folder / f"{name}.{part}").write_bytes(values.contiguous().view(torch.uint8).numpy().data)

    def __getitem__(self, name: str) -> Quantised:
        rows, columns = self._weights.shape(name)
        levels = torch.int8, columns
        scales = self._weights.dtype(name), columns // group_size(columns)
        return Quantised(
            *(
                torch.from_file(str(self._folder / f"{name}.{part}"), size=rows * width, dtype=dtype).view(rows, width)
                for part, (dtype, width) in zip(Quantised._fields, (levels, scales), strict=True)
            )
        )
