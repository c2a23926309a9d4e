"""Keep masks of silos that agree more often than by chance, and what counts tell of them, computed in another way."""

import itertools

import numpy as np
from numpy.typing import NDArray


def keep_masks(silos: int, weights: int, seed: int) -> NDArray[np.bool_]:
    """[silos, weights]; silos agree more often than by chance."""
    random = np.random.default_rng(seed)
    return np.asarray(random.random(weights) + 0.5 * random.random((silos, weights)) > 0.9)


def histogram(masks: NDArray[np.bool_]) -> list[int]:
    counts = masks.sum(axis=0)
    return [int((counts == count).sum()) for count in range(len(masks) + 1)]


def agreement_by_hand(tensors: list[NDArray[np.bool_]]) -> tuple[float, float, float]:
    """From the silos' own keep masks, weight by weight and pair by pair, which nobody has in a deployment."""
    alike, all_alike, chance = [], [], []
    for masks in tensors:
        for weight in masks.T:
            alike += [a == b for a, b in itertools.combinations(weight, 2)]
            all_alike.append(len(set(weight)) == 1)
        share = masks.mean()
        chance += [share * share + (1 - share) * (1 - share)] * masks.shape[1]
    # every weight has as many pairs where every tensor has as many silos
    return float(np.mean(all_alike)), float(np.mean(alike)), float(np.mean(chance))
