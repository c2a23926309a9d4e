"""All pruners: exact k in every group of every shape; magnitude and RIA against their formulas."""

from decimal import Decimal
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from crypto.errors import PlanError
from crypto.names import ComparisonGroup, Pruner
from crypto.pruning.pruners import PRUNERS
from crypto.pruning.sparsity import Pattern, Sparsity
from silo_agent.pruning.pruners import method

RATIOS = st.one_of(st.sampled_from([Decimal(each) for each in ("0", "0.5", "0.29", "0.999")]), st.decimals(0, "0.9999"))


def layer(outputs: int, inputs: int, seed: int = 0, tokens: int = 40) -> tuple[Tensor, Tensor]:
    """A weight [outputs, inputs] and correlated inputs [tokens, inputs] of very different strengths."""
    generator = torch.Generator().manual_seed(seed)
    common = torch.randn(tokens, 3, generator=generator) @ torch.randn(3, inputs, generator=generator)
    strength = torch.randn(inputs, generator=generator).exp()
    x = (common + torch.randn(tokens, inputs, generator=generator)) * strength
    return torch.randn(outputs, inputs, generator=generator) * 0.02, x


def statistic(pruner: Pruner, x: Tensor) -> Tensor | None:
    return {None: None, "energies": x.square().sum(0), "grams": x.T @ x}[method(pruner).STATISTIC]


def check_new_weight(new: Tensor | None, keep: Tensor, pruner: Pruner) -> None:
    assert (new is not None) == PRUNERS[pruner].updates_weights
    assert new is None or torch.equal(new != 0, keep)


@pytest.mark.parametrize("pruner", Pruner)
@given(
    outputs=st.integers(1, 20),
    inputs=st.integers(1, 300),
    ratio=RATIOS,
    group=st.sampled_from(ComparisonGroup),
    seed=st.integers(0, 9),
)
@settings(max_examples=40, deadline=None)
def test_exactly_k_in_every_group(
    pruner: Pruner, outputs: int, inputs: int, ratio: Decimal, group: ComparisonGroup, seed: int
) -> None:
    weight, x = layer(outputs, inputs, seed)
    keep, new = method(pruner).prune(weight, statistic(pruner, x), Sparsity(ratio, group))
    assert keep.shape == weight.shape and keep.dtype == torch.bool
    zeros = {
        ComparisonGroup.LAYER: (~keep).sum()[None],
        ComparisonGroup.ROW: (~keep).sum(1),
        ComparisonGroup.COLUMN: (~keep).sum(0),
    }[group]
    assert set(zeros.tolist()) == {int(Fraction(ratio) * (weight.numel() // len(zeros)))}
    check_new_weight(new, keep, pruner)


@pytest.mark.parametrize("pruner", Pruner)
@given(outputs=st.integers(1, 12), runs=st.integers(1, 30), of=st.integers(2, 12), data=st.data())
@settings(max_examples=30, deadline=None)
def test_every_group_of_a_pattern_is_one(pruner: Pruner, outputs: int, runs: int, of: int, data: st.DataObject) -> None:
    kept = data.draw(st.integers(1, of - 1))
    weight, x = layer(outputs, runs * of)
    group = data.draw(st.sampled_from(ComparisonGroup))
    keep, new = method(pruner).prune(weight, statistic(pruner, x), Sparsity(Pattern(kept, of), group))
    assert set(keep.view(-1, of).sum(1).tolist()) == {kept}
    check_new_weight(new, keep, pruner)


@pytest.mark.parametrize("pruner", Pruner)
def test_patterns_that_do_not_fit_are_refused(pruner: Pruner) -> None:
    weight, x = layer(4, 130)
    with pytest.raises(PlanError, match="4:8: a weight has 130 inputs"):
        method(pruner).prune(weight, statistic(pruner, x), Sparsity(Pattern(4, 8), ComparisonGroup.ROW))


@pytest.mark.parametrize("pruner", Pruner)
def test_arguments_stay_as_they_are(pruner: Pruner) -> None:
    stored, x = layer(6, 8)
    for weight in (stored, stored.bfloat16(), layer(8, 6)[0].T):
        seen = statistic(pruner, x)
        before = weight.clone(), None if seen is None else seen.clone()
        method(pruner).prune(weight, seen, Sparsity(Decimal("0.5"), ComparisonGroup.LAYER))
        assert torch.equal(weight, before[0])
        assert seen is None or before[1] is None or torch.equal(seen, before[1])


@pytest.mark.parametrize("pruner", Pruner)
def test_without_tokens_every_pruner_ranks_by_magnitude_alone(pruner: Pruner) -> None:
    weight, x = layer(7, 150)
    sparsity = Sparsity(Decimal("0.4"), ComparisonGroup.LAYER)
    keep, new = method(pruner).prune(weight, statistic(pruner, torch.zeros_like(x)), sparsity)
    assert torch.equal(keep, weight.abs() > weight.abs().flatten().sort().values[420 - 1])
    assert new is None or torch.equal(new, weight * keep)


def by_score(score: Tensor, prune: int) -> Tensor:
    return score > score.flatten().sort().values[prune - 1]


def test_magnitude() -> None:
    weight, _ = layer(31, 57)
    keep, _ = method(Pruner.MAGNITUDE).prune(weight, None, Sparsity(Decimal("0.6"), ComparisonGroup.LAYER))
    assert torch.equal(keep, by_score(weight.abs(), int(0.6 * 31 * 57)))


@pytest.mark.parametrize("ratio", ["0.3", "0.5", "0.8"])
def test_ria(ratio: str) -> None:
    weight, x = layer(31, 57)
    size = weight.double().abs()
    score = (size / size.sum(0) + size / size.sum(1, keepdim=True)) * x.double().norm(dim=0) ** 0.5
    keep, _ = method(Pruner.RIA).prune(
        weight, statistic(Pruner.RIA, x), Sparsity(Decimal(ratio), ComparisonGroup.LAYER)
    )
    assert torch.equal(keep, by_score(score, int(float(ratio) * 31 * 57)))


def test_ria_of_a_channel_of_zeros() -> None:
    weight, x = layer(4, 6)
    weight[2], weight[:, 5] = 0, 0
    keep, _ = method(Pruner.RIA).prune(
        weight, statistic(Pruner.RIA, x), Sparsity(Decimal("0.38"), ComparisonGroup.LAYER)
    )
    assert torch.equal(keep, weight != 0)  # 9 of 24


def test_own_groups() -> None:
    layers = {
        pruner
        for pruner, group in ((name, facts.own_group) for name, facts in PRUNERS.items())
        if group is ComparisonGroup.LAYER
    }
    assert layers == {Pruner.MAGNITUDE, Pruner.RIA, Pruner.SPARSEGPT, Pruner.ADMM, Pruner.ALPS}
    rows = {pruner for pruner, facts in PRUNERS.items() if facts.own_group is ComparisonGroup.ROW}
    assert rows == {Pruner.WANDA, Pruner.SWAPS}
