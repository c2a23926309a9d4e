"""What everybody asks about `insecure_plaintext`."""

from typing import Final

from crypto.backends.backend_spec import BackendSpec
from crypto.backends.insecure_plaintext.sessions import InsecurePlaintextAggregator, InsecurePlaintextSilo
from crypto.encoding.words import sum_words

SPEC: Final = BackendSpec(
    hides_words=False,
    on_the_way="in plain numbers, NOT masked",
    aggregator_learns=("this silo's own numbers, as they are: the backend insecure_plaintext protects nothing",),
    aggregator_saw="every silo's keep mask: insecure_plaintext hides nothing",
    withstands=lambda _colluders: "nobody: the backend insecure_plaintext is for tests",
    upload_lengths=lambda layout: layout.lengths,
    fold=sum_words,
    silo_session=lambda round_, silo, _signing_key, _entropy: InsecurePlaintextSilo(round_, silo),
    aggregator_session=InsecurePlaintextAggregator,
)
