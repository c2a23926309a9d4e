"""What everybody asks about `double_masking`."""

from typing import Final

from crypto.backends.backend_spec import BackendSpec
from crypto.backends.double_masking.aggregator import DoubleMaskingAggregator
from crypto.backends.double_masking.silo import DoubleMaskingSilo
from crypto.backends.double_masking.transcript import auditors_a_chunk
from crypto.backends.double_masking.verification import verify_round
from crypto.encoding.words import sum_words


def _withstands(colluders: int) -> str:
    if not colluders:
        return "a dishonest aggregator, as long as no silo works with it"
    return f"a dishonest aggregator with up to {colluders} silos that work with it"


SPEC: Final = BackendSpec(
    hides_words=True,
    opens_with_shares=True,
    on_the_way="as masked counters, which only the sum of the silos opens",
    aggregator_learns=(),
    aggregator_saw="masked words, which are uniformly random",
    withstands=_withstands,
    upload_lengths=lambda layout: layout.lengths,
    fold=sum_words,
    auditors=auditors_a_chunk,
    audit_in_words="Silos recomputed each chunk of a sum from what all of them had uploaded.",
    verify=verify_round,
    silo_session=DoubleMaskingSilo,
    aggregator_session=DoubleMaskingAggregator,
)
