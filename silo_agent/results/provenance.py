"""What a sparse model says of its origin: metadata of its weights, and its model card.

Both follow from the plan and the opened sums. Two runs of the same work over as many survivors do not differ in them,
and nothing in them is about one silo. No figure of an evaluation is: that comes later, and no sum of weights proves it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

from crypto.plan import Plan
from crypto.releases.planned_rounds import release_of
from silo_agent.opened_sums.opened_sum import OpenedRound


@dataclass(frozen=True)
class Provenance:
    """Where a sparse model comes from."""

    plan: Plan
    opened: Sequence[OpenedRound]
    """The rounds of its pruning."""
    pruned_digest: bytes
    """`PrunedTensors.digest`."""

    @property
    def metadata(self) -> dict[str, str]:
        """The metadata of the safetensors files."""
        plan, pruning = self.plan, self.plan.message.pruning
        return {
            "sparsilo.release": str(release_of(plan)),
            "sparsilo.pruner": pruning.pruner,
            "sparsilo.sparsity": str(plan.pruning.sparsity),
            "sparsilo.allocation": str(plan.pruning.allocation),
            "sparsilo.schedule": str(plan.pruning.schedule),
            "sparsilo.survivors": str(self._survivors),
            "sparsilo.pruned_sha256": self.pruned_digest.hex(),
        }

    def card(self, achieved: Mapping[str, float]) -> str:
        """Return README.md, as the Hugging Face hub reads it. `achieved`: the fraction of zeros by tensor."""
        plan, pruning = self.plan, self.plan.message.pruning
        sizes = {tensor.name: prod(tensor.shape) for tensor in plan.prunable}
        weights = sum(sizes.values())
        zeros = sum(round(achieved[name] * size) for name, size in sizes.items())
        settings = {
            "dense model": f"digest `{plan.model_digest.hex()}`",
            "pruner at each silo": f"`{pruning.pruner}`",
            "what was summed": f"`{self.metadata['sparsilo.release']}`",
            "sparsity": f"{plan.pruning.sparsity}",
            **({"quantised to": f"{pruning.quantise_bits} bits (GPTQ)"} if pruning.quantise_bits else {}),
            "allocation, schedule": f"`{plan.pruning.allocation}`, `{plan.pruning.schedule}`",
            "prunable weights": f"{weights:,}, of which {zeros:,} are zero ({zeros / weights:.4%})",
            "calibration": f"{pruning.samples} sequences of {pruning.sequence_length} tokens at each silo",
            "silos": f"{len(plan.silos)}, of which every sum is over {self._survivors} or more",
            "backend": f"`{plan.backend}`",
        }
        rows = "\n".join(f"| {name} | {value} |" for name, value in settings.items())
        return _CARD.format(rows=rows)

    @property
    def _survivors(self) -> int:
        """The fewest survivors that a round of the run had."""
        return min(opened.survivors for opened in self.opened)


_CARD = """\
---
library_name: transformers
pipeline_tag: text-generation
tags:
- sparse
- pruned
- sparsilo
---

# A sparse language model, pruned by several institutions together

Each institution scored the weights with its own text, which stayed there. Only sums over all of them were opened, and
this model follows from those sums: [Sparsilo](https://github.com/sparsilo/sparsilo) wrote it.

| | |
|---|---|
{rows}

## How to load it

    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained("FOLDER", dtype="auto")
    tokenizer = AutoTokenizer.from_pretrained("FOLDER")

Zeros are stored, so it takes as much memory as the dense model. `aggregator pack` writes it without them.

## How to check it

Whoever has the dense model, the run's transcripts and the roster of the institutions repeats every step:

    silo-agent verify RESULT --roster roster.yaml --model RESULT/model --dense DENSE

That shows that every byte of this folder follows from the dense model and from sums that the institutions signed.

## What is not guaranteed

- That it is good at anything. Perplexities, where they were measured, are in the run's report.json, and what the
  dense model does wrong, this one may do too.
- That the institutions told the truth about their text. Nobody can check that.
- That it says nothing about the text. Which weights were kept depends on it, and this version adds no noise.
- The licence of the dense model holds for this one as well.
"""
