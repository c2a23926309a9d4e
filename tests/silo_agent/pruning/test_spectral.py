"""Exponents of spectra against numpy's singular values and the published formula."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from crypto.errors import ModelError
from silo_agent.checkpoint.dense_weights import DenseWeights
from silo_agent.pruning.spectral import block_alphas, hill_alpha
from support.models import BLOCKS, family, in_memory, tiny_model

CPU = torch.device("cpu")


def published(weight: np.ndarray) -> float:
    """1 + k / the sum over i = 1 .. k of ln(lambda_(n-i+1) / lambda_(n-k)), lambda_1 the least of n, k = n / 2."""
    rising = np.sort(np.linalg.svd(weight.astype(np.float64), compute_uv=False) ** 2)
    n = len(rising)
    k = n // 2
    lambda_ = dict(enumerate(rising, 1))
    return 1 + k / sum(math.log(lambda_[n - i + 1] / lambda_[n - k]) for i in range(1, k + 1))


@pytest.mark.parametrize("shape", [(48, 48), (33, 80), (90, 25), (2, 3)])
def test_the_published_formula(shape: tuple[int, int]) -> None:
    generator = np.random.default_rng(sum(shape))
    weight = generator.standard_t(3, shape).astype(np.float32)
    found = hill_alpha(torch.from_numpy(weight).double())
    assert found == pytest.approx(published(weight), rel=1e-9)
    assert hill_alpha(torch.from_numpy(weight).double() * 1e-3) == pytest.approx(found, rel=1e-9)  # scale is nothing


@pytest.mark.parametrize("exponent", [1.5, 3.0])
def test_a_power_law_has_its_exponent(exponent: float) -> None:
    n = 1000
    rising = np.array([(1 - (i - 0.5) / n) ** (-1 / (exponent - 1)) for i in range(1, n + 1)])  # quantiles of the law
    assert hill_alpha(torch.from_numpy(np.diag(np.sqrt(rising)))) == pytest.approx(exponent, rel=0.01)


def test_what_rounding_leaves_of_zero_counts_as_that() -> None:
    generator = torch.Generator().manual_seed(0)
    low_rank = torch.randn(40, 4, generator=generator).double() @ torch.randn(4, 60, generator=generator).double()
    alpha = hill_alpha(low_rank)
    assert alpha is not None and 1 < alpha < 1.5


@pytest.mark.parametrize("weight", [torch.zeros(8, 8), 3 * torch.eye(8), torch.ones(1, 8)])
def test_a_spectrum_without_a_tail_has_no_exponent(weight: Tensor) -> None:
    assert hill_alpha(weight.double()) is None


@pytest.mark.parametrize("name", ["llama", "gpt2", "mixtral"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_mean_of_a_blocks_weights(tmp_path: Path, name: str, dtype: torch.dtype) -> None:
    folder = tiny_model(tmp_path / "model", family(name, num_hidden_layers=3), seed=4, dtype=dtype)
    alphas = block_alphas(DenseWeights.open(folder), device=CPU)
    blocks = in_memory(folder).get_submodule(BLOCKS[name])
    for alpha, block in zip(alphas, blocks, strict=True):
        matrices = [
            parameter.detach().numpy()
            for inside, parameter in block.named_parameters()
            if parameter.ndim == 2 and not inside.endswith("gate.weight")  # of a router
        ]
        for experts in (parameter.detach() for parameter in block.parameters() if parameter.ndim == 3):
            halves = 2 if experts.shape[1] == 2 * 72 else 1  # gate and up
            matrices += [matrix.numpy() for of_expert in experts for matrix in of_expert.chunk(halves)]
        assert float(alpha) == pytest.approx(np.mean([published(matrix) for matrix in matrices]), abs=6e-5)
        assert alpha == round(alpha, 4)


@pytest.mark.parametrize("spoil", [lambda weight: weight * 0, lambda weight: weight / 0])
def test_a_weight_without_an_exponent_is_named(tmp_path: Path, spoil: Callable[[Tensor], Tensor]) -> None:
    folder = tiny_model(tmp_path / "model", family("llama"))
    name = "model.layers.1.mlp.up_proj.weight"
    tensors = load_file(folder / "model.safetensors")
    save_file(tensors | {name: spoil(tensors[name])}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=name):
        block_alphas(DenseWeights.open(folder), device=CPU)
