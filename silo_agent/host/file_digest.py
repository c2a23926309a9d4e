"""SHA-256 of a file's bytes, read piece by piece."""

from hashlib import file_digest as hashed
from pathlib import Path


def file_digest(file: Path) -> bytes:
    """Return SHA-256 of a file's bytes. Raises OSError."""
    with file.open("rb") as opened:
        return hashed(opened, "sha256").digest()
