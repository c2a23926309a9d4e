"""`report.json`, and the same as tables for a person."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Final

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from aggregator.rounds.round_driver import ClosedRound, Traffic
from crypto.backends.backend_spec import backend_spec
from crypto.names import Backend, Phase, ReleaseKind
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
    rounds: Sequence[ClosedRound],
    achieved: Mapping[str, float],
    traffic: Mapping[str, Traffic],
    keep_counts: Mapping[str, Sequence[int]],
    perplexity: Perplexity | None,
) -> dict[str, Any]:
    """The content of `report.json`. `achieved` is the fraction of zeros written, by tensor; `keep_counts` how many
    weights of a tensor were kept by 0, 1, ... survivors.
    """
    sizes = {tensor.name: tensor.shape[0] * tensor.shape[1] for tensor in plan.prunable}
    overall = sum(achieved[name] * size for name, size in sizes.items()) / sum(sizes.values())
    pruning = plan.message.pruning
    dropped = {silo: phase for closed in reversed(rounds) for silo, phase in closed.session.dropped.items()}
    seconds: dict[Phase, float] = {}
    for closed in rounds:
        for phase, spent in closed.seconds.items():
            seconds[phase] = seconds.get(phase, 0) + spent
    report: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "sparsilo_version": version("sparsilo"),
        "silos": list(plan.silos),
        "survivors": [silo for silo in plan.silos if _survived(silo, rounds)],
        "dropped": {silo: str(phase) for silo, phase in sorted(dropped.items())},
        "threshold": plan.message.threshold,
        "backend": str(plan.backend),
        "release": str(plan.release_kind(len(rounds) - 1)),
        "pruner": pruning.pruner,
        "comparison_group": str(plan.comparison_group),
        "pattern": pruning.pattern,
        "allocation": str(plan.allocation),
        "schedule": str(plan.schedule),
        "weight_scaling": pruning.weight_scaling,
        "sparsity_ratio": {
            "asked": pruning.sparsity_ratio or pruning.pattern,
            "achieved": overall,
            "per_tensor": {name: achieved[name] for name in sizes},
        },
        "weights": sum(sizes.values()),
        "keep_counts": {name: list(keep_counts[name]) for name in sizes},
        "rounds": [
            {
                "release": str(plan.release_kind(closed.session.round.index)),
                "block": plan.block(closed.session.round.index),
                "cohort": list(closed.session.round.silos),
                "survivors": list(closed.session.survivors),
                "seconds": round(sum(closed.seconds.values()), 3),
            }
            for closed in rounds
        ],
        "bytes": {silo: {"up": traffic[silo].up, "down": traffic[silo].down} for silo in plan.silos},
        "seconds": {str(phase): round(spent, 3) for phase, spent in seconds.items()},
        "plan_digest": plan.digest.hex(),
    }
    if perplexity is not None:
        report["perplexity"] = {
            "dense": perplexity.dense,
            "alone": dict(perplexity.alone),
            **({"alone_mean": perplexity.alone_mean} if perplexity.alone else {}),
            "federated": perplexity.federated,
            "candidates": dict(perplexity.candidates),
        }
    return report


def _survived(silo: str, rounds: Sequence[ClosedRound]) -> bool:
    """Whether the silo's words are in the sum of every round that it was drawn for."""
    sessions = [closed.session for closed in rounds]
    return all(silo in session.survivors for session in sessions if silo in session.round.silos)


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
    console.print(seen(report))


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
    if "alone_mean" in perplexity:
        table.add_row("mean of the silos alone", f"{perplexity['alone_mean']:.2f}")
    table.add_row("federated", f"{perplexity['federated']:.2f}", style="bold")
    return table


def seen(report: Mapping[str, Any]) -> str:
    """What the aggregator saw, in words."""
    spec = backend_spec(Backend(report["backend"]))
    if not spec.hides_words:
        return f"The aggregator saw {spec.aggregator_saw}."
    fewest = min(len(made["survivors"]) for made in report["rounds"])
    what = "how many kept each weight"
    hidden = "text, scores or keep mask"
    if report["release"] == ReleaseKind.WEIGHTS:
        what += ", and by how much together they changed it"
        hidden += ". Where one silo alone kept a weight, that sum is its value"
    said = (
        f"The aggregator saw {spec.aggregator_saw}, and opened only their sums over {fewest} silos: {what}. It did not "
        f"see any silo's {hidden}. Where all silos agree, the sum tells each one's choice. {spec.audit_in_words}"
    )
    if "perplexity" in report:
        said += (
            " For the rows 'alone' this rehearsal read the silos' keep masks from this machine's disk; in a deployment "
            "nobody can."
        )
    return said
