"""The one JSON document that a measurement prints: the machine, what was measured, and what is claimed of it."""

import json
import sys
from typing import Any

from bench.machine import facts

Claims = dict[str, dict[str, Any]]


def at_most(measured: float, target: float) -> dict[str, Any]:
    return {"measured": measured, "target": f"at most {target}", "met": measured <= target}


def at_least(measured: float, target: float) -> dict[str, Any]:
    return {"measured": measured, "target": f"at least {target}", "met": measured >= target}


def progress(*words: object) -> None:
    print(*words, file=sys.stderr, flush=True)


def publish(claims: Claims, **content: Any) -> None:
    """Exits with 1 when a claim is not met."""
    print(json.dumps({"machine": facts(), **content, "claims": claims}, indent=2))
    if not all(claim["met"] for claim in claims.values()):
        raise SystemExit(1)
