"""`silo-agent`: prune locally, or take part in a run."""

import logging
import signal
import sys
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Final

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from crypto.errors import OutputError, SparsiloError
from crypto.names import ComparisonGroup, Pruner
from crypto.plan import parse_ratio

USAGE_EXIT: Final = 4
LOG_FORMAT: Final = "%(asctime)s %(levelname)s %(message)s"


def named(kind: type[StrEnum]) -> click.Choice[str]:
    """A choice among an enumeration's values; click's own would offer its members' names."""
    return click.Choice([member.value for member in kind])


def run_command(command: click.Command) -> None:
    """The process edge: every error is one line on stderr, with the exit code that the contract gives it."""
    try:
        # click returns the exit code itself where it printed --help or the like.
        code = command.main(standalone_mode=False, auto_envvar_prefix="SPARSILO")
    except SparsiloError as error:
        fail(str(error), error.exit_code)
    except click.ClickException as error:
        fail(error.format_message(), USAGE_EXIT)
    except (click.Abort, KeyboardInterrupt):
        fail("interrupted", 1)
    except OSError as error:  # a full disk, a folder without permission: nobody's bug
        fail(f"{error.filename or 'the system'}: {error.strerror}", 1)
    sys.exit(code if isinstance(code, int) else 0)


def fail(message: str, code: int) -> None:
    """Says what is wrong on one line of stderr and ends the process."""
    click.echo(f"error: {' '.join(message.split())}", err=True)
    sys.exit(code)


class ProgressBars(AbstractContextManager["ProgressBars"]):
    """A bar a task on stderr, on a terminal only; elsewhere nothing."""

    def __init__(self) -> None:
        console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> "ProgressBars":
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._progress.stop()

    def __call__(self, task: str, done: int, total: int) -> None:
        """`task` stands at `done` of `total`."""
        if task not in self._tasks:
            self._tasks[task] = self._progress.add_task(task, total=total)
        self._progress.update(self._tasks[task], completed=done, total=total)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="sparsilo")
def cli() -> None:
    """One silo's side of Sparsilo: your text stays here, only masked integers leave."""


@cli.command()
@click.option("--model", required=True, type=click.Path(path_type=Path), help="Folder of the dense model.")
@click.option("--calibration", required=True, type=click.Path(path_type=Path), help="Calibration text, .txt or .jsonl.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="File to write: bool tensors, True = kept.")
@click.option("--pruner", type=named(Pruner), default=Pruner.WANDA.value, show_default=True)
@click.option("--sparsity-ratio", default="0.5", show_default=True, help="Fraction of weights set to zero, in [0, 1).")
@click.option(
    "--comparison-group",
    type=named(ComparisonGroup),
    default=ComparisonGroup.ROW.value,
    show_default=True,
    help="Weights whose scores are compared with each other. Wanda's own is row, and what silos of a run use.",
)
@click.option("--samples", type=click.IntRange(1), default=128, show_default=True, help="Calibration sequences.")
@click.option(
    "--sequence-length", type=click.IntRange(2), help="Tokens a sequence.  [default: 2048 or the model's most]"
)
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda, cuda:1, ...")
def prune(
    model: Path,
    calibration: Path,
    out: Path,
    pruner: str,
    sparsity_ratio: str,
    comparison_group: str,
    samples: int,
    sequence_length: int | None,
    device: str,
) -> None:
    """Prune the model with local text only, no network, and write its keep masks.

    \b
    Example:
      silo-agent prune --model llama --calibration notes.txt --out keep_mask.safetensors --sparsity-ratio 0.6
    """
    ratio = parse_ratio(sparsity_ratio)
    if out.exists() or not out.parent.is_dir():
        raise OutputError(f"{out}: exists, or its folder does not", hint="name a new file in an existing folder")
    from silo_agent.calibration import read_sequences, usual_length
    from silo_agent.dense_weights import DenseWeights
    from silo_agent.device import named_device
    from silo_agent.prune import keep_masks, write_keep_masks

    where = named_device(device)
    weights = DenseWeights.open(model)
    length = usual_length(weights.config, sequence_length)
    sequences, _ = read_sequences(calibration, weights.tokenizer, samples=samples, sequence_length=length)
    with ProgressBars() as progress:
        masks = keep_masks(
            weights,
            sequences,
            sparsity_ratio=ratio,
            group=ComparisonGroup(comparison_group),
            device=where,
            progress=lambda done, total: progress("pruning blocks", done, total),
        )
        write_keep_masks(out, masks)
    click.echo(
        f"{out}: keep masks of {len(weights.prunable)} weights, {pruner} at sparsity ratio {sparsity_ratio}", err=True
    )


@cli.command()
@click.option("--config", required=True, type=click.Path(path_type=Path), help="The agent's YAML config file.")
def run(config: Path) -> None:
    """Take part in a run: dial the aggregator, check every plan, prune, and send masked words."""
    from prometheus_client import CollectorRegistry

    from silo_agent.config import AgentConfig, read_tls
    from silo_agent.health import serve_health
    from silo_agent.metrics import RoundMetrics
    from silo_agent.round_driver import Agent
    from silo_agent.transport import Transport

    logging.basicConfig(level=logging.INFO, format=LOG_FORMAT, stream=sys.stderr)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    settings = AgentConfig.read(config)
    own, authority = read_tls(settings, datetime.now(UTC))
    registry = CollectorRegistry()
    metrics = RoundMetrics(registry, "silo")
    transport = Transport(
        settings.aggregator,
        own,
        authority,
        metrics,
    )
    ready = False
    port = serve_health(registry, lambda: ready, settings.metrics_host, settings.metrics_port)
    logging.getLogger(__name__).info("metrics on http://%s:%d/metrics", settings.metrics_host, port)
    with ProgressBars() as progress:
        agent = Agent(settings, transport, metrics, progress)
        ready = True
        try:
            agent.run()
        finally:
            transport.close()


def main() -> None:
    """Console script."""
    run_command(cli)


if __name__ == "__main__":
    main()
