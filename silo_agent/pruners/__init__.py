"""How weights are scored: one algorithm a file."""
