"""Differential privacy: what a release spends, how it adds up, and noise (docs/privacy.md)."""
