"""Files of keys as a silo has them: nobody but their owner reads them."""

from pathlib import Path


def write_key(file: Path, content: bytes | str) -> None:
    file.touch(0o600)
    file.write_bytes(content.encode() if isinstance(content, str) else content)
