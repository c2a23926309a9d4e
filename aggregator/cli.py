"""`aggregator`: run rounds over silos."""

import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from crypto.errors import ConfigError
from crypto.names import Backend, ComparisonGroup, Pruner, ReleaseKind, Suite
from crypto.plan import parse_ratio
from silo_agent.cli import (
    FILE,
    LOG_FORMAT,
    ProgressBars,
    failing_as,
    named,
    output_option,
    print_envelope,
    run_command,
    suite_option,
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="sparsilo")
def cli() -> None:
    """The aggregator's side of Sparsilo: opens sums over silos, and nothing else."""


@cli.command()
@click.option("--model", required=True, type=FILE, help="Folder of the dense model.")
@click.option(
    "--calibration", required=True, multiple=True, type=FILE, help="A silo's private text (.txt, .jsonl); once a silo."
)
@click.option("--out", required=True, type=FILE, help="Folder to make: model/, report.json.")
@click.option(
    "--release",
    type=click.Choice([ReleaseKind.VOTES.value]),
    default=ReleaseKind.VOTES.value,
    show_default=True,
    help="What is summed.",
)
@click.option("--pruner", type=named(Pruner), default=Pruner.WANDA.value, show_default=True)
@click.option("--sparsity-ratio", default="0.5", show_default=True, help="Fraction of weights set to zero, in [0, 1).")
@click.option(
    "--comparison-group",
    type=named(ComparisonGroup),
    default=ComparisonGroup.LAYER.value,
    show_default=True,
    help="Weights among which the aggregator keeps those with most votes; layer is one weight matrix. "
    "Silos compare in their pruner's own group, which for wanda is row.",
)
@click.option("--samples", type=click.IntRange(1), default=128, show_default=True, help="Calibration sequences a silo.")
@click.option(
    "--sequence-length", type=click.IntRange(2), help="Tokens a sequence.  [default: 2048 or the model's most]"
)
@click.option("--threshold", type=int, help="Fewest silos that can open a sum.  [default: a majority, at least 3]")
@click.option("--backend", type=named(Backend), default=Backend.DOUBLE_MASKING.value, show_default=True)
@click.option(
    "--evaluate",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    metavar="N",
    help="Also measure perplexity on each silo's N sequences after its calibration sequences.",
)
@click.option(
    "--candidate",
    "candidates",
    multiple=True,
    metavar="NAME=FILE",
    help="A keep-mask file to evaluate beside the others.",
)
@click.option(
    "--save-counts", is_flag=True, help="Also write keep_counts.safetensors: how many silos kept each weight."
)
@click.option(
    "--save-transcript",
    is_flag=True,
    help="Also write transcript/, with which `silo-agent verify` repeats the sum; it holds what the aggregator saw.",
)
@suite_option
@click.option(
    "--phase-timeout",
    type=click.IntRange(1),
    default=60,
    show_default=True,
    metavar="SECONDS",
    help="A phase closes this long after the last thing that arrived in it.",
)
@click.option("--device", default="cpu", show_default=True, help="Where silos run the model: cpu, cuda, cuda:1, ...")
@output_option
@click.option("--verbose", is_flag=True, help="Log what happens to stderr.")
def local(**options: Any) -> None:
    """Prune a model with a whole federation on this machine.

    One aggregator and one silo-agent process per --calibration, over mutual TLS on loopback, through the code that a
    deployment runs. A rehearsal: the model it writes is what the same silos would get apart.

    \b
    Example:
      aggregator local --model llama --calibration a.txt --calibration b.txt --calibration c.txt --out pruned
    """
    logging.basicConfig(
        level=logging.INFO if options["verbose"] else logging.ERROR, format=LOG_FORMAT, stream=sys.stderr
    )
    with failing_as(options["output"]):
        report, model = _local(options)
    if options["output"] == "json":
        print_envelope("done", data=report)
        return
    from aggregator.report import print_report

    print_report(report, str(model), Console(highlight=False))


def _local(options: Mapping[str, Any]) -> tuple[dict[str, Any], Path]:
    parse_ratio(options["sparsity_ratio"])
    candidates = dict(_candidate(text) for text in options["candidates"])
    if candidates and not options["evaluate"]:
        raise ConfigError("--candidate: is evaluated only with --evaluate N", hint="such as --evaluate 32")
    from aggregator.local import LocalSettings, run_local
    from aggregator.planning import PruningSettings
    from silo_agent.calibration import usual_length
    from silo_agent.dense_weights import DenseWeights

    settings = LocalSettings(
        model=options["model"],
        calibration=options["calibration"],
        out=options["out"],
        pruning=PruningSettings(
            pruner=Pruner(options["pruner"]),
            sparsity_ratio=options["sparsity_ratio"],
            comparison_group=ComparisonGroup(options["comparison_group"]),
            samples=options["samples"],
            sequence_length=usual_length(DenseWeights.open(options["model"]).config, options["sequence_length"]),
        ),
        threshold=options["threshold"],
        backend=Backend(options["backend"]),
        phase_seconds=options["phase_timeout"],
        save_counts=options["save_counts"],
        evaluate=options["evaluate"],
        candidates=candidates,
        device=options["device"],
        suite=Suite[options["suite"].upper()],
        save_transcript=options["save_transcript"],
    )
    with ProgressBars() as progress:
        return run_local(settings, progress), settings.out / "model"


def _candidate(text: str) -> tuple[str, Path]:
    name, _, file = text.partition("=")
    if not name or not file:
        raise ConfigError(f"--candidate: {text!r} is not NAME=FILE")
    return name, Path(file)


def main() -> None:
    """Console script."""
    run_command(cli)


if __name__ == "__main__":
    main()
