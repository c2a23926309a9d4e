"""A result fetched from the aggregator: every file held against the manifest, and the model against the opened sums,
before anything is in its place.

What is there already is not fetched again, so a fetch that was cut goes on where it was.
"""

import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Final

from crypto.errors import BadAudit, InputError, OutputError, ProtocolError
from crypto.names import AGGREGATOR
from silo_agent.checkpoint.dense_weights import DenseWeights
from silo_agent.host.file_digest import file_digest
from silo_agent.host.whole_file import sync
from silo_agent.network.transport import Transport
from silo_agent.opened_sums.committed_words import SUM_FILE, TRANSCRIPT_FOLDER, WORDS_SUFFIX
from silo_agent.opened_sums.verify import Progress, transcript_folders
from silo_agent.results.manifest import (
    MANIFEST_FILE,
    MODEL_FOLDER,
    MOST_MANIFEST_BYTES,
    REPORT_FILE,
    ListedFile,
    Manifest,
)
from silo_agent.results.quantised_checkpoint import QUANTISED_FOLDER
from silo_agent.results.verify_model import verify_model
from sparsilo.v1 import words_pb2

NAME_DIGITS: Final = 16
"""Hex digits of a plan's digest that are its run's name."""
ROOM: Final = 1 << 30
"""Bytes that files may have beyond what weights account for: headers, signed messages, the report."""
SUM_BYTES: Final = 16
"""More than opened sums have for each prunable weight, all rounds together."""


def run_name(plan: bytes) -> str:
    """Return the name of the run of the plan with this digest."""
    return plan.hex()[:NAME_DIGITS]


def find_result(results: Iterable[words_pb2.Result], run: str) -> words_pb2.Result:
    """Return the result of the run whose name begins with `run`. Raises InputError unless there is exactly one."""
    found = [result for result in results if result.plan.hex().startswith(run)]
    if len(found) != 1:
        problem = "several runs begin so" if found else "no such result"
        raise InputError(f"{run}: {problem}", hint="silo-agent result list names them")
    return found[0]


def is_there(folder: Path, result: words_pb2.Result) -> bool:
    """Tell whether the result, as it is now listed, was fetched into `folder` and verified."""
    manifest = folder / run_name(result.plan) / MANIFEST_FILE
    return manifest.exists() and file_digest(manifest) == result.manifest


@dataclass(frozen=True)
class ResultFetcher:
    """Fetches results into `folder`, each into one that is named as its run."""

    transport: Transport
    weights: DenseWeights
    """The silo's dense model."""
    roster: Mapping[str, bytes]
    """The pinned public signing keys, by silo."""
    folder: Path
    progress: Progress

    def fetch(self, result: words_pb2.Result, *, with_words: bool) -> dict[str, Any]:
        """Fetch a result, verify it and put it in place; return what `verify_model` says of it.

        `with_words`: also what every silo uploaded, still masked, with which `silo-agent verify` repeats the sums.
        Raises ProtocolError or MalformedMessage where the aggregator serves something else than it lists or more than
        there can be, what `verify_model` raises, and OutputError where the folder cannot be written.
        """
        out = self.folder / run_name(result.plan)
        part, old = (self.folder / f".{out.name}.{state}" for state in ("part", "old"))
        try:
            shutil.rmtree(old, ignore_errors=True)
            part.mkdir(mode=0o700, parents=True, exist_ok=True)
            wanted = self._wanted(result, part, with_words)
            self._fetch_all(wanted, out, part)
            verified = verify_model(
                part / MODEL_FOLDER, transcript_folders(part), self.roster, self.weights, self.progress, self.folder
            )
            if verified["plan"] != result.plan.hex():
                raise BadAudit(
                    f"serves the result of run {verified['plan'][:NAME_DIGITS]} for another", party=AGGREGATOR
                )
            if out.exists():
                out.rename(old)
            part.rename(out)
            sync(self.folder)
            shutil.rmtree(old, ignore_errors=True)
        except OSError as error:
            raise OutputError(
                f"{self.folder}: cannot be written: {error}", hint="check space and permissions"
            ) from error
        return {**verified, "folder": str(out)}

    def _wanted(self, result: words_pb2.Result, part: Path, with_words: bool) -> list[ListedFile]:
        """Return what to fetch of a result. A page that a browser would open is not among it."""
        own = part / MANIFEST_FILE
        if not own.exists() or file_digest(own) != result.manifest:
            own.unlink(missing_ok=True)
            self._download(result.manifest, own, MOST_MANIFEST_BYTES)
        manifest = Manifest.decode(own.read_bytes())
        if manifest.plan != result.plan:
            raise BadAudit("lists the files of another run", party=AGGREGATOR)
        files = [listed for listed in manifest.files if _is_wanted(listed.name, with_words)]
        self._check_sizes(files)
        return files

    def _check_sizes(self, files: Iterable[ListedFile]) -> None:
        """Raise ProtocolError where files have more bytes than they can."""
        dense = sum(file.stat().st_size for file in self.weights.folder.iterdir() if file.is_file())
        pruned = sum(prod(self.weights.shape(name)) for name in self.weights.prunable)
        left = {MODEL_FOLDER: dense + ROOM, QUANTISED_FOLDER: dense + ROOM, "": SUM_BYTES * pruned + ROOM}
        sums = {listed.name: listed.size for listed in files}
        for listed in files:
            folder, _, name = listed.name.rpartition("/")
            if name.endswith(WORDS_SUFFIX) and name != SUM_FILE:
                is_too_long = listed.size > sums.get(f"{folder}/{SUM_FILE}", 0)
            else:
                kind = folder if folder in left else ""
                left[kind] -= listed.size
                is_too_long = left[kind] < 0
            if is_too_long:
                raise ProtocolError(f"lists {listed.name} with more bytes than there can be", party=AGGREGATOR)

    def _fetch_all(self, files: Iterable[ListedFile], out: Path, part: Path) -> None:
        """Fetch what neither `part` nor an earlier fetch in `out` has, and leave nothing else in `part`."""
        names = {MANIFEST_FILE, *(listed.name for listed in files)}
        for found in [*part.rglob("*")]:
            if found.is_file() and found.relative_to(part).as_posix().removesuffix(".part") not in names:
                found.unlink()
        total, done = sum(listed.size for listed in files), 0
        for listed in files:
            self.progress("fetching bytes", done, total)
            file = part / listed.name
            file.parent.mkdir(mode=0o700, exist_ok=True)
            if not file.exists() and (out / listed.name).is_file():
                file.hardlink_to(out / listed.name)
            if not file.exists() or file.stat().st_size != listed.size or file_digest(file) != listed.sha256:
                self._download(listed.sha256, file, listed.size)
            done += listed.size
        self.progress("fetching bytes", total, total)

    def _download(self, digest: bytes, file: Path, most: int) -> None:
        half = file.with_name(f"{file.name}.part")
        if not half.exists() or half.stat().st_size < most:
            self.transport.download(words_pb2.FileRequest(result=digest), half, most)
        if file_digest(half) != digest:
            half.unlink()
            raise ProtocolError(f"serves another {file.name} than it lists", party=AGGREGATOR)
        sync(half)
        half.replace(file)


def _is_wanted(name: str, with_words: bool) -> bool:
    folder, _, file = name.rpartition("/")
    if folder.startswith(TRANSCRIPT_FOLDER):
        return with_words or file == SUM_FILE or not file.endswith(WORDS_SUFFIX)
    return folder in (MODEL_FOLDER, QUANTISED_FOLDER) or name == REPORT_FILE
