"""The results that silos may fetch: each is listed to the roster of its plan, and served file by file by SHA-256.

Nobody else is told of one. A result without a manifest is not served: no silo could verify it.
"""

from dataclasses import dataclass
from pathlib import Path

from crypto.encoding.wire import encode
from crypto.plan import Plan
from silo_agent.results.manifest import MANIFEST_FILE, Manifest
from sparsilo.v1 import words_pb2


@dataclass(frozen=True)
class PublishedResult:
    """A result in its folder."""

    silos: tuple[str, ...]
    manifest: bytes
    """SHA-256 of its manifest."""
    files: dict[bytes, Path]
    """By SHA-256."""


class PublishedResults:
    """All of them, oldest first."""

    def __init__(self) -> None:
        self._by_plan: dict[bytes, PublishedResult] = {}

    def publish(self, plan: Plan, folder: Path) -> None:
        """List and serve the result in `folder` as its manifest now says. Raises OSError, or MalformedMessage."""
        manifest = Manifest.decode((folder / MANIFEST_FILE).read_bytes())
        files = {listed.sha256: folder / listed.name for listed in manifest.files}
        own = {manifest.digest: folder / MANIFEST_FILE}
        self._by_plan[plan.digest] = PublishedResult(plan.silos, manifest.digest, files | own)

    def listed(self, silo: str) -> bytes:
        """Return the encoded answer to a silo that asks what it may fetch."""
        return encode(
            words_pb2.ResultsReply(
                results=[
                    words_pb2.Result(plan=plan, manifest=result.manifest)
                    for plan, result in self._by_plan.items()
                    if silo in result.silos and result.files[result.manifest].is_file()  # it may be pruned
                ]
            )
        )

    def file(self, silo: str, digest: bytes) -> Path | None:
        """Return the file with this SHA-256 of a result that the silo may fetch; None where there is none."""
        offered = (result.files for result in self._by_plan.values() if silo in result.silos)
        file = next((files[digest] for files in offered if digest in files), None)
        return file if file is not None and file.is_file() else None
