"""A dishonest aggregator plans with the backend that hides nothing."""

from collections.abc import Callable
from typing import Any

import pytest

from attacks.stage import ONE, Stage, plain, stripped
from crypto.errors import PlanError
from crypto.names import Backend, Phase

pytestmark = pytest.mark.clause("2.1.2", "2.3.1", "8.1", "8.2")


@pytest.mark.parametrize(("backend", "words"), [(Backend.INSECURE_PLAINTEXT, "accepts"), ("plaintext", "unknown")])
def test_only_a_silo_that_names_it_takes_part(backend: str, words: str, approach: Callable[..., Any]) -> None:
    silo = approach()
    silo.agreed.backend = backend
    silo.refuses(silo.agreed, PlanError, str(backend), words)


def test_what_it_would_see() -> None:
    stage = Stage(Phase.UPLOAD, backend=Backend.INSECURE_PLAINTEXT)
    stage.speak(ONE)
    assert stripped(stage, stage.wire[ONE], []) == plain(stage, ONE)
