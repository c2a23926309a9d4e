"""A plan in plain words, for whoever has to approve of it: what is computed here, what would leave and how much, who
learns what, and what is not protected. All of it follows from the plan alone; docs/threat-model.md says it at length.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Final

from crypto.backends.backend_spec import backend_spec
from crypto.names import ReleaseKind
from crypto.plan import Plan
from crypto.plan_options import PLAN_OPTIONS
from crypto.privacy.accountant import combined_multiplier, epsilon
from crypto.privacy.events import GaussianEvent
from crypto.releases.release_spec import events_of, release_spec, spec_of
from crypto.releases.votes import votes_in_words
from crypto.secagg.round import least_survivors
from silo_agent.consent.expected_traffic import (
    bytes_down,
    bytes_up,
    candidate_files,
    fetched_sums,
    most_participants,
)
from silo_agent.consent.hidden_among import Contribution, contributions, hidden_among, weak_points

EPSILON: Final = "unbounded: this plan adds no noise, so differential privacy bounds nothing"


@dataclass(frozen=True)
class Leaving:
    """What this silo uploads in all rounds of one release kind."""

    release: str
    rounds: int
    what: str
    hidden: str


@dataclass(frozen=True)
class BytesUp:
    """How much this silo uploads: so many bytes, or at most so many."""

    exact: bool
    bytes: int


@dataclass(frozen=True)
class RevealedTo:
    """Who learns what, a sentence each."""

    aggregator: tuple[str, ...]
    each_other_silo: tuple[str, ...]
    outsiders: tuple[str, ...]


@dataclass(frozen=True)
class PlanInWords:
    """Everything that `silo-agent pending` shows of a plan."""

    weak: tuple[str, ...]
    """Where the plan hides this silo less than another could: what comes first."""
    plan: str
    model: str
    computed_here: tuple[str, ...]
    also_asked: tuple[str, ...]
    """What the plan's options ask for beyond that."""
    rounds: int
    leaves: tuple[Leaving, ...]
    bytes_up: BytesUp
    bytes_down_estimate: int
    revealed_to: RevealedTo
    silos: tuple[str, ...]
    contributions: tuple[Contribution, ...]
    hidden_among: str
    least_survivors: int
    colluders: int
    withstands: str
    epsilon: str
    not_protected: tuple[str, ...]
    preparation_seconds: int
    phase_seconds: int
    least_bytes_per_second: int

    def as_dict(self) -> dict[str, object]:
        """Return what the JSON document has of the plan: lists for tuples."""

        def listed(pairs: list[tuple[str, object]]) -> dict[str, object]:
            return {name: list(value) if isinstance(value, tuple) else value for name, value in pairs}

        return asdict(self, dict_factory=listed)


def plan_in_words(plan: Plan, silo: str) -> PlanInWords:
    """Return what `plan` means for `silo`, which has to approve of it."""
    message = plan.message
    kinds = list(dict.fromkeys(plan.release_kind(index) for index in range(len(message.rounds))))
    least = least_survivors(plan, plan.pruning.cohort_floor)
    return PlanInWords(
        weak=tuple(weak_points(plan, silo)),
        plan=plan.digest.hex(),
        model=plan.model_digest.hex(),
        computed_here=tuple(_computed(plan, silo)),
        also_asked=tuple(filter(None, (option.told(plan) for option in PLAN_OPTIONS))),
        rounds=len(message.rounds),
        leaves=tuple(_leaving(plan, kind) for kind in kinds),
        bytes_up=BytesUp(exact=not plan.pruning.cohort_floor, bytes=bytes_up(plan, silo)),
        bytes_down_estimate=bytes_down(plan, silo),
        revealed_to=RevealedTo(
            aggregator=tuple(_to_aggregator(plan, kinds)),
            each_other_silo=tuple(_to_silos(plan, kinds)),
            outsiders=("who talks when, and how much",),
        ),
        silos=plan.silos,
        contributions=contributions(plan),
        hidden_among=hidden_among(plan),
        least_survivors=least,
        colluders=message.colluders,
        withstands=backend_spec(plan.backend).withstands(message.colluders),
        epsilon=_promised(plan),
        not_protected=tuple(_not_protected(plan, kinds, least)),
        preparation_seconds=message.preparation_seconds,
        phase_seconds=message.phase_seconds,
        least_bytes_per_second=plan.least_bytes_per_second,
    )


def sentences(words: PlanInWords) -> Iterator[tuple[str, str]]:
    """Yield a heading and a sentence at a time; the heading is empty where it is as before."""
    yield from _under("WEAK", words.weak)
    yield "plan", words.plan
    yield "model", words.model
    yield from _under("computed here", words.computed_here)
    yield from _under("also asked", words.also_asked)
    yield from _under(
        "leaves this silo",
        [
            f"{leaving.release}, {leaving.rounds} of {words.rounds} rounds: {leaving.what}; {leaving.hidden}"
            for leaving in words.leaves
        ],
    )
    most = "" if words.bytes_up.exact else "at most "
    yield "sends", f"{most}{_size(words.bytes_up.bytes)} of words, and some kB of keys and signatures a round and silo"
    yield "receives", f"about {_size(words.bytes_down_estimate)}"
    yield from _under("aggregator learns", words.revealed_to.aggregator)
    yield from _under("each other silo learns", words.revealed_to.each_other_silo)
    yield from _under("outsiders learn", words.revealed_to.outsiders)
    yield "summed over", f"at least {words.least_survivors} of {len(words.silos)} silos: {', '.join(words.silos)}"
    yield "hidden among", words.hidden_among
    yield from _under("these prune", [*_pruned_alike(words.contributions)])
    yield "withstands", words.withstands
    yield "epsilon", words.epsilon
    yield from _under("not protected", words.not_protected)
    yield (
        "time",
        f"a round goes on without this silo where it has not answered within {_span(words.preparation_seconds)}, in "
        f"which people decide and silos compute; later, within {_span(words.phase_seconds)}, where its words take no "
        f"longer than at {words.least_bytes_per_second:,} bytes a second",
    )


