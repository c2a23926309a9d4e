"""The way to the aggregator, and back."""
