"""What is found by its name is there for every name, and those rooms hold nothing that nobody can ask for."""

from enum import StrEnum
from pathlib import Path

import pytest

from crypto.backends.backend_spec import BackendSpec, backend_spec
from crypto.names import Backend, Pruner, ReleaseKind
from crypto.pruning.pruners import PRUNERS
from crypto.releases.release_spec import release_spec
from silo_agent.releases.silo_side import silo_side

ROOT = Path(__file__).parents[2]


def names(room: str) -> set[str]:
    """The modules and folders of a room."""
    return {file.stem for file in (ROOT / room).iterdir() if not file.name.startswith(("__", "py.typed"))}


@pytest.mark.parametrize(
    ("room", "kinds", "others"),
    [
        ("crypto/backends", Backend, {"backend_spec", "verification", "withdrawal"}),
        ("crypto/releases", ReleaseKind, {"release_spec", "planned_rounds"}),
        ("silo_agent/releases", ReleaseKind, {"silo_side", "shared_inputs", "contributed_energies", "noise"}),
        ("silo_agent/pruning/pruners", Pruner, set()),
    ],
)
def test_a_room_has_what_its_enumeration_names(room: str, kinds: type[StrEnum], others: set[str]) -> None:
    assert names(room) == {*kinds} | others


def test_every_name_has_its_spec() -> None:
    assert {kind: release_spec(kind).kind for kind in ReleaseKind} == {kind: kind for kind in ReleaseKind}
    assert all(isinstance(backend_spec(backend), BackendSpec) for backend in Backend)
    assert set(PRUNERS) == set(Pruner)


def test_a_silos_side_prepares_and_expands_where_its_kind_prunes() -> None:
    sides = {kind: silo_side(kind) for kind in ReleaseKind}
    assert all(callable(getattr(side, "prepare", None)) for side in sides.values())
    assert {kind for kind, side in sides.items() if hasattr(side, "expanded")} == {
        kind for kind in ReleaseKind if release_spec(kind).prunes
    }
