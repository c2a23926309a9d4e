"""`silo-agent`: prune locally, or take part in a run. Every command is a module of `silo_agent/commands`."""

import click

from silo_agent.commands.approval import approve, audit, pending, reject
from silo_agent.commands.gain import gain
from silo_agent.commands.identity import enroll, roster
from silo_agent.commands.ledger import ledger
from silo_agent.commands.preflight import preflight
from silo_agent.commands.prune import prune
from silo_agent.commands.result import result
from silo_agent.commands.run import run
from silo_agent.commands.state import state
from silo_agent.commands.support_bundle import support_bundle
from silo_agent.commands.verify import verify
from silo_agent.config import AgentConfig
from silo_agent.host.terminal import completion_command, run_command
from silo_agent.settings.config_command import config_group


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="sparsilo")
def cli() -> None:
    """One silo's side of Sparsilo: your text stays here, only masked integers leave."""


for _command in (
    *(prune, gain, run, result, verify, preflight, ledger),
    *(enroll, roster, pending, approve, reject, audit, state, support_bundle),
    *(config_group(AgentConfig), completion_command("silo-agent", cli)),
):
    cli.add_command(_command)


def main() -> None:
    """Run as the console script `silo-agent`."""
    run_command(cli)


if __name__ == "__main__":
    main()
