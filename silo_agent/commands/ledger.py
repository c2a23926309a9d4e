"""`silo-agent ledger`: what this silo has released."""

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

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

    Its agent holds every further round against that. Sums of the same text over different silos can be combined until
    one silo's part is left, so all of them are over the same silos or are refused.

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
    releases: list[dict[str, Any]] = [
        {
            "round": release.round.hex(),
            "kind": release.kind,
            "data": release.data.hex(),
            "block": release.block,
            "silos": list(release.silos),
            "sent": release.sent,
            "survivors": None if release.survivors is None else sorted(release.survivors),
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
        print_fields({**release, **_in_words(release)})
        click.echo()
    click.echo(f"releases: {len(releases)}")


def _in_words(release: dict[str, Any]) -> dict[str, object]:
    """Return the fields of a release that a person reads otherwise than a program."""
    survivors = release["survivors"]
    return {
        "block": "all" if release["block"] is None else release["block"],
        "silos": f"{len(release['silos'])} silos",
        "sent": "yes" if release["sent"] else "no",
        "survivors": "unknown to this silo" if survivors is None else ", ".join(survivors),
    }


def _digest(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise ConfigError(f"--forget: {text!r} is not a round digest in hex", hint="as this command lists it") from None
