"""GPTQ against a plain transcription of the published algorithm in float64, and what holds for all layers."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from silo_agent.second_order.gptq import Bits, group_size, quantise, round_to_nearest

FLOATS = [torch.float32, torch.bfloat16, torch.float16]


def layer(outputs: int, inputs: int, dtype: torch.dtype = torch.float32, dead: int = 0) -> tuple[Tensor, Tensor]:
    """A weight, and the Gram matrix of inputs that are correlated and of very different strengths."""
    generator = torch.Generator().manual_seed(inputs)
    common = torch.randn(4 * inputs, inputs // 4, generator=generator)
    x = common @ torch.randn(inputs // 4, inputs, generator=generator) / (inputs // 4) ** 0.5
    x += 0.3 * torch.randn(x.shape, generator=generator)
    x *= (0.7 * torch.randn(inputs, generator=generator)).exp()
    x[:, torch.randperm(inputs, generator=generator)[:dead]] = 0
    return (torch.randn(outputs, inputs, generator=generator) * 0.02).to(dtype), x.T @ x


def random_keep(weight: Tensor) -> Tensor:
    return torch.rand(weight.shape, generator=torch.Generator().manual_seed(1)) > 0.5


def published(w: Tensor, gram: Tensor, bits: int, keep: Tensor, group: int) -> tuple[Tensor, Tensor]:
    """Levels and scales, column by column: all later columns are moved at once, and nothing is done in blocks."""
    dtype, w, gram = w.dtype, w.double(), gram.double()
    size = w.shape[1]
    hinv = torch.linalg.inv(gram + 0.01 * gram.diagonal().mean() * torch.eye(size))
    u = torch.linalg.cholesky(hinv, upper=True)
    levels, scales = torch.zeros(w.shape, dtype=torch.int64), torch.zeros(len(w), size // group, dtype=torch.float64)
    for j in range(size):
        if j % group == 0:
            seen = torch.where(keep[:, j : j + group], w[:, j : j + group], 0)
            scales[:, j // group] = (seen.abs().max(1).values / (2**bits - 1) * 2).to(dtype).double()
        scale = scales[:, j // group]
        levels[:, j] = torch.round(w[:, j] / scale).clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) * keep[:, j]
        value = (levels[:, j] * scale).to(dtype).double()
        w[:, j:] -= torch.outer((w[:, j] - value) / u[j, j], u[j, j:])
    return levels, scales


def loss(new: Tensor, weight: Tensor, gram: Tensor) -> float:
    """The squared error in the layer's output over the calibration text."""
    difference = new.double() - weight.double()
    return float((difference @ gram.double() * difference).sum())


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("inputs", [256, 320])  # groups of 128, and a whole row that is two blocks and a half
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("masked", [False, True])
def test_the_same_as_published(bits: Bits, inputs: int, dtype: torch.dtype, masked: bool) -> None:
    weight, gram = layer(200, inputs, dtype)
    keep = random_keep(weight) if masked else torch.ones_like(weight, dtype=torch.bool)
    before = weight.clone(), gram.clone(), keep.clone()
    new = quantise(weight, gram, bits, keep if masked else None)
    levels, scales = published(weight, gram, bits, keep, 128 if inputs == 256 else inputs)
    # Float32 rounds a few values to another level than float64, which moves all of that row after it.
    same = (new.levels == levels).all(1)
    assert float(same.float().mean()) > 0.9
    assert new.scales.shape == scales.shape and torch.allclose(new.scales[same].double(), scales[same], rtol=1e-5)
    expected = (levels * scales.repeat_interleave(inputs // scales.shape[1], 1)).to(dtype)
    assert loss(new.weight, weight, gram) == pytest.approx(loss(expected, weight, gram), rel=0.01)
    assert all(map(torch.equal, (weight, gram, keep), before))  # arguments are left alone
    assert (new.levels.dtype, new.scales.dtype, new.weight.dtype) == (torch.int8, dtype, dtype)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("masked", [False, True])
def test_the_output_is_nearer_than_rounded(bits: Bits, masked: bool) -> None:
    for inputs in (256, 320):
        weight, gram = layer(96, inputs)
        keep = random_keep(weight) if masked else None
        pruned = weight if keep is None else weight * keep
        new, nearest = quantise(pruned, gram, bits, keep), round_to_nearest(pruned, bits, keep)
        assert loss(new.weight, pruned, gram) < 0.6 * loss(nearest.weight, pruned, gram)
        if keep is not None:
            assert not new.levels[~keep].any() and not new.weight[~keep].any()


def test_what_pruned_weights_did_is_undone() -> None:
    weight, gram = layer(96, 256)
    keep = random_keep(weight)
    of_zeroed, of_dense = (quantise(given, gram, 4, keep) for given in (weight * keep, weight))
    assert not of_dense.levels[~keep].any()
    assert loss(of_dense.weight, weight, gram) < 0.6 * loss(of_zeroed.weight, weight, gram)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_rounded_weights_are_within_half_a_step(bits: Bits, dtype: torch.dtype) -> None:
    weight, _ = layer(16, 256, dtype)
    weight[3, :128] = 0
    keep = random_keep(weight)
    for mask in (None, keep):
        nearest = round_to_nearest(weight, bits, mask)
        expected = weight.double() * (1 if mask is None else mask)
        step = nearest.scales.double().repeat_interleave(128, 1)
        exact = nearest.levels * step
        assert nearest.scales.shape == (16, 2) and bool(nearest.levels.min() >= -(2 ** (bits - 1)))
        # The largest weight lies half a step beyond the highest level; scales are rounded to the dtype.
        assert bool(((exact - expected).abs() <= step * (0.5 + 2**bits * torch.finfo(dtype).eps)).all())
        assert torch.allclose(nearest.weight.double(), exact, rtol=torch.finfo(dtype).eps, atol=0)
        assert not nearest.levels[3, :128].any() and nearest.weight.isfinite().all()


@pytest.mark.parametrize(("bits", "largest"), [(4, 7.5), (8, 127.5)])
def test_levels_by_hand(bits: Bits, largest: float) -> None:
    row = torch.tensor([[largest, -largest, 0.0, -1.0, 0.4, 1.6, -2.6, 6.5]])
    levels = [2 ** (bits - 1) - 1, -(2 ** (bits - 1)), 0, -1, 0, 2, -3, 6]  # halves go to the even level
    expected = torch.tensor([levels], dtype=torch.int8)
    for scale in (1.0, 2.0**-9):
        nearest = round_to_nearest(row * scale, bits)
        assert nearest.scales.tolist() == [[scale]] and torch.equal(nearest.levels, expected)


def test_dead_inputs_are_rounded() -> None:
    weight, gram = layer(32, 256, dead=30)
    dead = gram.diagonal() == 0
    new, nearest = quantise(weight, gram, 8), round_to_nearest(weight, 8)
    assert int(dead.sum()) == 30 and float((new.weight - weight)[:, dead].abs().max()) <= float(new.scales.max()) * 0.51
    assert loss(new.weight, weight, gram) < 0.6 * loss(nearest.weight, weight, gram)


@pytest.mark.parametrize("spoil", [lambda gram: -gram, lambda gram: gram.fill_(3e38), lambda gram: gram * 0])
@pytest.mark.parametrize("masked", [False, True])
def test_a_gram_matrix_that_no_damping_helps_leaves_rounding(spoil: Callable[[Tensor], Tensor], masked: bool) -> None:
    weight, gram = layer(64, 128)
    keep = random_keep(weight) if masked else None
    new, nearest = quantise(weight, spoil(gram), 4, keep), round_to_nearest(weight, 4, keep)
    assert all(map(torch.equal, new, nearest)) and new.weight.isfinite().all()


def test_weights_that_move_beyond_float32_are_rounded(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, gram = layer(64, 256)
    factor = torch.eye(256) + torch.full((256, 256), 3e38).triu(1)
    monkeypatch.setattr("silo_agent.second_order.gptq.inverse_factor", lambda _: factor)
    assert all(map(torch.equal, quantise(weight, gram, 4), round_to_nearest(weight, 4)))


def test_it_is_deterministic() -> None:
    weight, gram = layer(64, 320)
    assert all(map(torch.equal, quantise(weight, gram, 4), quantise(weight.clone(), gram.clone(), 4)))


@pytest.mark.parametrize(("d_in", "expected"), [(4096, 128), (128, 128), (688, 688), (64, 64), (192, 192)])
def test_groups_are_of_128_or_the_row(d_in: int, expected: int) -> None:
    assert group_size(d_in) == expected
