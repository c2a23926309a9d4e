"""What everybody asks about a backend, so that nobody else needs to know which backends there are.

A backend is a line in `crypto.names.Backend` and a package of its name here, whose module `spec` holds the `SPEC`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module

from crypto.encoding.layout import Layout
from crypto.encoding.words import ChunkBytes, Words
from crypto.names import Backend
from crypto.plan import Plan
from crypto.primitives.signing import SigningKey
from crypto.secagg.round import Round
from crypto.secagg.session import AggregatorSession, Entropy, SiloSession
from crypto.secagg.verified import Verified
from sparsilo.v1 import round_pb2


def _nobody(_: Plan) -> int:
    return 0


@dataclass(frozen=True, kw_only=True)
class BackendSpec:
    """One way in which words are hidden on their way to the sum."""

    hides_words: bool
    """Whether the aggregator sees sums only, and no single silo's words."""

    on_the_way: str
    """In words for people, how a silo's numbers travel; it follows what they are."""

    aggregator_learns: tuple[str, ...]
    """In words, what the aggregator learns of a silo besides the sums."""

    aggregator_saw: str
    """In words, what the aggregator saw on the way; it follows "The aggregator saw"."""

    withstands: Callable[[int], str]
    """Says, for the plan's number of colluders, whom the backend withstands."""

    upload_lengths: Callable[[Layout], Sequence[int]]
    """Returns how many bytes each chunk of a silo's upload has."""

    fold: Callable[[int, Iterable[ChunkBytes]], Words]
    """Folds the survivors' uploads of one chunk into what `AggregatorSession.unmask_chunk` opens.

    The first argument is how many words the opened chunk has. Each upload is read before the next is asked for, since
    its bytes may then be overwritten.
    """

    opens_with_shares: bool = False
    """Whether a sum opens with as many shares as the threshold, which silos reveal in UNMASK, and in no other way."""

    auditors: Callable[[Plan], int] = _nobody
    """Returns how many silos recompute each chunk of a sum; 0 where a round has no AUDIT."""

    audit_in_words: str = ""
    """A sentence that says, after a run, who recomputed the sums."""

    verify: Callable[[Round, round_pb2.Transcript, Mapping[str, bytes]], Verified] | None = None
    """Checks the transcript of a finished round against a roster, public signing keys by silo; None: nothing is signed.

    Raises the error that a silo in the round would have raised, with the step named before the party.
    """

    silo_session: Callable[[Round, str, SigningKey, Entropy], SiloSession]
    """Makes the session of the named silo, which signs with its key."""

    aggregator_session: Callable[[Round], AggregatorSession]
    """Makes the aggregator's session."""


def backend_spec(backend: Backend) -> BackendSpec:
    """Return the spec of a backend."""
    spec: BackendSpec = import_module(f"crypto.backends.{backend}.spec").SPEC
    return spec


def audited_bytes(plan: Plan, uploaded: int, signers: int) -> int:
    """Return how many bytes AUDIT sends a silo on average where each uploaded so many, and all of `signers` are left.

    Each auditor of a chunk is sent every signer's words of it and the sum's.
    """
    return uploaded * backend_spec(plan.backend).auditors(plan) * (signers + 1) // signers
