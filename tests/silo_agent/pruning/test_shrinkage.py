"""Noisy statistics drawn towards public ones, against what drew them."""

import torch

from silo_agent.pruning.shrinkage import FAINTEST, towards_public

FEATURES = 4000


def drawn(noise: float, spread: float, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """True statistics, the same with noise, and public ones."""
    numbers = torch.Generator().manual_seed(seed)
    public = torch.rand(FEATURES, generator=numbers, dtype=torch.float64) + 0.5
    truth = 20 * public * (1 + spread * torch.randn(FEATURES, generator=numbers, dtype=torch.float64))
    return truth, truth + noise * torch.randn(FEATURES, generator=numbers, dtype=torch.float64), public


def error(estimate: torch.Tensor, truth: torch.Tensor) -> float:
    """Relative to what is the best factor: only proportions matter."""
    factor = (truth * estimate).sum() / (estimate * estimate).sum()
    return float((factor * estimate - truth).square().sum().sqrt())


def test_estimates_are_nearer_than_what_was_opened_and_than_public_text() -> None:
    truth, noisy, public = drawn(noise=6.0, spread=0.3)
    estimate = towards_public(noisy, torch.full_like(noisy, 6.0), public)
    assert error(estimate, truth) < 0.9 * min(error(noisy, truth), error(public, truth))


def test_without_noise_they_are_what_was_opened() -> None:
    truth, _, public = drawn(noise=0.0, spread=0.2)
    assert torch.allclose(towards_public(truth, torch.full_like(truth, 1e-9), public), truth)


def test_where_all_is_noise_they_are_public_text() -> None:
    """But for the few draws in which noise looks like more: one in 40 has such a mean."""
    is_public = []
    for seed in range(100):
        _, noisy, public = drawn(1e6, 0.2, seed)
        is_public.append(torch.equal(towards_public(noisy, torch.full_like(noisy, 1e6), public), public))
    assert sum(is_public) >= 90


def test_where_all_is_noise_they_are_public_text_and_negative_sums_too() -> None:
    _, noisy, public = drawn(noise=1e6, spread=0.2)
    assert torch.equal(towards_public(-noisy.abs(), torch.ones_like(noisy), public), public)


def test_no_feature_vanishes() -> None:
    noisy, public = torch.tensor([10.0, 10.0, -30.0], dtype=torch.float64), torch.ones(3, dtype=torch.float64)
    estimate = towards_public(noisy + 20, torch.full((3,), 1e-3, dtype=torch.float64), public)
    assert (estimate >= FAINTEST * estimate.mean() / 2).all()
    silent = towards_public(noisy.abs(), torch.ones(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64))
    assert silent.isfinite().all()
