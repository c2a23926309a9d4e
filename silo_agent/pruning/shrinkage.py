"""Statistics that noise is on, drawn towards those of public text as far as they are noise (empirical Bayes).

A feature's ratio to public text is taken to be normal around the mean ratio of all features of its input. Mean and
variance are estimated from what was opened, and each ratio is then its posterior mean (Efron and Morris, "Stein's
Estimation Rule and its Competitors", 1973). What noise alone makes of the variance by chance does not count as spread,
and where the mean itself may be noise, public text is all that is known. All of it is computed from public values: no
more privacy is spent.
"""

from math import sqrt
from typing import Final

import torch
from torch import Tensor

FAINTEST: Final = 0.05
"""The least share of the mean ratio that a feature's is taken to be: no noise makes a feature vanish."""


def towards_public(noisy: Tensor, deviation: Tensor, public: Tensor) -> Tensor:
    """Return estimates of what `noisy` are without noise of standard `deviation`, up to one factor: float64 [d_in].

    `public` are the same statistics of public text; where all is noise, they are what is returned. All are float64
    [d_in], at least 0 but for `noisy`.
    """
    if not public.any():
        return public
    known = public.clamp(min=float(public.mean()) * torch.finfo(torch.float64).eps)
    ratio, variance = noisy / known, (deviation / known) ** 2
    weight = 1 / variance / (1 / variance).sum()
    mean = (weight * ratio).sum()
    if mean * (1 / variance).sum().sqrt() <= 2:  # its own standard deviations
        return public
    squares = ((ratio - mean) ** 2 / variance).sum()
    by_chance = len(ratio) + 2 * sqrt(2 * len(ratio))  # mean of a chi-square, and two deviations
    spread = (squares - by_chance).clamp(min=0) / (1 / variance).sum()
    estimate = mean + spread / (spread + variance) * (ratio - mean)
    return estimate.clamp(min=float(mean) * FAINTEST) * public
