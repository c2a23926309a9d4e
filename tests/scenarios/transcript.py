"""What happens in a simulated round, as lines that a person can read and that are the same in every run of it."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from crypto.errors import SparsiloError
from crypto.names import Phase
from sparsilo.v1 import round_pb2


@dataclass
class Line:
    """One thing that happened to one silo, or to several one after another."""

    pattern: str
    words: str = ""
    silos: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.pattern.format(silos=listed(self.silos), words=self.words)


class Transcript:
    """The lines so far. Neighbours that differ in their silo only are one line; `as_they_came` keeps their order."""

    def __init__(self, *, as_they_came: bool = False) -> None:
        self._as_they_came = as_they_came
        self._lines: list[Line] = []
        self._phase: Phase | None = None

    @property
    def text(self) -> str:
        return "".join(f"{line}\n" for line in self._lines)

    def phase(self, phase: Phase) -> None:
        if phase is not self._phase:
            self._phase = phase
            self._lines.append(Line("{words}", phase.upper()))

    def sent(self, silo: str, words: str) -> None:
        self._add("  {silos} -> aggregator: {words}", words, silo)

    def told(self, silo: str, words: str) -> None:
        self._add("  aggregator -> {silos}: {words}", words, silo)

    def happened(self, silo: str, words: str) -> None:
        self._add("  {silos}: {words}", words, silo)

    def note(self, words: str) -> None:
        self._lines.append(Line("  {words}", words))

    def _add(self, pattern: str, words: str, silo: str) -> None:
        last = self._lines[-1] if self._lines else None
        if last is not None and (last.pattern, last.words) == (pattern, words) and silo not in last.silos:
            last.silos = (*last.silos, silo) if self._as_they_came else tuple(sorted((*last.silos, silo)))
        else:
            self._lines.append(Line(pattern, words, (silo,)))


def listed(silos: Iterable[str]) -> str:
    """In their order, such as: silos 3, 0 and 2; silos 0 to 4."""
    numbers = [int(silo.removeprefix("silo-")) for silo in silos]
    if len(numbers) < 2:
        return f"silo {numbers[0]}" if numbers else "nobody"
    if len(numbers) > 2 and numbers == list(range(numbers[0], numbers[-1] + 1)):
        return f"silos {numbers[0]} to {numbers[-1]}"
    return f"silos {', '.join(map(str, numbers[:-1]))} and {numbers[-1]}"


def in_words(error: SparsiloError) -> str:
    """With its name, so that it can be looked up in crypto/errors.py."""
    return f"{type(error).__name__}: {error.message}"


def silo_says(message: bytes) -> str:
    return _says(round_pb2.SiloMessage.FromString(message))


def aggregator_says(message: bytes) -> str:
    return _says(round_pb2.AggregatorMessage.FromString(message))


WORDS = {
    "acceptance": "the plan is accepted; a fresh sealing key, and the hash of a coin",
    "participants": "participants are {keys}",
    "pair_seeds": "halves of pair seeds, sealed for {sealed}",
    "pair_seed_delivery": "halves of pair seeds from {sealed}",
    "shares": "shares of a self seed and a bundle key, sealed for {sealed}, and the bundle",
    "share_delivery": "shares from {sealed}",
    "upload_root": "masked words, and their root, signed",
    "survivors": "survivors are {roots}",
    "survivors_signature": "a signature of the survivor set",
    "survivors_signatures": "the survivor set, signed by {signatures}",
    "revealed_shares": "shares of the self seeds of {self_seeds}, and of the bundle keys of {bundle_keys}",
    "opening": "the sum's root, the self seeds of {self_seeds}, the pair seeds of {pair_seeds}",
    "opening_signature": "a signature of the opening",
    "opening_signatures": "the opening, signed by {signatures}",
    "coin": "the coin",
    "coins": "coins of {coins}, which say who recomputes what",
    "verdict": "the assigned chunks are the sum of the uploads, signed",
    "verdicts": "verdicts of {signatures}",
    "aborted": "the round is over: {reason}",
}
"""By the body of a message, what it says; in braces its fields."""


def _says(message: Any) -> str:
    kind = message.WhichOneof("body")
    body = getattr(message, kind)
    return WORDS[kind].format(**{name: _field(name, getattr(body, name)) for name in body.DESCRIPTOR.fields_by_name})


def _field(name: str, value: Any) -> str:
    match name:
        case "sealed":  # what differs from silo to silo is counted
            return f"{len(value)} peers"
        case "pair_seeds":
            return listed(dict.fromkeys(pair.dropped for pair in value))
        case "reason":
            return str(value)
    return listed(entry.silo for entry in value) if name.endswith("s") else "bytes"
