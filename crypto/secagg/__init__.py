"""Secure aggregation: the two session interfaces and the canonical encoding."""
