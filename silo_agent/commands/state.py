"""`silo-agent state`: what the state folder holds of earlier runs."""

import os
from pathlib import Path

import click

from silo_agent.host.terminal import config_options, failing_as, output_option, print_pruned


@click.group()
def state() -> None:
    """Look after what this silo's state folder holds of earlier runs."""


@state.command()
@click.option("--keep", type=click.IntRange(0), default=0, metavar="N", help="Keep those of the last N runs.")
@config_options
@output_option
def prune(keep: int, config: Path, settings: tuple[str, ...], output: str) -> None:
    """Remove the folders of earlier runs: keep masks, sums, and transcripts for `verify --own`.

    Where an agent runs, that of the last run stays. Ledger, decisions, audit log and accusations are not touched.
    `retention` in agent.yaml does the same with every new plan.

    \b
    Example:
      silo-agent state prune --keep 5 --config agent.yaml
    """
    from silo_agent.config import AgentConfig
    from silo_agent.host.owned_folder import FolderTaken, owned_folder
    from silo_agent.rounds.run_files import prune_runs

    with failing_as(output):
        folder = AgentConfig.read(config, os.environ, settings).state
        try:
            with owned_folder(folder):
                pruned = prune_runs(folder, keep)
        except FolderTaken:
            pruned = prune_runs(folder, max(1, keep))
    print_pruned(pruned, output)
