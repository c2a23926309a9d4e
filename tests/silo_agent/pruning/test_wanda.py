"""Wanda's score, entry by entry."""

import math

import torch

from silo_agent.pruning.pruners import wanda


def test_score_is_weight_times_input_norm() -> None:
    weight = torch.tensor([[1.0, -2.0, 0.5], [0.0, 3.0, -4.0]], dtype=torch.bfloat16)
    inputs = torch.tensor([[3.0, 0.0, 1.0], [4.0, 2.0, 1.0]])  # two tokens
    score = wanda.score(weight, (inputs**2).sum(0))
    assert score.dtype == torch.float32
    for i in range(2):
        for j in range(3):
            norm = math.hypot(float(inputs[0, j]), float(inputs[1, j]))
            assert math.isclose(float(score[i, j]), abs(float(weight[i, j])) * norm, rel_tol=1e-6)
