"""Writes every file of this folder: `PYTHONPATH=tests .venv/bin/python -m vectors.generate` (see README.md).

All entropy comes from labels, so a second run writes the same bytes. Seals and ECDSA with a random nonce use the
library's own randomness: what a file holds of them is kept unless --renew is given.
"""

import argparse
import json
from typing import Any

from vectors import messages, primitives, rounds
from vectors.case import HERE, Cases, Fields


def every_case(*, renew: bool = False) -> dict[str, Fields]:
    """All cases by "kind/name"."""
    kinds: dict[str, Cases] = {
        "mask_stream": primitives.mask_stream(),
        "lanes": primitives.lane(),
        "chunk": primitives.chunk(),
        "likelihood": primitives.likelihood(),
        "merkle": primitives.merkle_tree(),
        "shamir": primitives.share(),
        "seal": primitives.seal(renew),
        "signature": primitives.signature(renew),
        "pair_seed": primitives.pair_seed(),
        "bundle": primitives.bundle(),
        "participants_digest": primitives.participants_digest(),
        "coin_commitment": primitives.coin_commitment(),
        "joint_coin": primitives.joint_coin(),
        "auditors": primitives.auditors(),
        "wire": messages.wire(),
        "plan": messages.plan(),
        "transcript": rounds.transcript(),
    }
    return {f"{kind}/{name}": fields for kind, cases in kinds.items() for name, fields in cases}


def text(fields: Fields) -> str:
    """A file's text."""
    return laid_out(fields, 0) + "\n"


def laid_out(value: Any, depth: int) -> str:
    """JSON of which what is short, and every list of numbers, is one line."""
    line = json.dumps(value, ensure_ascii=False)
    numbers = isinstance(value, list) and all(isinstance(item, int) for item in value)
    if (depth and (numbers or len(line) <= 100)) or not isinstance(value, dict | list):
        return line
    listed = isinstance(value, list)
    items = value if listed else value.items()
    parts = [laid_out(i, depth + 1) if listed else f"{json.dumps(i[0])}: {laid_out(i[1], depth + 1)}" for i in items]
    inner = ",\n".join(" " * (depth + 1) + part for part in parts)
    begin, end = "[]" if listed else "{}"
    return f"{begin}\n{inner}\n{' ' * depth}{end}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--renew", action="store_true", help="make random seals and signatures anew")
    cases = every_case(renew=parser.parse_args().renew)
    for path in HERE.glob("*/*.json"):
        if path.relative_to(HERE).with_suffix("").as_posix() not in cases:
            path.unlink()
    for name, fields in cases.items():
        path = HERE / f"{name}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text(fields), "utf-8")


if __name__ == "__main__":
    main()
