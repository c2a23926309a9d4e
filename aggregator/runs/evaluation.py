"""The evaluation of keep masks that a run did not make together: a second plan over the same silos, whose held-out text
they are run on. What the silos made together, and each alone, the run's own plan evaluates.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from aggregator.results.report import Perplexity
from aggregator.rounds.round_driver import RoundDriver
from aggregator.runs.planning import DENSE, FEDERATED, OWN, SELF_CALIBRATED, Planner
from aggregator.runs.run_folder import EVALUATION_FOLDER
from crypto.plan_rules import decode_plan
from crypto.secagg.round import Round
from silo_agent.host.file_digest import file_digest
from silo_agent.host.whole_file import write_whole
from silo_agent.releases.evaluation import perplexities

PLAN_FILE: Final = "evaluation.plan"

ALONE: Final = " alone"


def is_reserved(name: str) -> bool:
    """Return whether an evaluation itself gives a candidate of that name."""
    return name in (DENSE, FEDERATED, OWN, SELF_CALIBRATED) or name.endswith(ALONE)


@dataclass(frozen=True)
class KeepMasks:
    """Keep-mask files from outside."""

    alone: Mapping[str, Path]
    """By silo, what it would have without the others."""
    given: Mapping[str, Path]
    """By name, what the user brought; no name is reserved."""

    @property
    def files(self) -> dict[str, Path]:
        """All of them by the names that the plan calls them."""
        return {**{silo + ALONE: file for silo, file in self.alone.items()}, **self.given}

    def perplexity(self, by_name: Mapping[str, float]) -> Perplexity:
        """Return the perplexities that the plans' names have, sorted by whose they are."""
        alone = {silo: by_name[silo + ALONE] for silo in self.alone}
        return Perplexity(
            dense=by_name[DENSE],
            own=by_name.get(OWN),
            self_calibrated=by_name.get(SELF_CALIBRATED),
            alone=alone,
            alone_mean=sum(alone.values()) / len(alone) if alone else None,
            federated=by_name[FEDERATED],
            candidates={name: by_name[name] for name in self.given},
        )


async def evaluate(
    keep_masks: Mapping[str, Path], sequences: int, planner: Planner, driver: RoundDriver, folder: Path
) -> dict[str, float]:
    """Return the perplexity of each keep-mask file by name, over `sequences` held-out sequences of every silo.

    `folder` keeps the plan, which is the same one after a restart, and the round. Raises what RoundDriver.run raises,
    and CorruptSum where the opened sums are no perplexities.
    """
    digests = {name: file_digest(file) for name, file in keep_masks.items()}
    for name, file in keep_masks.items():
        driver.files.offer_candidate(digests[name], file, planner.silos)
    plan_file = folder / PLAN_FILE
    if plan_file.exists():
        plan = decode_plan(plan_file.read_bytes())
    else:
        plan = planner.evaluation(sequences, digests)
        write_whole(plan_file, plan.encoded)
    round_folder = folder / EVALUATION_FOLDER
    round_folder.mkdir(mode=0o700, exist_ok=True)
    closed = await driver.run(Round(plan, 0), round_folder)
    spec = plan.message.rounds[0].evaluation
    return await asyncio.to_thread(perplexities, spec, closed.opened.chunks())
