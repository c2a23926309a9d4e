"""Fingerprints (SHA-256) that people compare by telephone: how they are shown, and how what was told is read."""

import re
from typing import Final

from crypto.errors import IdentityError

_SEPARATORS: Final = re.compile(r"[\s:-]+")


def grouped(fingerprint: bytes) -> str:
    """Return a fingerprint for reading aloud: eight groups of eight hex digits."""
    digits = fingerprint.hex()
    return " ".join(digits[start : start + 8] for start in range(0, len(digits), 8))


def plain_fingerprint(text: str) -> str:
    """Return a fingerprint as 64 lower-case hex digits, however it was grouped. Raises IdentityError."""
    plain = _SEPARATORS.sub("", text).lower()
    if not re.fullmatch("[0-9a-f]{64}", plain):
        raise IdentityError("--fingerprint: is not 64 hex digits", hint="all of them; groups and spaces do no harm")
    return plain
