"""`aggregator local`: a whole federation on this machine."""

import logging
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click
from rich.console import Console

from crypto.errors import ConfigError
from crypto.names import Backend, Suite
from crypto.plan_options import PLAN_OPTIONS, PlanOption, PlanOptions
from crypto.pruning.sparsity import Pattern, parse_ratio
from crypto.releases.release_spec import release_spec
from silo_agent.host.logs import LogFormat, logging_as
from silo_agent.host.terminal import (
    FILE,
    ProgressBars,
    choice_of,
    failing_as,
    output_option,
    plan_option,
    print_envelope,
    suite_option,
)

if TYPE_CHECKING:
    from aggregator.results.report import Report

PREPARATION_SECONDS: Final = 6 * 3600
"""How long silos have to prune; nobody has to approve here."""

_LOCAL_OPTIONS: Final = tuple(option for option in PLAN_OPTIONS if option.of_local)

_Command = TypeVar("_Command", bound=Callable[..., object])


def _plan_options(command: _Command) -> _Command:
    for option in reversed(_LOCAL_OPTIONS):  # as decorators are applied: the last one first
        command = plan_option(option)(command)
    return command


@click.command()
@click.option("--model", required=True, help="Folder of the dense model, or its hub id, owner/name@commit.")
@click.option(
    "--calibration", required=True, multiple=True, type=FILE, help="A silo's private text (.txt, .jsonl); once a silo."
)
@click.option("--out", required=True, type=FILE, help="Folder to make: model/, report.json, report.html.")
@_plan_options
@click.option("--backend", type=choice_of(Backend), default=Backend.DOUBLE_MASKING.value, show_default=True)
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
    help="Keep masks to evaluate beside the others.",
)
@click.option(
    "--prompts",
    type=FILE,
    help="A text file with a prompt a line: the report shows how the model goes on, before and after.",
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
    level = logging.INFO if options["verbose"] else logging.ERROR
    with logging_as(LogFormat.TEXT, level), failing_as(options["output"]):
        report, model = _local(options)
    if options["output"] == "json":
        print_envelope("done", data=report.document)
        return
    from aggregator.results.report_tables import print_report

    print_report(report, str(model), Console(highlight=False))


def _local(options: Mapping[str, Any]) -> tuple["Report", Path]:
    asked = _asked(options)
    candidates = dict(_candidate(text) for text in options["candidates"])
    if candidates and not options["evaluate"]:
        raise ConfigError("--candidate: is evaluated only with --evaluate N", hint="such as --evaluate 32")
    from aggregator.local import LocalSettings, run_local
    from aggregator.runs.run import Wanted
    from silo_agent.checkpoint.model_folder import model_folder

    settings = LocalSettings(
        model=model_folder(options["model"]),
        calibration=options["calibration"],
        out=options["out"],
        asked=asked,
        backend=Backend(options["backend"]),
        evaluate=options["evaluate"],
        wanted=Wanted(
            options["save_counts"],
            options["save_transcript"],
            candidates,
            _prompts(options["prompts"]),
        ),
        device=options["device"],
        suite=Suite[options["suite"].upper()],
    )
    with ProgressBars() as progress:
        return run_local(settings, progress), settings.out / "model"


def _prompts(file: Path | None) -> tuple[str, ...]:
    """Return the lines of a file of prompts. Raises ConfigError naming it."""
    if file is None:
        return ()
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--prompts: {file}: {error}", hint="name a text file with a prompt a line") from None
    if not any(line.strip() for line in lines):
        raise ConfigError(f"--prompts: {file}: has no prompt", hint="write a prompt a line")
    return tuple(line for line in lines if line.strip())


def _asked(options: Mapping[str, Any]) -> PlanOptions:
    """Return what the command line asks of the plan. Raises ConfigError or PlanError."""
    asked = PlanOptions(
        phase_seconds=options["phase_timeout"],
        preparation_seconds=PREPARATION_SECONDS,
        **{option.name: _value(option, options[option.name]) for option in _LOCAL_OPTIONS},
    )
    if asked.pattern is not None and not (asked.sparsity_ratio is None and asked.comparison_group is None):
        given = "--comparison-group" if asked.sparsity_ratio is None else "--sparsity-ratio"
        raise ConfigError(f"{given}: cannot be given with --pattern, which says it all", hint="leave out one of them")
    if asked.pattern is not None:
        Pattern.parse(asked.pattern)  # found wrong here, before the model is looked at
    if options["save_counts"] and release_spec(asked.release).pools:
        raise ConfigError(
            f"--save-counts: nobody votes in {asked.release} rounds", hint="add --release votes, or leave it out"
        )
    return asked


def _value(option: PlanOption, given: Any) -> Any:
    """Return what click made of an option, as the option's kind."""
    if option.by_silo:
        return _by_silo(option.flag, given, parse_ratio if option.kind is Decimal else int)
    if given is None:
        return None
    return parse_ratio(given) if option.kind is Decimal else option.kind(given)


def _by_silo(flag: str, texts: Sequence[str], parse: Callable[[str], object]) -> dict[str, object]:
    values = {}
    for text in texts:
        silo, _, value = text.partition("=")
        try:
            values[silo] = parse(value)
        except ValueError:
            raise ConfigError(f"{flag}: {text!r} is not SILO=NUMBER") from None
    return values


def _candidate(text: str) -> tuple[str, Path]:
    name, _, file = text.partition("=")
    if not name or not file:
        raise ConfigError(f"--candidate: {text!r} is not NAME=FILE")
    return name, Path(file)
