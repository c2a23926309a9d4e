"""Which weights are attention's: everybody tells it by their names alone (docs/protocol.md, 2.4.17)."""

from collections.abc import Iterable

from crypto.errors import PlanError


def is_attentions(name: str) -> bool:
    """Tell whether a prunable weight is attention's: its stored name says attn or attention, however it is written."""
    return "attn" in name.lower() or "attention" in name.lower()


def check_attention(names: Iterable[str]) -> None:
    """Raise PlanError where none of these weights is attention's."""
    if not any(map(is_attentions, names)):
        raise PlanError("plan: gram: no weight of this model is attention's by its name", hint="leave out --gram")
