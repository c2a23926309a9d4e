"""`aggregator serve` with submitted runs and silos that are coroutines, in an event loop of simulated time."""

import random
from datetime import UTC, datetime
from pathlib import Path

from prometheus_client import CollectorRegistry

from aggregator.config import AggregatorConfig
from aggregator.metrics import AggregatorMetrics
from aggregator.runs.plan_file import PlanFile
from aggregator.runs.planning import Planner
from aggregator.runs.submitted import Runs
from aggregator.serve import Work
from aggregator.silos.enrolments import Enrolments
from crypto.names import Suite
from crypto.plan import Plan
from silo_agent.checkpoint.dense_weights import DenseWeights
from support.driven import Driven
from support.models import tiny_llama
from support.plans import signing_keys

SILENT = "silo-003"


class Served:
    """What `aggregator serve` does with submitted runs, and silos that are coroutines, in a loop of simulated time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        config = {"public_address": "localhost:1", "model": tiny_llama(folder / "dense"), "state": folder / "state"}
        self.file = folder / "aggregator.yaml"
        self.file.write_text("".join(f"{field}: {value}\n" for field, value in config.items()))
        self.runs = Runs(folder / "state")
        self.registry = CollectorRegistry()
        self.enrolments = Enrolments(folder / "state")
        self.work = Work(AggregatorConfig.read(self.file), AggregatorMetrics(self.registry), self.enrolments)

    def submit(self) -> Plan:
        """A run of votes over four silos, of whom three are enough."""
        asked = b"release: votes\nsamples: 4\nsequence_length: 32\n"
        (self.folder / "plan.yaml").write_bytes(asked)
        roster = {silo: key.public_bytes for silo, key in signing_keys(4).items()}
        weights = DenseWeights.open(self.folder / "dense")
        planner = Planner(
            weights,
            PlanFile.read(self.folder / "plan.yaml"),
            roster,
            Suite.DEFAULT,
            random.randbytes,
            watch=lambda *_: None,
        )
        plan = planner.pruning(0)
        self.runs.submit(plan, asked, datetime.now(UTC))
        return plan

    def silos(self, plan: Plan) -> Driven:
        """The silos of a run, each of which goes through it by itself."""
        driven = Driven(plan, self.folder / plan.digest.hex())
        driven.driver = self.work.driver
        for lanes in driven.lanes.values():
            for values in lanes.values():
                values[:] = 0  # which keep counts and nonzero counts agree on
        return driven
