"""`aggregator`: run rounds over silos."""

import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from rich.console import Console

from aggregator.commands import runs as cli_runs
from aggregator.commands import silos as cli_silos
from crypto.errors import ConfigError
from crypto.names import Allocation, Backend, ComparisonGroup, Pruner, ReleaseKind, Schedule, Suite
from crypto.pruning.sparsity import Pattern, Sparsity, parse_ratio
from silo_agent.commands.configuration import config_group
from silo_agent.host.terminal import (
    FILE,
    LOG_FORMAT,
    ProgressBars,
    completion_command,
    failing_as,
    named,
    output_option,
    pattern_option,
    print_envelope,
    pruner_option,
    ratio_option,
    run_command,
    suite_option,
)

if TYPE_CHECKING:
    from aggregator.results.report import Report

_Value = TypeVar("_Value")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="sparsilo")
def cli() -> None:
    """The aggregator's side of Sparsilo: opens sums over silos, and nothing else."""


def _config() -> Any:
    from aggregator.config import AggregatorConfig

    return AggregatorConfig


for _command in (
    *(cli_runs.serve, cli_runs.plan, cli_runs.rounds, cli_silos.invite, cli_silos.silos),
    *(config_group(_config), completion_command("aggregator", cli)),
):
    cli.add_command(_command)


@cli.command()
@click.option("--model", required=True, help="Folder of the dense model, or its hub id.")
@click.option(
    "--calibration", required=True, multiple=True, type=FILE, help="A silo's private text (.txt, .jsonl); once a silo."
)
@click.option("--out", required=True, type=FILE, help="Folder to make: model/, report.json, report.html.")
@click.option(
    "--release",
    type=click.Choice([ReleaseKind.VOTES.value, ReleaseKind.WEIGHTS.value]),
    default=ReleaseKind.VOTES.value,
    show_default=True,
    help="What is summed: keep masks, or also the weights that the pruner changed.",
)
@pruner_option
@ratio_option
@pattern_option
@click.option(
    "--comparison-group",
    type=named(ComparisonGroup),
    help="Weights among which the aggregator keeps those with most votes; layer is one weight matrix. "
    "Silos compare in their pruner's own group, which for wanda is row.  [default: layer]",
)
@click.option(
    "--force-comparison-group", is_flag=True, help="Allow a group that is known to ruin what this pruner does."
)
@click.option(
    "--schedule",
    type=named(Schedule),
    default=Schedule.ONE_SHOT.value,
    show_default=True,
    help="iterative: a round a block, and silos go on from the globally pruned block.",
)
@click.option("--weight-scaling", is_flag=True, help="Multiply each kept weight by the share of silos that kept it.")
@click.option(
    "--allocation",
    type=named(Allocation),
    default=Allocation.UNIFORM.value,
    show_default=True,
    help="owl: blocks with more outlying weights, on all silos' text, lose fewer.",
)
@click.option(
    "--silo-sparsity-ratio",
    "own_ratios",
    multiple=True,
    metavar="SILO=RATIO",
    help="Another ratio with which this silo prunes; the model gets --sparsity-ratio.",
)
@click.option(
    "--cohort-floor",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    metavar="N",
    help="Layer sampling: a silo prunes only some blocks, and every block is pruned by N silos or more. 0: all by all.",
)
@click.option(
    "--capacity",
    "capacities",
    multiple=True,
    metavar="SILO=BLOCKS",
    help="With layer sampling: of how many blocks this silo prunes.  [default: all]",
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
    help="Keep masks or pruned weights to evaluate beside the others.",
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
        print_envelope("done", data=report.document)
        return
    from aggregator.results.report_tables import print_report

    print_report(report, str(model), Console(highlight=False))


@cli.command()
@click.argument("model", type=FILE)
@click.option("--out", required=True, type=FILE, help="Folder to make.")
def pack(model: Path, out: Path) -> None:
    """Write a sparse model without its zeros.

    One bit a weight says which are kept (docs/bitmask-container.md).

    \b
    Example:
      aggregator pack pruned/model --out packed
    """
    from aggregator.results.bitmask_container import pack as write_container

    sizes = write_container(model, out)
    click.echo(
        f"{out}: {sizes.bitmask:,} bytes of weights, {sizes.bitmask / sizes.dense:.0%} of {sizes.dense:,}", err=True
    )


@cli.command()
@click.argument("container", type=FILE)
@click.option("--out", required=True, type=FILE, help="Folder to make; it loads with from_pretrained.")
def unpack(container: Path, out: Path) -> None:
    """Write the folder that a container was packed from, bit for bit.

    \b
    Example:
      aggregator unpack packed --out model
    """
    from aggregator.results.bitmask_container import unpack as write_model

    write_model(container, out)
    click.echo(f"{out}: written", err=True)


def _local(options: Mapping[str, Any]) -> tuple["Report", Path]:
    sparsity = _sparsity(options)
    candidates = dict(_candidate(text) for text in options["candidates"])
    if candidates and not options["evaluate"]:
        raise ConfigError("--candidate: is evaluated only with --evaluate N", hint="such as --evaluate 32")
    from aggregator.local import LocalSettings, run_local
    from aggregator.runs.planning import PruningSettings
    from aggregator.runs.run import Wanted
    from silo_agent.model.calibration import usual_length
    from silo_agent.model.dense_weights import DenseWeights
    from silo_agent.model.model_folder import model_folder

    model = model_folder(options["model"])
    settings = LocalSettings(
        model=model,
        calibration=options["calibration"],
        out=options["out"],
        pruning=PruningSettings(
            pruner=Pruner(options["pruner"]),
            sparsity=sparsity,
            samples=options["samples"],
            sequence_length=usual_length(DenseWeights.open(model).config, options["sequence_length"]),
            release=ReleaseKind(options["release"]),
            allocation=Allocation(options["allocation"]),
            schedule=Schedule(options["schedule"]),
            weight_scaling=options["weight_scaling"],
            force_comparison_group=options["force_comparison_group"],
            cohort_floor=options["cohort_floor"],
            capacities=_by_silo("--capacity", options["capacities"], int),
            own_ratios=_by_silo("--silo-sparsity-ratio", options["own_ratios"], parse_ratio),
        ),
        threshold=options["threshold"],
        backend=Backend(options["backend"]),
        phase_seconds=options["phase_timeout"],
        wanted=Wanted(options["evaluate"], options["save_counts"], options["save_transcript"], candidates),
        device=options["device"],
        suite=Suite[options["suite"].upper()],
    )
    with ProgressBars() as progress:
        return run_local(settings, progress), settings.out / "model"


def _sparsity(options: Mapping[str, Any]) -> Sparsity:
    ratio, pattern, group = options["sparsity_ratio"], options["pattern"], options["comparison_group"]
    if pattern is None:
        return Sparsity(parse_ratio("0.5" if ratio is None else ratio), ComparisonGroup(group or ComparisonGroup.LAYER))
    if ratio is not None or group is not None:
        given = "--sparsity-ratio" if ratio is not None else "--comparison-group"
        raise ConfigError(f"{given}: cannot be given with --pattern, which says it all", hint="leave out one of them")
    return Sparsity(Pattern.parse(pattern), ComparisonGroup.ROW)


def _by_silo(option: str, texts: Sequence[str], parse: Callable[[str], _Value]) -> dict[str, _Value]:
    found = {}
    for text in texts:
        silo, _, value = text.partition("=")
        try:
            found[silo] = parse(value)
        except ValueError:
            raise ConfigError(f"{option}: {text!r} is not SILO=NUMBER") from None
    return found


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
