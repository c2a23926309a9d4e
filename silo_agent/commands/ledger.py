"""`silo-agent ledger`: what this silo has released."""

import os
from datetime import UTC, datetime
from pathlib import Path

import click

from crypto.errors import ConfigError
from silo_agent.host.terminal import config_options, failing_as, output_option, print_envelope, print_fields, user


@click.command()
@config_options
@click.option(
    "--forget", metavar="ROUND", help="Remove the release of this round, 64 hex digits; says what that risks."
)
@output_option
def ledger(config: Path, settings: tuple[str, ...], forget: str | None, output: str) -> None:
    """Show what this silo has released.

    Its agent holds every further round against that. Two sums over the same text that differ by one silo give away
    that silo's part, so the agent refuses a question it has answered, and rosters or survivors that differ by one
    from an earlier release's.

    \b
    Example:
      silo-agent ledger --config agent.yaml
    """
    from silo_agent.config import AgentConfig
    from silo_agent.consent.audit_log import AuditLog
    from silo_agent.consent.ledger import FORGOTTEN
    from silo_agent.consent.state_store import STATE_FILE, StateStore

    with failing_as(output):
        agent = AgentConfig.read(config, os.environ, settings)
        store = StateStore(agent.state / STATE_FILE)
        if forget is not None:
            store.forget(_digest(forget))
            AuditLog(agent.state).append("ledger_forgotten", user(), datetime.now(UTC), round=forget)
        released = store.releases()
    releases = [
        {
            "round": release.round.hex(),
            "kind": release.kind,
            "question": release.question.hex(),
            "data": release.data.hex(),
            "roster": list(release.roster),
            "survivors": list(release.survivors),
        }
        for release in released
    ]
    forgotten = {"forgotten": forget, "risk": FORGOTTEN} if forget else {}
    if output == "json":
        print_envelope("done", data={"releases": releases, **forgotten})
        return
    if forget:
        click.echo(f"{forget}: forgotten. {FORGOTTEN}")
        return
    for release in releases:
        roster, survivors = len(release["roster"]), ", ".join(release["survivors"])
        print_fields({**release, "roster": f"{roster} silos", "survivors": survivors or "none that this silo signed"})
        click.echo()
    click.echo(f"releases: {len(releases)}")


def _digest(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise ConfigError(f"--forget: {text!r} is not a round digest in hex", hint="as this command lists it") from None
