"""Every mutation of `make mutations` still fits its file and names tests that are there; to run them takes long."""

import pytest

from support.mutation import Mutation
from support.mutations import MUTATIONS, ROOT


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: f"{mutation.file}: {mutation.new}")
def test_a_mutation_fits(mutation: Mutation) -> None:
    assert (ROOT / mutation.file).read_text().count(mutation.old) == 1
    file, _, test = mutation.tests.partition("::")
    assert f"def {test.partition('[')[0]}" in (ROOT / file).read_text()
