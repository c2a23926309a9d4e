"""`silo-agent enroll` and `silo-agent roster`: how a silo joins, and whom it agrees to be summed with."""

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from crypto.errors import ConfigError, IdentityError
from silo_agent.host.terminal import FILE, config_options, failing_as, output_option, print_envelope, print_fields, user

if TYPE_CHECKING:  # --help need not wait for gRPC
    from silo_agent.config import AgentConfig
    from sparsilo.v1 import identity_pb2


@click.command()
@click.option("--invitation", required=True, type=FILE, help="The file that the aggregator's people sent.")
@click.option(
    "--fingerprint", required=True, help="Of the invitation, told over another channel than the file: 64 hex digits."
)
@click.option("--out", required=True, type=FILE, help="Folder to make: keys, certificates, agent.yaml, policy.yaml.")
@click.option("--model", type=FILE, help="Folder of the dense model; the policy then trusts it.")
@click.option("--calibration", type=FILE, help="This silo's text, .txt or .jsonl; it stays where it is.")
@click.option("--certificate", type=FILE, help="Your own TLS certificate, where your institution issues them.")
@click.option("--private-key", type=FILE, help="Its private key.")
@click.option("--authority", type=FILE, help="With them: the authority that the aggregator's certificate comes from.")
@click.option("--state", type=FILE, help="The agent's state folder, for the audit log.  [default: state in OUT]")
@click.option("--proxy", default="", help="URL of the HTTP proxy to dial through.  [default: from the environment]")
@click.option("--proxy-file", type=FILE, help="A file that holds this URL, where it has a password.")
@click.option("--once", is_flag=True, help="Where OUT has an identity already, do nothing and succeed.")
@output_option
def enroll(
    invitation: Path,
    fingerprint: str,
    out: Path,
    model: Path | None,
    calibration: Path | None,
    certificate: Path | None,
    private_key: Path | None,
    authority: Path | None,
    state: Path | None,
    proxy: str,
    proxy_file: Path | None,
    once: bool,
    output: str,
) -> None:
    """Join a federation with an invitation.

    Makes this silo's keys on this machine, where they stay, and registers their public halves. Nothing is sent before
    the invitation's fingerprint has been compared: ask for it by telephone. With --model and --calibration it also
    writes agent.yaml, and a policy.yaml in which a person approves every plan.

    \b
    Example:
      silo-agent enroll --invitation invitation.yaml --fingerprint 3f2a... --out silo --model llama --calibration n.txt
    """
    from silo_agent.config import SIGNING_KEY
    from silo_agent.consent.audit_log import AuditLog
    from silo_agent.identity.enrolment import Enrolment, agent_config, policy_file
    from silo_agent.network.dialled import dialled
    from silo_agent.network.fingerprint import grouped
    from silo_agent.network.invitation import Invitation
    from silo_agent.network.proxy import proxy_setting
    from silo_agent.settings.layered_config import config_file
    from sparsilo.v1 import identity_pb2

    if once and (out / SIGNING_KEY).exists():
        click.echo(f"{out}: has an identity already", err=True)
        return
    own_files = [file.absolute() for file in (certificate, private_key, authority) if file is not None]
    if len(own_files) not in (0, 3):
        raise ConfigError("--certificate, --private-key and --authority go together", hint="give all three or none")
    own = (own_files[0], own_files[1], own_files[2]) if own_files else None
    with failing_as(output):
        now = datetime.now(UTC)
        invited = Invitation.read(invitation, fingerprint, now)
        files = {}
        if model is not None and calibration is not None:
            from silo_agent.checkpoint.dense_weights import DenseWeights
            from silo_agent.consent.policy import trusted_digest

            trusted = trusted_digest(DenseWeights.open(model))
            config = agent_config(invited, model.absolute(), calibration.absolute(), own)
            files["agent.yaml"] = config_file(config, stated=("suite", "renew_certificate"))
            files["policy.yaml"] = policy_file(trusted)
        enrolment = Enrolment(invited, out, own)
        setting = proxy_setting(proxy, proxy_file)
        with dialled(invited.aggregator, invited.own, invited.authority.encode(), setting) as transport:
            reply = transport.identify("Enroll", enrolment.request, identity_pb2.EnrollReply)
        public = enrolment.finish(reply, now, files)
        AuditLog(state or out / "state").append("enrolled", user(), now, silo=invited.silo, signing_key=public.hex())
    if output == "json":
        print_envelope("done", data={"silo": invited.silo, "out": str(out), "signing_key": public.hex()})
        return
    print_fields({"enrolled": invited.silo, "keys": str(out), "signing key": grouped(public)})
    click.echo("Next: silo-agent roster show, once all institutions have enrolled.", err=True)


