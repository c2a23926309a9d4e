"""What is left of a round that is over, as one value and as one file, `closed`, in the round's folder.

The file says that the round is over. A restarted aggregator reads it instead of the journal and the uploads, and holds
the opened sum against it (docs/formats.md, 14.1).
"""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from aggregator.rounds.running_round import Answers
from crypto.backends.backend_spec import backend_spec
from crypto.encoding.wire import encode
from crypto.errors import DiskFailed, InputError
from crypto.names import Phase
from crypto.primitives import merkle
from crypto.secagg.round import Round
from crypto.secagg.session import AggregatorSession
from silo_agent.host.whole_file import write_whole
from silo_agent.opened_sums.committed_words import SUM_FILE, TRANSCRIPT_FILE, WORDS_SUFFIX, read_chunks
from silo_agent.opened_sums.opened_sum import OpenedRound

CLOSED_FILE: Final = "closed"
VERSION: Final = 1
"""Of the file, which has it in its first line."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ClosedRound:
    """A round whose sum is opened, and recomputed by the silos where the backend has an AUDIT."""

    round: Round
    folder: Path
    """Holds the sum, the transcript and, until nobody needs them, the uploads."""
    survivors: tuple[str, ...]
    dropped: Mapping[str, Phase]
    """By silo the phase in which it fell silent."""
    sum_root: bytes
    upload_roots: Mapping[str, bytes]
    """By survivor the Merkle root of its upload."""
    seconds: Mapping[Phase, float]
    """How long each phase took."""
    last_answers: Answers
    """What the silos were told last, for those that did not hear it."""

    @classmethod
    def of(
        cls, session: AggregatorSession, folder: Path, seconds: Mapping[Phase, float], last: Answers
    ) -> "ClosedRound":
        """Return a round that has just ended, which `folder` says from then on. Raises OSError."""
        closed = cls(
            *(session.round, folder, session.survivors, session.dropped),
            *(session.sum_root, {silo: session.upload_root(silo) for silo in session.survivors}),
            *(seconds, last),
        )
        write_whole(folder / TRANSCRIPT_FILE, encode(session.transcript))
        content = json.dumps(closed._as_dict(), indent=1).encode()
        write_whole(folder / CLOSED_FILE, f"sparsilo closed round {VERSION} {_digest(content)}\n".encode() + content)
        return closed

    @classmethod
    def read(cls, round_: Round, folder: Path) -> "ClosedRound | None":
        """Return the round as an earlier process left it in `folder`; None where it is not over.

        Raises DiskFailed where the file or the opened sum is not what was written, and InputError where the file is
        another round's or a later version's.
        """
        file = folder / CLOSED_FILE
        if not file.exists():
            return None
        head, _, content = file.read_bytes().partition(b"\n")
        *kind, version, digest = head.decode(errors="replace").split(" ") if head.count(b" ") > 1 else ("", "", "")
        if kind != ["sparsilo", "closed", "round"] or (version == f"{VERSION}" and digest != _digest(content)):
            raise DiskFailed.changed(file)
        if version != f"{VERSION}":
            hint = "a later version of sparsilo wrote it: run that version, or a later one"
            raise InputError(f"{file}: is of version {version}, and this program knows version {VERSION}", hint=hint)
        closed = cls._from_dict(round_, folder, json.loads(content))
        if _root(folder / SUM_FILE, round_.layout.lengths) != closed.sum_root:
            raise DiskFailed.changed(folder / SUM_FILE)
        return closed

    @property
    def opened(self) -> OpenedRound:
        """Its sum, as later rounds of the run start from it."""
        return OpenedRound(self.round, len(self.survivors), self.sum_root, self.folder / SUM_FILE)

    def uploads(self) -> dict[str, Path]:
        """Return the survivors' uploads."""
        return {silo: self.folder / f"{silo}{WORDS_SUFFIX}" for silo in self.survivors}

    def save_transcript(self, folder: Path) -> None:
        """Write the round as `silo-agent verify` reads it: signed messages, uploads and sum (docs/formats.md, 9).

        An upload that the disk lost or changed is left out, for it would speak against its silo.
        """
        folder.mkdir()
        for file in (TRANSCRIPT_FILE, SUM_FILE):
            (folder / file).hardlink_to(self.folder / file)
        lengths = backend_spec(self.round.plan.backend).upload_lengths(self.round.layout)
        for silo, upload in self.uploads().items():
            if _root(upload, lengths) == self.upload_roots[silo]:
                (folder / upload.name).hardlink_to(upload)
            else:
                _log.error("%s: left out of the transcript: the disk lost or changed it", upload)

    def _as_dict(self) -> dict[str, Any]:
        answers: dict[str, dict[str, str]] = {}  # silos are told the same: by answer, to which message of which silo
        for (silo, message), answer in self.last_answers.items():
            answers.setdefault(answer.hex(), {})[silo] = message.hex()
        return {
            "round": self.round.digest.hex(),
            "survivors": self.survivors,
            "dropped": self.dropped,
            "sum_root": self.sum_root.hex(),
            "upload_roots": {silo: root.hex() for silo, root in self.upload_roots.items()},
            "seconds": self.seconds,
            "last_answers": answers,
        }

    @classmethod
    def _from_dict(cls, round_: Round, folder: Path, fields: Mapping[str, Any]) -> "ClosedRound":
        if fields["round"] != round_.digest.hex():
            raise InputError(f"{folder / CLOSED_FILE}: is of another round", hint="give every run a folder of its own")
        return cls(
            round=round_,
            folder=folder,
            survivors=tuple(fields["survivors"]),
            dropped={silo: Phase(phase) for silo, phase in fields["dropped"].items()},
            sum_root=bytes.fromhex(fields["sum_root"]),
            upload_roots={silo: bytes.fromhex(root) for silo, root in fields["upload_roots"].items()},
            seconds={Phase(phase): seconds for phase, seconds in fields["seconds"].items()},
            last_answers={
                (silo, bytes.fromhex(message)): bytes.fromhex(answer)
                for answer, silos in fields["last_answers"].items()
                for silo, message in silos.items()
            },
        )


def _root(words: Path, lengths: Sequence[int]) -> bytes | None:
    """Return the Merkle root of a file of chunks; None where it is not there, or not whole."""
    leaves = [merkle.leaf(chunk) for chunk in read_chunks(words, lengths)] if words.exists() else []
    return merkle.root(leaves) if len(leaves) == len(lengths) else None


def _digest(content: bytes) -> str:
    return sha256(content).hexdigest()
