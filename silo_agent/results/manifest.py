"""What a published result consists of: its files, with the sizes and SHA-256 by which silos fetch them.

Whoever made a manifest (docs/formats.md, section 17) may be dishonest. So only names are taken that stay inside the
result's folder; that the files are right is for `silo_agent/results/verify_model` to show.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, Self

from crypto.errors import MalformedMessage
from crypto.names import AGGREGATOR
from crypto.plan import DIGEST_BYTES
from silo_agent.host.file_digest import file_digest

MANIFEST_FILE: Final = "manifest.json"
REPORT_FILE: Final = "report.json"
MODEL_FOLDER: Final = "model"
SCHEMA_VERSION: Final = 1
MOST_MANIFEST_BYTES: Final = 1 << 24
MOST_NAME_BYTES: Final = 255
"""Of a file's name, or its folder's, as file systems have it."""


@dataclass(frozen=True)
class ListedFile:
    """A file of a result."""

    name: str
    """Below the result's folder, with `/`: at most one folder lies between."""
    size: int
    """Bytes."""
    sha256: bytes

    @classmethod
    def of(cls, folder: Path, name: str) -> Self:
        """Return what there is to list of the file `name` below `folder`. Raises OSError."""
        file = folder / name
        return cls(name, file.stat().st_size, file_digest(file))


@dataclass(frozen=True)
class Manifest:
    """The files of a result, ascending by name, and the digest of the plan that they are of."""

    plan: bytes
    files: tuple[ListedFile, ...]

    @classmethod
    def of_folder(cls, plan: bytes, folder: Path) -> Self:
        """Return the manifest of all files below `folder`, each of which is read. Raises OSError."""
        found = (file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
        names = sorted(name for name in found if name != MANIFEST_FILE)
        return cls(plan, tuple(ListedFile.of(folder, name) for name in names))

    def renewed(self, folder: Path, names: Iterable[str]) -> "Manifest":
        """Return it after these of its files, below `folder`, have changed. Raises OSError."""
        changed = {name: ListedFile.of(folder, name) for name in names}
        return Manifest(self.plan, tuple(changed.get(listed.name, listed) for listed in self.files))

    @property
    def encoded(self) -> bytes:
        """Its one spelling, as `manifest.json` has it."""
        files = [{"name": f.name, "bytes": f.size, "sha256": f.sha256.hex()} for f in self.files]
        document = {"schema_version": SCHEMA_VERSION, "plan_digest": self.plan.hex(), "files": files}
        return f"{json.dumps(document, indent=1)}\n".encode()

    @property
    def digest(self) -> bytes:
        """The SHA-256 of the encoded manifest, by which a silo asks for it."""
        return sha256(self.encoded).digest()

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Return the manifest that somebody else made.

        Raises MalformedMessage where it is not spelled as `encoded` would, or names a file twice or outside its folder.
        """
        try:
            document = json.loads(data)
            files = tuple(ListedFile(f["name"], f["bytes"], bytes.fromhex(f["sha256"])) for f in document["files"])
            manifest = cls(bytes.fromhex(document["plan_digest"]), files)
            is_canonical = manifest.encoded == data and all(_is_sound(listed) for listed in files)
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            is_canonical = False
        if not is_canonical or len(manifest.plan) != DIGEST_BYTES or _clash([listed.name for listed in files]):
            raise MalformedMessage("the manifest of a result is none", party=AGGREGATOR)
        return manifest


def _is_sound(listed: Any) -> bool:
    parts = listed.name.split("/")
    is_inside = len(parts) <= 2 and all(part.isprintable() and not part.startswith(".") for part in parts)
    is_name = is_inside and all(0 < len(part.encode()) <= MOST_NAME_BYTES and "\\" not in part for part in parts)
    return is_name and type(listed.size) is int and listed.size >= 0 and len(listed.sha256) == DIGEST_BYTES


def _clash(names: list[str]) -> bool:
    """Tell whether two names are one to some file system, are not ascending, or one is a folder to another."""
    folded = {name.casefold() for name in names}
    folders = {name.casefold().partition("/")[0] for name in names if "/" in name}
    return names != sorted(names) or len(folded) < len(names) or not folded.isdisjoint({*folders, MANIFEST_FILE})
