"""The `sampling` kind: random words, whose sum draws which silos prune which blocks (docs/protocol.md, section 2.6)."""

from collections.abc import Iterator, Sequence
from typing import Final

from crypto.encoding.layout import Section
from crypto.names import ReleaseKind
from crypto.plan import Plan
from crypto.privacy.events import PrivacyEvent
from crypto.releases.release_spec import ReleaseSpec

COIN_SECTION: Final = "coin"
COIN_WORDS: Final = 4


class SamplingSpec(ReleaseSpec):
    """Lanes are whole words, and their sum is a coin that no silo chose alone."""

    kind = ReleaseKind.SAMPLING
    says = "sampling"
    opens = "a random number that no silo chose alone"

    def sections(self, plan: Plan, index: int, silos: int) -> Iterator[Section]:
        """Yield the one section, whose sums wrap around as words do."""
        del plan, index, silos
        yield Section(COIN_SECTION, COIN_WORDS, 64)

    def events(self, plan: Plan, index: int) -> tuple[PrivacyEvent, ...]:
        """Return nothing: random words say nothing of the text."""
        del plan, index
        return ()

    def computes(self, plan: Plan, index: int, silo: str) -> Iterator[str]:
        """Yield nothing: random words are not computed."""
        del plan, index, silo
        return iter(())

    def leaves(self, plan: Plan, rounds: Sequence[int]) -> str:
        """Say that it is nothing of the text."""
        del plan, rounds
        return "random numbers; nothing of the text"


SPEC = SamplingSpec()
