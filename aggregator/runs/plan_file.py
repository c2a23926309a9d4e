"""plan.yaml: the options of a plan, and what the run shall leave behind beside its model."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from aggregator.runs.run import Wanted
from crypto.errors import ConfigError
from crypto.plan_options import PLAN_OPTIONS, PlanOptions
from crypto.releases.release_spec import release_spec
from silo_agent.settings.layered_config import NOTHING, read_config


@dataclass(frozen=True)
class PlanFile(PlanOptions):
    """A plan.yaml. It adds to the plan's options whether there is an evaluation, and what the run leaves behind."""

    evaluate: int = 0
    """Held-out sequences a silo; 0 evaluates nothing. The plan has a round for it at its end."""
    save_counts: bool = False
    save_transcript: bool = True
    prompts: tuple[str, ...] = ()
    """Texts from which the report shows how the dense and the sparse model go on."""

    @classmethod
    def read(cls, file: Path) -> "PlanFile":
        """Return what `file` asks for. Raises ConfigError naming file and field."""
        asked, _ = read_config(cls, file, NOTHING, ())
        if asked.evaluate < 0:
            raise ConfigError(f"{file}: evaluate: must not be negative")
        for option in PLAN_OPTIONS:
            value: Any = getattr(asked, option.name)  # of the option's kind
            if option.choices and value not in option.choices:
                hint = " or ".join(option.choices)
                raise ConfigError(f"{file}: {option.name}: {value} is not asked for by itself", hint=hint)
            if option.kind is int and not option.by_silo and value is not None and value < 0:
                raise ConfigError(f"{file}: {option.name}: must not be negative")
        if asked.pattern and not (asked.sparsity_ratio is None and asked.comparison_group is None):
            raise ConfigError(f"{file}: pattern: says it all", hint="leave out sparsity_ratio and comparison_group")
        if asked.save_counts and release_spec(asked.release).pools:
            raise ConfigError(
                f"{file}: save_counts: nobody votes in {asked.release} rounds",
                hint="add release: votes, or leave it out",
            )
        # A 0 says in a file that nothing is asked for.
        return replace(asked, threshold=asked.threshold or None, sequence_length=asked.sequence_length or None)

    def wanted(self) -> Wanted:
        """Return what the run leaves behind."""
        return Wanted(self.save_counts, self.save_transcript, prompts=self.prompts)
