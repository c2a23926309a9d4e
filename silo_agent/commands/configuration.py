"""`silo-agent config show` and `silo-agent support-bundle`; and `config show` for the aggregator's command line."""

import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from silo_agent.host.terminal import FILE, config_options, failing_as, output_option, print_envelope


def config_group(kind: Callable[[], Any]) -> click.Group:
    """`config show` for the config class that `kind` imports."""

    @click.group("config")
    def group() -> None:
        """Show the config as it takes effect."""

    @group.command()
    @config_options
    @click.option("--origin", is_flag=True, help="Also say where each value comes from.")
    @output_option
    def show(config: Path, settings: tuple[str, ...], origin: bool, output: str) -> None:
        """Show every field's value.

        --set beats the environment (SPARSILO_ and the field's name in capitals), that beats the file, and that the
        default.
        """
        from silo_agent.commands.support_bundle import config_fields
        from silo_agent.host.layered_config import read_config

        with failing_as(output):
            found = config_fields(*read_config(kind(), config, os.environ, settings))
        if output == "json":
            print_envelope("done", data=found)
            return
        width = max(map(len, found))
        longest = max(len(field["value"]) for field in found.values())
        for name, field in found.items():
            from_where = f"  {field['origin']}" if origin else ""
            click.echo(f"{name:<{width}}  {field['value']:<{longest if origin else 0}}{from_where}")

    return group


def _agent_config() -> Any:
    from silo_agent.config import AgentConfig

    return AgentConfig


config = config_group(_agent_config)


@click.command("support-bundle")
@config_options
@click.option("--out", required=True, type=FILE, help="File to write, .tar.gz.")
def support_bundle(config: Path, settings: tuple[str, ...], out: Path) -> None:
    """Collect what support needs to see.

    Versions, config, policy, preflight's lines and the last audit events; no key, no text, no keep mask, no password.
    Look into it before you send it.
    """
    from silo_agent.commands.preflight import check_agent
    from silo_agent.commands.support_bundle import write_bundle
    from silo_agent.config import AgentConfig
    from silo_agent.host.layered_config import read_config

    agent, origins = read_config(AgentConfig, config, os.environ, settings)
    checks = check_agent(config, datetime.now(UTC), settings)
    for name in write_bundle(out, agent, origins, checks):
        click.echo(f"{out}: {name}", err=True)
