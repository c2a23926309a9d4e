"""`aggregator`: run rounds over silos."""

import click

from aggregator.commands import containers, local, results, runs, silos
from aggregator.config import AggregatorConfig
from silo_agent.host.terminal import completion_command, run_command
from silo_agent.settings.config_command import config_group


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="sparsilo")
def cli() -> None:
    """The aggregator's side of Sparsilo: opens sums over silos, and nothing else."""


for _command in (
    *(runs.serve, runs.plan, runs.rounds, runs.state, silos.invite, silos.silos),
    *(config_group(AggregatorConfig), completion_command("aggregator", cli)),
    *(results.result, local.local, containers.pack, containers.unpack),
):
    cli.add_command(_command)


def main() -> None:
    """Run the console script `aggregator`."""
    run_command(cli)


if __name__ == "__main__":
    main()
