"""Opened sums: how they lie on disk, how they are verified, and what everybody makes of the model by them."""
