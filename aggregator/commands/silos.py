"""`aggregator invite` and `aggregator silos`: who may take part."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click

from crypto.errors import ConfigError, OutputError
from crypto.plan import SILO_NAME
from silo_agent.host.terminal import FILE, config_options, failing_as, output_option, print_envelope, print_fields


@click.command()
@config_options
@click.option("--silo", required=True, help="Name that the silo gets in the roster: a-z, 0-9 and -.")
@click.option("--out", required=True, type=FILE, help="File to write, for that silo's people only.")
@click.option("--valid-hours", type=click.IntRange(1, 24 * 30), default=72, show_default=True)
@output_option
def invite(config: Path, settings: tuple[str, ...], silo: str, out: Path, valid_hours: int, output: str) -> None:
    """Invite a silo: one file, good for one enrolment.

    Send the file to the silo's people, and tell them its fingerprint over another channel, such as the telephone.

    \b
    Example:
      aggregator invite --config aggregator.yaml --silo hospital-a --out hospital-a.yaml
    """
    from hashlib import sha256

    from aggregator.config import AggregatorConfig
    from aggregator.silos.enrolments import Enrolments
    from aggregator.silos.server_identity import ServerIdentity
    from crypto.identity import read_peer
    from silo_agent.host.credential_files import write_secret
    from silo_agent.network.fingerprint import grouped
    from silo_agent.network.invitation import Invitation

    with failing_as(output):
        if not SILO_NAME.fullmatch(silo):
            raise ConfigError(f"--silo: {silo!r} is no name", hint="1 to 63 of a-z, 0-9 and -")
        if out.exists() or not out.parent.is_dir():
            raise OutputError(f"{out}: exists, or its folder does not", hint="name a new file in an existing folder")
        aggregator = AggregatorConfig.read(config, os.environ, settings)
        now = datetime.now(UTC)
        identity = ServerIdentity(aggregator, lambda: now)
        own = identity.authority.issue(silo, now=now, lifetime=timedelta(hours=valid_hours), invitation=True)
        peer = read_peer(own.certificate)
        Enrolments(aggregator.state).invite(silo, peer.serial)
        invitation = Invitation(
            *(silo, aggregator.public_address, aggregator.suite.profile, f"{peer.end:%Y-%m-%d %H:%M} UTC"),
            *(own.certificate.decode(), own.private_key.decode(), identity.trusted.decode()),
        )
        write_secret(out, invitation.to_bytes())
        fingerprint = sha256(invitation.to_bytes()).digest()
    if output == "json":
        data = {"silo": silo, "file": str(out), "fingerprint": fingerprint.hex(), "expires": invitation.expires}
        print_envelope("done", data=data)
        return
    print_fields({"invitation": f"{out}, for {silo}, until {invitation.expires}", "fingerprint": grouped(fingerprint)})


@click.group()
def silos() -> None:
    """List the silos that enrolled, and revoke one."""


@silos.command("list")
@config_options
@output_option
def list_silos(config: Path, settings: tuple[str, ...], output: str) -> None:
    """List the silos that enrolled, and whether each has signed the present roster."""
    from aggregator.config import AggregatorConfig
    from aggregator.silos.enrolments import Enrolments
    from crypto.roster import fingerprint

    with failing_as(output):
        enrolments = Enrolments(AggregatorConfig.read(config, os.environ, settings).state)
        present = fingerprint(enrolments.roster())
        signed = enrolments.signatures(present)
        rows = [
            {
                "silo": silo.silo,
                "signing_key": silo.signing_key.hex(),
                "enrolled": silo.enrolled.isoformat(timespec="seconds"),
                "revoked": silo.revoked and silo.revoked.isoformat(timespec="seconds"),
                "signed_roster": silo.silo in signed and silo.revoked is None,
            }
            for silo in enrolments.silos()
        ]
    if output == "json":
        print_envelope("done", data={"roster": present.hex(), "silos": rows})
        return
    width = max([len(str(row["silo"])) for row in rows], default=0)
    for row in rows:
        state = "revoked" if row["revoked"] else "signed" if row["signed_roster"] else "enrolled"
        click.echo(f"{row['silo']:<{width}}  {state:<8}  {row['signing_key']}")
    click.echo(f"roster: {present.hex()}")


@silos.command()
@config_options
@click.argument("silo")
def revoke(config: Path, settings: tuple[str, ...], silo: str) -> None:
    """Stop answering a silo, also on a connection that it has.

    A running round goes on without it. The others pin a new roster before the next run.
    """
    from aggregator.config import AggregatorConfig
    from aggregator.silos.enrolments import Enrolments

    Enrolments(AggregatorConfig.read(config, os.environ, settings).state).revoke(silo, datetime.now(UTC))
    click.echo(f"{silo}: revoked. The roster is another one now: every silo has to pin it.", err=True)
