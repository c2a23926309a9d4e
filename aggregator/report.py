"""`report.json`, and the same as tables for a person."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Final

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from aggregator.round_driver import ClosedRound, Traffic
from crypto.names import Phase
from crypto.plan import Plan

SCHEMA_VERSION: Final = 1


@dataclass(frozen=True)
class Perplexity:
    """Perplexities by candidate, over all silos' held-out text together."""

    dense: float
    alone: Mapping[str, float]
    """Each silo's own keep mask."""
    federated: float
    candidates: Mapping[str, float]
    """Keep masks that the user gave."""

    @property
    def alone_mean(self) -> float:
        """Mean over the silos."""
        return sum(self.alone.values()) / len(self.alone)


def make_report(
    plan: Plan,
    votes: ClosedRound,
    achieved: Mapping[str, float],
    traffic: Mapping[str, Traffic],
    perplexity: Perplexity | None,
) -> dict[str, Any]:
    """The content of `report.json`. `achieved` is the fraction of zeros written, by tensor."""
    sizes = {tensor.name: tensor.shape[0] * tensor.shape[1] for tensor in plan.prunable}
    overall = sum(achieved[name] * size for name, size in sizes.items()) / sum(sizes.values())
    report: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "sparsilo_version": version("sparsilo"),
        "silos": list(plan.silos),
        "survivors": list(votes.session.survivors),
        "dropped": {silo: str(phase) for silo, phase in sorted(votes.session.dropped.items())},
        "threshold": plan.message.threshold,
        "backend": str(plan.backend),
        "release": str(plan.release_kind(0)),
        "pruner": plan.message.pruning.pruner,
        "comparison_group": str(plan.comparison_group),
        "sparsity_ratio": {
            "asked": plan.message.pruning.sparsity_ratio,
            "achieved": overall,
            "per_tensor": {name: achieved[name] for name in sizes},
        },
        "weights": sum(sizes.values()),
        "bytes": {silo: {"up": traffic[silo].up, "down": traffic[silo].down} for silo in plan.silos},
        "seconds": {str(phase): round(seconds, 3) for phase, seconds in votes.seconds.items()},
        "plan_digest": plan.digest.hex(),
    }
    if perplexity is not None:
        report["perplexity"] = {
            "dense": perplexity.dense,
            "alone": dict(perplexity.alone),
            "alone_mean": perplexity.alone_mean,
            "federated": perplexity.federated,
            "candidates": dict(perplexity.candidates),
        }
    return report


def print_report(report: Mapping[str, Any], model: str, console: Console) -> None:
    """Tables of what the run came to: models, silos, phases, and what the aggregator saw."""
    if "perplexity" in report:
        console.print(_perplexity_table(report))
    silos = Table("silo", Column("bytes up", justify="right"), Column("bytes down", justify="right"), "", title="Silos")
    for silo in report["silos"]:
        traffic = report["bytes"][silo]
        fate = f"dropped in {report['dropped'][silo]}" if silo in report["dropped"] else "survived"
        silos.add_row(silo, f"{traffic['up']:,}", f"{traffic['down']:,}", fate)
    console.print(silos)
    phases = Table("phase", Column("seconds", justify="right"), title="Phases")
    for phase, seconds in report["seconds"].items():
        phases.add_row(phase, f"{seconds:.2f}")
    console.print(phases)
    ratio = report["sparsity_ratio"]
    console.print(
        f"Sparse model: {escape(model)}: {ratio['achieved']:.4%} of {report['weights']:,} prunable weights are zero, "
        f"{ratio['asked']} was asked"
    )
    console.print(_seen(report))


def _perplexity_table(report: Mapping[str, Any]) -> Table:
    perplexity = report["perplexity"]
    pruned = f"at sparsity ratio {report['sparsity_ratio']['asked']}"
    title = f"Perplexity on all silos' held-out text, {pruned} (lower is better)"
    table = Table("model", Column("perplexity", justify="right"), title=title)
    table.add_row("dense, not pruned", f"{perplexity['dense']:.2f}")
    for name, value in perplexity["candidates"].items():
        table.add_row(escape(name), f"{value:.2f}")
    for silo, value in perplexity["alone"].items():
        table.add_row(f"{silo} alone", f"{value:.2f}")
    table.add_row("mean of the silos alone", f"{perplexity['alone_mean']:.2f}")
    table.add_row("federated", f"{perplexity['federated']:.2f}", style="bold")
    return table


def _seen(report: Mapping[str, Any]) -> str:
    if Phase.UNMASK not in report["seconds"]:
        return "The aggregator saw every silo's keep mask: insecure_plaintext hides nothing."
    seen = (
        "The aggregator saw masked words, which are uniformly random, and opened only their sum over "
        f"{len(report['survivors'])} silos: how many kept each weight. It did not see any silo's text, scores or keep "
        "mask. Where all silos agree, the sum tells each one's choice. Two silos recomputed each chunk of the sum from "
        "what all of them had uploaded."
    )
    if "perplexity" in report:
        seen += (
            " For the rows 'alone' this rehearsal read the silos' keep masks from this machine's disk; in a deployment "
            "nobody can."
        )
    return seen