@click.group()
def roster() -> None:
    """Show, pin and verify the roster.

    It lists the silos, and only those, that you are summed with.
    """


@roster.command()
@config_options
@output_option
def show(config: Path, settings: tuple[str, ...], output: str) -> None:
    """Show the roster that the aggregator proposes.

    Compare the fingerprint, or the keys one by one, with the other institutions by telephone: it is what keeps the
    aggregator from adding a silo of its own.
    """
    from crypto.roster import fingerprint
    from silo_agent.identity.own_files import read_roster
    from silo_agent.identity.pinned_roster import enrolled, signed

    with failing_as(output):
        agent, reply = _shown_roster(config, settings)
        proposed, signatures = enrolled(reply), signed(reply, agent.suite)
        pinned = read_roster(agent.roster, agent.suite) if agent.roster.exists() else {}
    digest = fingerprint(proposed).hex()
    silos = [
        {
            "silo": silo,
            "signing_key": key.hex(),
            "signed": signatures[silo],
            "pinned": pinned.get(silo) == key,
        }
        for silo, key in proposed.items()
    ]
    if output == "json":
        print_envelope("done", data={"fingerprint": digest, "pinned": pinned == proposed, "silos": silos})
        return
    width = max([len(silo) for silo in proposed], default=0)
    for row in silos:
        marks = f"{'signed' if row['signed'] else '-':<7} {'pinned' if row['pinned'] else '-':<7}"
        click.echo(f"{row['silo']:<{width}}  {marks} {row['signing_key']}")
    click.echo(f"fingerprint: {digest}")


@roster.command()
@config_options
@click.option("--fingerprint", required=True, help="Of the roster that all institutions agreed on: 64 hex digits.")
@output_option
def pin(config: Path, settings: tuple[str, ...], fingerprint: str, output: str) -> None:
    """Write the roster down, and sign it.

    From then on this silo takes part only in rounds over exactly this roster.
    """
    from silo_agent.config import AgentConfig
    from silo_agent.consent.audit_log import AuditLog
    from silo_agent.host.credential_files import read_signing_key
    from silo_agent.identity import pinned_roster
    from silo_agent.identity.own_certificate import connected
    from sparsilo.v1 import identity_pb2

    with failing_as(output):
        agent = AgentConfig.read(config, os.environ, settings)
        key = read_signing_key(agent.signing_key, agent.suite)
        with connected(agent, datetime.now(UTC)) as transport:
            reply = transport.identify("Roster", identity_pb2.RosterRequest(), identity_pb2.RosterReply)
            proposed = pinned_roster.enrolled(reply)
            signature = pinned_roster.pin(agent.roster, proposed, fingerprint, agent.silo, key)
            transport.identify("SignRoster", signature, identity_pb2.SignRosterReply)
        pinned = {"fingerprint": signature.fingerprint.hex(), "silos": sorted(proposed)}
        AuditLog(agent.state).append("roster_pinned", user(), datetime.now(UTC), **pinned)
    if output == "json":
        print_envelope("done", data=pinned)
        return
    click.echo(f"{agent.roster}: {len(proposed)} silos pinned and signed")


@roster.command()
@config_options
@output_option
def verify(config: Path, settings: tuple[str, ...], output: str) -> None:
    """Check that the aggregator shows the pinned roster, and that every member has signed it."""
    from silo_agent.identity.own_files import read_roster
    from silo_agent.identity.pinned_roster import verify_pinned

    with failing_as(output):
        agent, reply = _shown_roster(config, settings)
        if not agent.roster.exists():
            raise IdentityError(f"{agent.roster}: no roster is pinned", hint="silo-agent roster show, then pin")
        pinned = read_roster(agent.roster, agent.suite)
        verify_pinned(pinned, reply, agent.suite)
    if output == "json":
        print_envelope("done", data={"silos": sorted(pinned)})
        return
    click.echo(f"{agent.roster}: {len(pinned)} silos, each of which has signed it")


def _shown_roster(config: Path, settings: tuple[str, ...]) -> "tuple[AgentConfig, identity_pb2.RosterReply]":
    """Return the agent's config, and the roster that the aggregator shows it."""
    from silo_agent.config import AgentConfig
    from silo_agent.identity.own_certificate import connected
    from sparsilo.v1 import identity_pb2

    agent = AgentConfig.read(config, os.environ, settings)
    with connected(agent, datetime.now(UTC)) as transport:
        return agent, transport.identify("Roster", identity_pb2.RosterRequest(), identity_pb2.RosterReply)
