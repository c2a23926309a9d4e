"""`silo-agent preflight`: check before a round what would stop this silo in it."""

from datetime import UTC, datetime
from pathlib import Path

import click

from silo_agent.host.terminal import config_options, described, output_option, print_envelope


@click.command()
@config_options
@output_option
@click.option("--offline", is_flag=True, help="Leave out the network: nothing leaves this machine.")
def preflight(config: Path, settings: tuple[str, ...], output: str, offline: bool) -> None:
    """Check before a round what would stop this silo in it.

    Reads the config, policy, keys, roster, certificates, model and calibration text, opens the state folder, and looks
    whether the aggregator can be reached: name, proxy, TLS and clock. Also says what crypto library it stands on. Every
    line that failed says what to do. Exits with the code of the first check that failed.

    \b
    Example:
      silo-agent preflight --config agent.yaml
    """
    from silo_agent.commands.checks.all_checks import check_agent

    checks = check_agent(config, datetime.now(UTC), settings, online=not offline)
    error = next((check.error for check in checks if check.error), None)
    if output == "table":
        for check in checks:
            click.echo(f"{check.status:<8} {check.name:<15} {check.message}")
    else:
        lines = [{"check": check.name, "status": check.status, "message": check.message} for check in checks]
        outcome = {"error": described(error)} if error else {}
        print_envelope("failed" if error else "done", data={"checks": lines}, **outcome)
    if error:
        raise error
