"""Every state that a dishonest aggregator can bring the honest silos of one or two rounds to, breadth first.

A state is what each honest silo has said: a stage of each round in which it took part, in the order in which it did.
What happens to no silo any more needs no state: a silo that left a round says nothing more in it. Colluders say
anything at any time.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cache, cached_property

from adversary.knowledge import isolated
from adversary.questions import members, names
from crypto.errors import ReleaseRefused
from silo_agent.consent.ledger import Release, check_release, check_survivors


class Step(IntEnum):
    """How far a silo went in a round."""

    UPLOADED = 0
    """The silo's words are with the aggregator."""
    SIGNED = 1
    """The silo signed survivors."""
    REVEALED = 2
    """The silo saw t signatures on these survivors, and revealed its shares for them."""
    OPENED = 3
    """The silo signed an opening."""


Stage = tuple[int, Step, int, int]
"""The round, by number, the step, the survivors that the silo signed (a mask), and which opening it signed."""

State = tuple[tuple[Stage, ...], ...]
"""What every honest silo did in every round, silo by silo."""

OPENINGS = (0, 1)
"""The true sum, and one that is forged."""


@dataclass(frozen=True)
class Terms:
    """What a round is, as far as the rules look at it."""

    silos: int
    """Those that may take part, as a number whose bit i stands for silo i."""
    threshold: int
    least_survivors: int


@dataclass(frozen=True)
class Exploration:
    """Rounds that ask the same of the same text, honest silos, and how many of these every sum must be about."""

    rounds: tuple[Terms, ...]
    colluders: int
    fewest: int
    with_openings: bool = True

    @cached_property
    def honest(self) -> tuple[int, ...]:
        """The silos that keep the rules."""
        everybody = 0
        for terms in self.rounds:
            everybody |= terms.silos
        return members(everybody & ~self.colluders)

    def states(self) -> Iterator[State]:
        """Yield every state once, those of fewest moves first."""
        first: State = ((),) * len(self.honest)
        seen, border = {first}, [first]
        while border:
            yield from border
            following = {state for known in border for state in self._after(known)} - seen
            seen |= following
            border = list(following)

    def problems(self, state: State) -> Iterator[str]:
        """Say what must not be, of all that is so in a state."""
        opened = [self._sums(state, number) for number in range(len(self.rounds))]
        for number, terms in enumerate(self.rounds):
            confirmed = {s for parts in state for n, step, s, _ in parts if n == number and step >= Step.REVEALED}
            if len(confirmed) > 1:
                yield "two survivor sets were signed by a quorum each"
            if len(opened[number]) > 1:
                yield "a round opened two sums"
            for silo in self.honest:
                of_seed = self._count(state, number, Step.REVEALED, lambda s, silo=silo: bool(s >> silo & 1))
                of_key = self._count(state, number, Step.REVEALED, lambda s, silo=silo: not s >> silo & 1)
                dishonest = (self.colluders & terms.silos).bit_count()
                if min(of_seed, of_key) + dishonest >= terms.threshold:
                    yield "both secrets of one silo can be put together"
            if sum(self._endorsed(state, number, opening) >= terms.threshold for opening in OPENINGS) > 1:
                yield "two openings were signed by a quorum each"
        sums = frozenset(
            frozenset((silo, 0, "") for silo in members(survivors & ~self.colluders))
            for number in range(len(self.rounds))
            for survivors in opened[number]
        )
        if few := isolated(sums, self.fewest):
            yield f"the sums tell of {', '.join(names(sum(1 << silo for silo in few)))} alone"

    def allowed(self, state: State, silo: int) -> Iterator[Stage]:
        """Yield the stages that a silo can be brought to by one message."""
        parts = state[self.honest.index(silo)]
        for number, terms in enumerate(self.rounds):
            is_new = terms.silos >> silo & 1 and all(number != known for known, *_ in parts)
            if is_new and takes_part(terms, number, self._rows(parts)):
                yield number, Step.UPLOADED, 0, 0
        if not parts:
            return
        number, step, signed, _ = parts[-1]
        terms, rows = self.rounds[number], self._rows(parts[:-1])
        if step is Step.UPLOADED:
            for survivors in self._possible(state, number):
                if survivors >> silo & 1 and signs(terms, number, survivors, rows):
                    yield number, Step.SIGNED, survivors, 0
        elif step is Step.SIGNED:
            honest = self._count(state, number, Step.SIGNED, signed.__eq__)
            if honest + (self.colluders & signed).bit_count() >= terms.threshold:
                yield number, Step.REVEALED, signed, 0
        elif step is Step.REVEALED and self.with_openings and signed in self._sums(state, number):
            for opening in OPENINGS:
                yield number, Step.OPENED, signed, opening

    def _after(self, state: State) -> Iterator[State]:
        for place, silo in enumerate(self.honest):
            parts = state[place]
            for stage in self.allowed(state, silo):
                kept = parts[:-1] if parts and parts[-1][0] == stage[0] else parts
                yield (*state[:place], (*kept, stage), *state[place + 1 :])

    def _possible(self, state: State, number: int) -> Iterator[int]:
        """Survivor sets that can be shown: enough silos, each of which uploaded or colludes."""
        terms = self.rounds[number]
        able = self.colluders & terms.silos
        for silo, parts in zip(self.honest, state, strict=True):
            able |= any(known == number for known, *_ in parts) << silo
        return (mask for mask in range(able + 1) if not mask & ~able and mask.bit_count() >= terms.least_survivors)

    def _sums(self, state: State, number: int) -> set[int]:
        """The survivor sets over which t silos reveal shares."""
        terms = self.rounds[number]
        revealed = {s for parts in state for n, step, s, _ in parts if n == number and step >= Step.REVEALED}
        dishonest = (self.colluders & terms.silos).bit_count()
        return {
            mask
            for mask in revealed
            if self._count(state, number, Step.REVEALED, mask.__eq__) + dishonest >= terms.threshold
        }

    def _endorsed(self, state: State, number: int, opening: int) -> int:
        """Count who signed an opening, colluders included."""
        signed = sum((n, step, o) == (number, Step.OPENED, opening) for parts in state for n, step, _, o in parts)
        return signed + (self.colluders & self.rounds[number].silos).bit_count()

    def _count(self, state: State, number: int, least: Step, suits: Callable[[int], bool]) -> int:
        """Count the honest silos that came so far in a round, over survivors that suit."""
        return sum(n == number and step >= least and suits(s) for parts in state for n, step, s, _ in parts)

    def _rows(self, parts: Sequence[Stage]) -> tuple[Release, ...]:
        """Return the ledger of a silo that did this in its rounds."""
        return tuple(
            _row(self.rounds[number], number, survivors if step >= Step.REVEALED else 0)
            for number, step, survivors, _ in parts
        )


@cache
def _row(terms: Terms, number: int, confirmed: int) -> Release:
    digest = number.to_bytes(32, "little")
    return Release(*(digest, "votes", b"text", names(terms.silos), terms.least_survivors, None, True, names(confirmed)))


@cache
def takes_part(terms: Terms, number: int, rows: tuple[Release, ...]) -> bool:
    try:
        check_release(_row(terms, number, 0), rows)
    except ReleaseRefused:
        return False
    return True


@cache
def signs(terms: Terms, number: int, survivors: int, rows: tuple[Release, ...]) -> bool:
    try:
        check_survivors(_row(terms, number, 0), names(survivors), rows)
    except ReleaseRefused:
        return False
    return True
