"""`silo-agent verify`: a round checked afterwards from a transcript folder (docs/formats.md, section 9)."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from crypto.backends.backend_spec import backend_spec
from crypto.backends.verification import MAX_TRANSCRIPT_BYTES, verify_transcript
from crypto.encoding.wire import decode
from crypto.encoding.words import WORD_BYTES
from crypto.errors import BadAudit, InputError
from crypto.names import AGGREGATOR
from crypto.secagg.round import Round
from crypto.secagg.verified import Verified, step
from silo_agent.host.ahead import ahead
from silo_agent.opened_sums.committed_words import (
    SUM_FILE,
    TRANSCRIPT_FILE,
    TRANSCRIPT_FOLDER,
    WORDS_SUFFIX,
    CommittedWords,
)
from silo_agent.opened_sums.opened_sum import OpenedRound
from sparsilo.v1 import round_pb2


def verify_opened(round_: Round, words: Path, transcript: Path, roster: Mapping[str, bytes]) -> OpenedRound:
    """Return an earlier round of a run as the aggregator serves it, proven by its transcript.

    Where the backend signs nothing, the words are taken as they are. Raises what `verify_transcript` raises, and
    BadAudit where the transcript or the words are of something else.
    """
    verified = None
    if backend_spec(round_.plan.backend).verify is not None:
        verified = verify_transcript(_read(transcript), roster)
        if verified.round != round_:
            raise BadAudit(f"the transcript is of another round than {round_.digest.hex()[:16]}", party=AGGREGATOR)
    with _readable(words):
        if words.stat().st_size != sum(round_.layout.lengths):
            raise BadAudit("the opened sum has another length than the round's", party=AGGREGATOR)
        root = CommittedWords(words, round_.layout.lengths, "").tree.root
        with words.open("rb") as opened:
            survivors = int.from_bytes(opened.read(WORD_BYTES), "little")  # the header word counts them
    if verified is not None and root != verified.roots[""]:
        raise BadAudit("the opened sum is not the one that was signed", party=AGGREGATOR)
    return OpenedRound(round_, survivors if verified is None else len(verified.survivors), root, words)


Progress = Callable[[str, int, int], None]


def verify_folder(
    folder: Path, roster: Mapping[str, bytes], own: Path | None, words: bool, progress: Progress
) -> dict[str, Any]:
    """Return what the folder proves under the pinned `roster`; with `own`, check that a silo saw the same round.

    Without `words` only the signed messages are looked at. Raises the error of the first step that fails: the step, the
    party and what is wrong.
    """
    encoded = read_transcript(folder)
    verified = verify_transcript(encoded, roster)
    if own is not None:
        with step("9, own transcript"):
            _check_own(own, encoded)
    chunks = len(verified.round.layout.chunks)
    if words:
        with step("10, words"):
            committed = _open_words(folder, verified, progress)
        with step("11, sum"):
            _recompute(verified, committed, progress)
    plan = verified.round.plan
    return {
        "round": verified.round.digest.hex(),
        "plan": plan.digest.hex(),
        "release": str(plan.release_kind(verified.round.index)),
        "input": verified.round.input_digest.hex(),
        "cohort": list(verified.round.cohort),
        "survivors": list(verified.survivors),
        "dropped": list(verified.dropped),
        "signed": {message: list(silos) for message, silos in verified.signed.items()},
        "same_as_own": own is not None,
        "chunks": chunks,
        "recomputed": chunks if words else 0,
        "sum_root": verified.roots[""].hex(),
    }


def transcript_folders(folder: Path) -> list[Path]:
    """Return the transcript folders that a result's folder holds, by round; or that folder alone, where it is one.

    Raises InputError where there is none.
    """
    if (folder / TRANSCRIPT_FILE).is_file():
        return [folder]
    single = folder / TRANSCRIPT_FOLDER
    indices = (numbered.name.rpartition("-")[2] for numbered in folder.glob(f"{TRANSCRIPT_FOLDER}-*"))
    rounds = sorted(int(index) for index in indices if index.isdecimal())
    folders = [single] if single.is_dir() else [folder / f"{TRANSCRIPT_FOLDER}-{index}" for index in rounds]
    if not folders:
        raise InputError(f"{folder}: holds no transcript", hint="name a transcript's folder, or a run's result")
    return folders


def read_transcript(folder: Path) -> bytes:
    """Return the encoded transcript of a transcript folder. Raises InputError where it cannot be read."""
    return _read(folder / TRANSCRIPT_FILE)


def _check_own(file: Path, encoded: bytes) -> None:
    """Check that a silo's own transcript is the folder's: whoever comes to DONE was sent every answer that it keeps."""
    own = _read(file)
    if own == encoded:
        return
    mine = decode(round_pb2.Transcript, own, MAX_TRANSCRIPT_BYTES, party=str(file))
    theirs = decode(round_pb2.Transcript, encoded, MAX_TRANSCRIPT_BYTES)
    differing = [name for name in mine.DESCRIPTOR.fields_by_name if getattr(mine, name) != getattr(theirs, name)]
    raise BadAudit(f"the transcript is not the one in {file}: another {differing[0]}", party=AGGREGATOR)


def _open_words(folder: Path, verified: Verified, progress: Progress) -> list[CommittedWords]:
    """Return the survivors' words and last the sum, each what its signed root commits to.

    Raises BadAudit or InputError.
    """
    layout, words = verified.round.layout, []
    uploaded = backend_spec(verified.round.plan.backend).upload_lengths(layout)
    for done, (silo, root) in enumerate(verified.roots.items()):
        progress("reading words", done, len(verified.roots))
        file = folder / (f"{silo}{WORDS_SUFFIX}" if silo else SUM_FILE)
        with _readable(file):
            words.append(CommittedWords(file, uploaded if silo else layout.lengths, silo))
        if words[-1].tree.root != root:  # found here, where it is known whose words they are
            signer = f"{silo} signed" if silo else "the survivors signed in the opening"
            raise BadAudit(f"{file}: is not what {signer}", party=AGGREGATOR)
    progress("reading words", len(words), len(words))
    return words


def _recompute(verified: Verified, words: list[CommittedWords], progress: Progress) -> None:
    """Recompute every chunk of the sum. Raises BadAudit naming the first that is not what the words add up to."""

    def recompute(index: int) -> None:
        verified.recompute(index, (vector.chunk(index) for vector in words))

    chunks = len(verified.round.layout.chunks)
    for done, _ in enumerate(ahead(recompute, range(chunks), len(os.sched_getaffinity(0))), 1):
        progress("recomputing chunks", done, chunks)


def _read(file: Path) -> bytes:
    with _readable(file):
        return file.read_bytes()


@contextmanager
def _readable(file: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror}") from None
