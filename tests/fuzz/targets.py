"""Every decoder that is fuzzed, by name."""

from fuzz import files, keys_and_shares, messages, rounds

TARGETS = {**messages.TARGETS, **rounds.TARGETS, **keys_and_shares.TARGETS, **files.TARGETS}
