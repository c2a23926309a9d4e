"""What a silo's policy says in tests: their plans ask for less text than a hospital would let anybody ask about."""

from typing import Any, Final

SMALL_PLANS: Final[dict[str, Any]] = {
    "least_samples": 1,
    "least_sequence_length": 2,
    "least_held_out_sequences": 1,
}
"""Fields of policy.yaml, and of Policy. All other bounds are the usual ones."""
