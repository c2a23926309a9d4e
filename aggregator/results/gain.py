"""What federating was worth: how the federated model compares with what silos get without it, and what to try next."""

from dataclasses import dataclass
from typing import Final

from crypto.names import Pruner, ReleaseKind
from crypto.pruning.pruners import PRUNERS
from silo_agent.model.paired_difference import PairedDifference, Verdict

NEXT_RELEASE: Final = {
    ReleaseKind.VOTES: ReleaseKind.GRAM,
    ReleaseKind.WEIGHTS: ReleaseKind.GRAM,
    ReleaseKind.ENERGIES: ReleaseKind.GRAM,
    ReleaseKind.GRAM: ReleaseKind.DENSE_TARGET,
}
NEXT_PRUNER: Final = {
    **dict.fromkeys((Pruner.MAGNITUDE, Pruner.WANDA, Pruner.RIA, Pruner.SPARSEGPT, Pruner.SWAPS), Pruner.ADMM),
    Pruner.ADMM: Pruner.ALPS,
}
"""What lost less than the entry in measurements on two small models (docs/adr/0043)."""

MUTE: Final = "Whether federating beat sharing nothing is unknown: this model cannot write the text for that."
NOTHING_ELSE: Final = "Next to try: nothing. What lost less in measurements needs text that the model writes."


@dataclass(frozen=True)
class Compared:
    """How the federated model compares with another, over all silos' held-out sequences in pairs."""

    difference: float
    """Its negative log-likelihood less the other's, nats a token: below 0 the federated one is better."""
    standard_error: float
    verdict: Verdict
    """How its perplexity is, at 95% confidence."""
    in_words: str


@dataclass(frozen=True)
class NextToTry:
    """The release and the pruner after those of the run, by NEXT_RELEASE and NEXT_PRUNER; the last ones stay."""

    release: ReleaseKind
    pruner: Pruner
    in_words: str


@dataclass(frozen=True)
class Gain:
    """What a report says of it; the fields are those of `report.json`."""

    self_calibrated: Compared | None
    """Beside sharing nothing; None where the pruner reads no text, or the model cannot write any."""
    own: Compared | None
    """Beside what each silo pruned alone; None where silos have no model of their own."""
    next_to_try: NextToTry
    without_self_calibrated: str | None = None
    """Why that is missing although the pruner reads text."""

    @property
    def sentences(self) -> list[str]:
        """What a report says of the gain, a sentence for each part that there is."""
        missing = [self.without_self_calibrated] if self.without_self_calibrated else []
        parts = (self.self_calibrated, self.own, self.next_to_try)
        return missing + [part.in_words for part in parts if part is not None]


def make_gain(
    release: ReleaseKind, pruner: Pruner, self_calibrated: PairedDifference | None, own: PairedDifference | None
) -> Gain:
    """Return what federating was worth, from how the federated model differs from each of the two."""
    is_worth_it = self_calibrated is None or self_calibrated.verdict == "lower"
    is_mute = self_calibrated is None and PRUNERS[pruner].reads_text
    return Gain(
        self_calibrated=_compared("sharing nothing", self_calibrated),
        own=_compared("each silo's own text alone", own),
        next_to_try=NextToTry(release, pruner, NOTHING_ELSE) if is_mute else _next_to_try(release, pruner, is_worth_it),
        without_self_calibrated=MUTE if is_mute else None,
    )


def _compared(other: str, difference: PairedDifference | None) -> Compared | None:
    if difference is None:
        return None
    match difference.verdict:
        case "lower":
            outcome = f"Federating beat {other}"
        case "higher":
            outcome = f"Federating did not beat {other}"
        case _:
            outcome = f"Federating and {other} cannot be told apart"
    words = f"{outcome}: perplexity is {difference.in_words}."
    return Compared(difference.mean, difference.standard_error, difference.verdict, words)


def _next_to_try(release: ReleaseKind, pruner: Pruner, is_worth_it: bool) -> NextToTry:
    next_release, next_pruner = NEXT_RELEASE.get(release, release), NEXT_PRUNER.get(pruner, pruner)
    if (next_release, next_pruner) == (release, pruner):
        words = f"Nothing that was measured lost less than {release} with {pruner}."
    elif is_worth_it:
        words = f"Next to try: {next_release} with {next_pruner}."
    else:
        words = (
            f"Next to try: {next_pruner} on text that the model writes, which takes no release; {next_release} with "
            f"{next_pruner} where `silo-agent gain` says that own text helps."
        )
    if next_release is ReleaseKind.GRAM and release is not ReleaseKind.GRAM:
        words += " Gram matrices take more bytes, and say which words occur."
    return NextToTry(next_release, next_pruner, words)