def _computed(plan: Plan, silo: str) -> Iterator[str]:
    """Yield what is computed here, once however many rounds need it."""
    rounds = range(len(plan.message.rounds))
    yield from dict.fromkeys(
        sentence for index in rounds for sentence in spec_of(plan, index).computes(plan, index, silo)
    )
    yield "the text itself stays: no message has a field for text, tokens, activations or scores"


def _leaving(plan: Plan, kind: ReleaseKind) -> Leaving:
    rounds = [index for index in range(len(plan.message.rounds)) if plan.release_kind(index) is kind]
    what = release_spec(kind).leaves(plan, rounds)
    return Leaving(str(kind), len(rounds), what, backend_spec(plan.backend).on_the_way)


def _to_aggregator(plan: Plan, kinds: list[ReleaseKind]) -> Iterator[str]:
    yield from backend_spec(plan.backend).aggregator_learns
    for kind in kinds:
        yield f"{kind}, over all survivors: {release_spec(kind).opens}"
    yield "who took part, when, and how much was sent"
    if any(release_spec(kind).prunes for kind in kinds):
        yield "it makes the sparse model of that, which says less of the silos' text than the sums, though not nothing"


def _to_silos(plan: Plan, kinds: list[ReleaseKind]) -> Iterator[str]:
    yield "the plan, and who took part"
    if keep_masks := candidate_files(plan):
        yield f"the {len(keep_masks)} keep masks from outside that are evaluated"
    if auditors := backend_spec(plan.backend).auditors(plan):
        signers = most_participants(plan)
        yield (
            f"as an auditor, the sums of the chunks that it is drawn for: {auditors} / k of them with k signers, about "
            f"{auditors / signers:.0%} where all {signers} sign"
        )
    if earlier := fetched_sums(plan):
        counts = {kind: sum(plan.release_kind(index) is kind for index in earlier) for kind in kinds}
        listed = ", ".join(f"{kind} ({count} rounds)" for kind, count in counts.items() if count)
        yield f"all of the sums that later rounds start from: {listed}"


def _promised(plan: Plan) -> str:
    """Say what differential privacy a plan keeps, and for whom; and how little that is for a silo as a whole."""
    promise = plan.message.pruning
    if plan.pruning.vote_units:
        return f"{votes_in_words(plan)}; all votes of this silo, and so a unit of text: {promise.epsilon:.3g}"
    if not promise.clip:
        return EPSILON
    of_silo = combined_multiplier(events_of(plan)) / promise.samples
    of_text = epsilon([GaussianEvent(of_silo)], promise.delta)
    return (
        f"{promise.epsilon:g} at delta {promise.delta:g} for each unit of text, a person or else a record, in all "
        f"rounds of this plan together; {of_text:.2g} for this silo's text as a whole"
    )


def _not_protected(plan: Plan, kinds: list[ReleaseKind], least: int) -> Iterator[str]:
    yield from dict.fromkeys(sentence for kind in kinds for sentence in release_spec(kind).not_protected)
    yield (
        f"Whoever knows the parts of all other survivors subtracts them: with {least} survivors, {least - 1} silos "
        "that work together learn this one's."
    )
    if plan.pruning.vote_units:
        yield "Noise hides single votes. A person's text may change many, and nothing hides all of these."
    elif plan.pruning.clip:
        yield "Noise hides a unit, not what many units have in common: that is what the sums are for."
        yield "A person whose records name another unit, or none, or lie in two silos, is protected less by as much."
    else:
        yield "The sums are exact statistics of the silos' text."
    yield "Whoever made the model and the plan chose the questions: take the model from a source that you trust."


def _pruned_alike(parts: Sequence[Contribution]) -> Iterator[str]:
    """Yield who prunes how much, a sentence for all silos that prune as much."""
    silos: dict[str, list[str]] = {}
    for part in parts:
        silos.setdefault(f"to a sparsity ratio of {part.sparsity_ratio} (blocks: {part.blocks})", []).append(part.silo)
    for share, alike in silos.items():
        yield f"{share}: {', '.join(alike)}"


def _under(heading: str, texts: Sequence[str]) -> Iterator[tuple[str, str]]:
    for at, text in enumerate(texts):
        yield "" if at else heading, text


def _size(count: int) -> str:
    """Say how many bytes these are, exactly and so that one can imagine it."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count:,} bytes ({count / size:.1f} {unit})"
    return f"{count:,} bytes"


def _span(seconds: int) -> str:
    for unit, size in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:g} {unit}"
    return f"{seconds} seconds"
