"""Random schedules of 3 to 12 silos: each ends exact over the survivors or in a typed abort, none wrong, none hung.

`make schedules` runs 5 000 of them; CI runs the first block. A failure prints its seed, which replays it:
`python -m pytest tests/scenarios/test_schedules.py --schedule SEED`.
"""

import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from crypto.backends.double_masking.phases import TABLE
from crypto.names import Phase
from scenarios.simulation import PHASES, Kill, Schedule, Simulation

BLOCK, BLOCKS = 250, 20
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  # thousands of small synchronous writes; the tests own unique names


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    folder = SHARED_MEMORY / f"sparsilo{str(tmp_path).replace('/', '-')}" if SHARED_MEMORY.is_dir() else tmp_path / "d"
    folder.mkdir()
    yield folder
    shutil.rmtree(folder)


def simulate(schedule: Schedule, disk: Path) -> Simulation:
    folder = disk / str(schedule.seed)
    folder.mkdir()
    world = Simulation(schedule, folder)
    try:
        world.run()
        world.check()
    except BaseException as error:
        error.add_note(f"schedule {schedule.seed}: {schedule}")
        raise
    finally:
        shutil.rmtree(folder)
    return world


@pytest.mark.clause("4.1", "4.3", "4.4", "4.7", "4.9", "4.10", "4.11")
@pytest.mark.parametrize(
    "block", [pytest.param(block, marks=[pytest.mark.minutes] if block else []) for block in range(BLOCKS)]
)
def test_a_block_of_schedules(block: int, disk: Path, request: pytest.FixtureRequest) -> None:
    seed = request.config.getoption("--schedule")
    seeds = range(block * BLOCK, (block + 1) * BLOCK) if seed is None else [int(seed)]
    moves: set[tuple[str, Phase, Phase]] = set()
    ends: Counter[str] = Counter()
    for number in seeds:
        world = simulate(Schedule(number), disk)
        moves |= world.moves
        ends["exact" if world.closed else world.failure.code if world.failure else ""] += 1
    if seed is None:
        table = {(role, phase, TABLE[phase].then) for role in ("silo", "aggregator") for phase in PHASES}
        assert table <= moves
        assert BLOCK / 4 < ends["exact"] < BLOCK * 0.95, ends  # neither kind of end is a rare one


@pytest.mark.parametrize("phase", PHASES)
def test_both_roles_abort_from_every_phase(phase: Phase, disk: Path) -> None:
    """All silos but one die as the phase begins: the one that is left and the aggregator abort in it."""
    for seed in range(20):
        schedule = Schedule(seed, kills=[])
        schedule.loss, schedule.doubled = 0.0, 0.0
        schedule.kills = [Kill(silo, phase, 0.0, None) for silo in schedule.plan.silos[1:]]
        world = simulate(schedule, disk)
        if {("silo", phase, Phase.ABORTED), ("aggregator", phase, Phase.ABORTED)} <= world.moves:
            return
    pytest.fail(f"no schedule aborts in phase {phase}")
