"""The aggregator: opens sums over silos and makes the sparse model."""
