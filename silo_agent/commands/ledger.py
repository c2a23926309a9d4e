"""`silo-agent ledger`: what this silo has released, what that spent, and of which rounds it accuses the aggregator."""

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from math import isinf
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from crypto.errors import ConfigError, InputError
from silo_agent.host.terminal import config_options, failing_as, output_option, print_envelope, print_fields, user

if TYPE_CHECKING:  # --help need not wait for it
    from silo_agent.consent.ledger import Release
    from silo_agent.consent.policy import Policy
    from silo_agent.consent.privacy_ledger import Spent


@click.command()
@config_options
@click.option(
    "--forget", metavar="ROUND", help="Remove the release of this round, 64 hex digits; says what that risks."
)
@click.option("--dismiss", metavar="ROUND", help="Take back the accusation of this round, 64 hex digits.")
@output_option
def ledger(config: Path, settings: tuple[str, ...], forget: str | None, dismiss: str | None, output: str) -> None:
    """Show what this silo has released, what that spent, and of which rounds it accuses the aggregator.

    Its agent holds every further round against the releases. Sums of the same text over different silos can be combined
    until one silo's part is left, so all of them are over the same silos or are refused.

    Epsilon bounds what the releases of an epoch tell of one person or record: text by text, and of all texts together.
    None of it is given back, whatever is forgotten.

    The accusations are rounds that ended although this silo had signed what they opened, as a round with a forged sum
    would. A round that is under way may be among them. With as many as the policy says the agent refuses every plan.

    \b
    Example:
      silo-agent ledger --config agent.yaml
    """
    from silo_agent.config import AgentConfig
    from silo_agent.consent.accusations import Accusations
    from silo_agent.consent.audit_log import AuditLog
    from silo_agent.consent.ledger import FORGOTTEN
    from silo_agent.consent.policy import Policy
    from silo_agent.consent.privacy_ledger import PrivacyLedger
    from silo_agent.consent.state_store import STATE_FILE, StateStore

    with failing_as(output):
        agent = AgentConfig.read(config, os.environ, settings)
        store, accusations = StateStore(agent.state / STATE_FILE), Accusations(agent.state)
        spent, policy = PrivacyLedger(agent.state).spent(), None
        with suppress(InputError):  # what was spent is shown also where the policy cannot be read
            policy = Policy.read(agent.policy)
        for option, round_, change, event in (
            ("--forget", forget, store.forget, "ledger_forgotten"),
            ("--dismiss", dismiss, accusations.dismiss, "accusation_dismissed"),
        ):
            if round_ is not None:
                change(_digest(option, round_))
                AuditLog(agent.state).append(event, user(), datetime.now(UTC), round=round_)
        released, accused = store.releases(), accusations.standing()
    releases = [_fields(release) for release in released]
    evidence = {round_.hex(): accusations.evidence(round_) for round_ in accused}
    standing = [{"round": name, "evidence": str(file) if file.exists() else None} for name, file in evidence.items()]
    privacy = list(_privacy(spent, policy))
    forgotten = {"forgotten": forget, "risk": FORGOTTEN} if forget else {}
    if output == "json":
        print_envelope("done", data={"releases": releases, "privacy": privacy, "accusations": standing, **forgotten})
    elif forget or dismiss:
        if forget:
            click.echo(f"{forget}: forgotten. {FORGOTTEN}")
        if dismiss:
            click.echo(f"{dismiss}: dismissed")
    else:
        _print(releases, privacy, standing)


def _print(releases: list[dict[str, Any]], privacy: list[dict[str, Any]], standing: list[dict[str, Any]]) -> None:
    for release in releases:
        print_fields({**release, **_in_words(release)})
        click.echo()
    click.echo(f"releases: {len(releases)}")
    for spend in privacy:
        click.echo()
        print_fields(_spend_in_words(spend))
    for accusation in standing:
        click.echo()
        print_fields({**accusation, "evidence": accusation["evidence"] or "none: the agent was ended"})
    click.echo(f"accusations: {len(standing)}")


def _privacy(spent: "Sequence[Spent]", policy: "Policy | None") -> Iterator[dict[str, Any]]:
    """Yield what was spent as the JSON document has it: epoch by epoch text by text, then all texts together."""
    from crypto.privacy.accountant import USUAL_DELTA
    from silo_agent.consent.privacy_ledger import epsilon_of, without_noise

    delta = policy.shown_delta if policy else USUAL_DELTA
    for epoch in dict.fromkeys(release.epoch for release in spent):
        of_epoch = [release for release in spent if release.epoch == epoch]
        for data in (*dict.fromkeys(release.data for release in of_epoch), None):
            of_text = [release for release in of_epoch if data in (release.data, None)]
            epsilon = epsilon_of(of_text, delta)
            cap = policy.epsilon if policy and (epoch, data) == (policy.epoch, None) else None
            yield {
                "epoch": epoch,
                "data": data.hex() if data else None,
                "rounds": len(of_text),
                "without_noise": without_noise(of_text),
                "epsilon": None if isinf(epsilon) else epsilon,
                "delta": delta,
                "left": max(0.0, cap - epsilon) if cap else None,
            }


def _spend_in_words(spend: dict[str, Any]) -> dict[str, object]:
    """Return what was spent as a person reads it."""
    epsilon = f"{spend['epsilon']:.6g}" if spend["epsilon"] is not None else "unlimited"
    exact = f": {spend['without_noise']} rounds without noise" if spend["without_noise"] else ""
    left = {} if spend["left"] is None else {"left": f"{spend['left']:.6g}"}
    return {
        "epoch": spend["epoch"] or "without a name",
        "data": spend["data"] or "all of the epoch",
        "rounds": spend["rounds"],
        "epsilon": f"{epsilon}{exact}",
        "delta": f"{spend['delta']:g}",
        **left,
    }


def _fields(release: "Release") -> dict[str, Any]:
    """Return a release as the JSON document has it."""
    return {
        "round": release.round.hex(),
        "kind": release.kind,
        "data": release.data.hex(),
        "block": release.block,
        "silos": list(release.silos),
        "sent": release.sent,
        "withdrawn": release.withdrawn,
        "survivors": None if release.survivors is None else sorted(release.survivors),
    }


def _in_words(release: dict[str, Any]) -> dict[str, object]:
    """Return the fields of a release that a person reads otherwise than a program."""
    survivors = release["survivors"]
    return {
        "block": "all" if release["block"] is None else release["block"],
        "silos": f"{len(release['silos'])} silos",
        "sent": "yes" if release["sent"] else "no",
        "withdrawn": "enough silos: nobody opens it, and it may be repeated" if release["withdrawn"] else "no",
        "survivors": "unknown to this silo" if survivors is None else ", ".join(survivors),
    }


def _digest(option: str, text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise ConfigError(f"{option}: {text!r} is not a round digest in hex", hint="as this command lists it") from None
