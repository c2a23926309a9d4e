"""Pairwise and self masks: one transition table, one file a role."""
