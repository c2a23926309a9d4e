"""What is left of a round that is over: its session with the signed messages, and its folder with uploads and sum."""

from dataclasses import dataclass, field
from pathlib import Path

from crypto.encoding.wire import encode
from crypto.names import Phase
from crypto.secagg.session import AggregatorSession
from silo_agent.host.whole_file import write_whole
from silo_agent.rounds.committed_words import SUM_FILE, TRANSCRIPT_FILE, WORDS_SUFFIX
from silo_agent.rounds.opened_sum import OpenedRound


@dataclass
class ClosedRound:
    """A round whose sum is opened, and recomputed by the silos where the backend has an AUDIT."""

    session: AggregatorSession
    folder: Path
    seconds: dict[Phase, float] = field(default_factory=dict)
    """How long each phase took."""

    @property
    def opened(self) -> OpenedRound:
        """Its sum, as later rounds of the run start from it."""
        root = self.session.sum_root
        return OpenedRound(self.session.round, len(self.session.survivors), root, self.folder / SUM_FILE)

    def save_transcript(self, folder: Path) -> None:
        """Write the round as `silo-agent verify` reads it: signed messages, uploads and sum (docs/formats.md, 9)."""
        folder.mkdir()
        write_whole(folder / TRANSCRIPT_FILE, encode(self.session.transcript))
        for name in (*(f"{silo}{WORDS_SUFFIX}" for silo in self.session.survivors), SUM_FILE):
            (folder / name).hardlink_to(self.folder / name)
