"""What every backend's spec must say, and that the sums it folds are exact."""

from collections.abc import Iterator

import numpy as np
import pytest

from crypto.backends.backend_spec import backend_spec
from crypto.encoding.layout import Layout, Section
from crypto.names import Backend
from crypto.secagg.round import Round
from support.plans import plan, signing_keys

LAYOUT = Layout((Section("a", 70, 2), Section("b", 3, 33)), 2)


@pytest.mark.parametrize("backend", list(Backend))
def test_a_backend_is_found_by_its_name_and_makes_a_session_for_each_role(backend: Backend) -> None:
    round_ = Round(plan(4, backend=backend), 0)
    spec = backend_spec(backend)
    silo = spec.silo_session(round_, "silo-001", signing_keys(4)["silo-001"], bytes)
    assert (silo.round, silo.silo) == (round_, "silo-001")
    assert spec.aggregator_session(round_).expected == round_.silos


@pytest.mark.parametrize("backend", list(Backend))
def test_who_hides_nothing_says_so(backend: Backend) -> None:
    spec = backend_spec(backend)
    assert spec.hides_words is not backend.startswith("insecure")
    assert spec.hides_words is not ("NOT masked" in spec.on_the_way)
    assert spec.hides_words is not bool(spec.aggregator_learns)
    assert spec.hides_words is not ("hides nothing" in spec.aggregator_saw)
    assert spec.hides_words is not spec.withstands(2).startswith("nobody")


@pytest.mark.parametrize("backend", list(Backend))
def test_what_is_audited_can_be_verified(backend: Backend) -> None:
    spec = backend_spec(backend)
    assert bool(spec.auditors(plan())) is bool(spec.audit_in_words) is (spec.verify is not None)


def test_double_masking_says_how_many_colluders_it_withstands() -> None:
    withstands = backend_spec(Backend.DOUBLE_MASKING).withstands
    assert withstands(0) == "a dishonest aggregator, as long as no silo works with it"
    assert withstands(3) == "a dishonest aggregator with up to 3 silos that work with it"


@pytest.mark.parametrize("backend", list(Backend))
def test_uploads_of_eight_bytes_a_word_are_added_mod_2_to_the_64_one_after_another(backend: Backend) -> None:
    """Each piece is overwritten once the next is asked for, as a buffer for direct reads is."""
    spec = backend_spec(backend)
    assert list(spec.upload_lengths(LAYOUT)) == [24, 16, 24, 16] == [8 * chunk.words for chunk in LAYOUT.chunks]
    uploads = np.random.default_rng(5).integers(0, 1 << 64, (4, 3), np.uint64)
    buffer = bytearray(24)

    def pieces() -> Iterator[memoryview]:
        for upload in uploads:
            buffer[:] = upload.astype("<u8").tobytes()
            yield memoryview(buffer)

    assert spec.fold(3, pieces()).tolist() == [sum(map(int, column)) % (1 << 64) for column in uploads.T]
