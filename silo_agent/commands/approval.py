"""`silo-agent pending`, `approve`, `reject` and `audit`: a person decides what may leave, and sees what did."""

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from crypto.errors import ConfigError, InputError
from silo_agent.host.terminal import FILE, config_options, failing_as, output_option, print_envelope, print_fields, user

if TYPE_CHECKING:
    from silo_agent.config import AgentConfig
    from silo_agent.consent.state_store import OfferedPlan, StateStore

FEWEST_DIGITS: Final = 16
"""Of a plan's digest, as far as it has to be typed: whoever makes plans tries 2^32 of them in a minute, not 2^64."""

PAGE, MARGIN = 120, 24

by_option = click.option("--by", help="Whose decision it is, for the audit log.  [default: the system's user]")


@click.command()
@config_options
@click.option("--all", "everything", is_flag=True, help="Also those that were decided on.")
@output_option
def pending(config: Path, settings: tuple[str, ...], everything: bool, output: str) -> None:
    """Show the plans that wait for a decision, in plain words.

    What stands in its way comes first: an earlier release of the same text, as the ledger has it. Then where the plan
    hides this silo least, what would be computed here, what would leave and how much,
    who would learn what, who else prunes how much, and what is not protected. All of it follows from the plan's own
    bytes, whose digest is what you approve: no other plan can be run in its place.

    \b
    Example:
      silo-agent pending --config agent.yaml
    """
    from crypto.plan_rules import decode_plan
    from silo_agent.consent.plan_in_words import plan_in_words, sentences

    with failing_as(output):
        agent, store = _opened(config, settings)
        shown = [offered for offered in store.offers() if everything or offered.decision is None]
        plans = [
            (plan_in_words(decode_plan(offered.encoded), agent.silo), _in_the_way(offered, agent, store), offered)
            for offered in shown
        ]
    if output == "json":
        documents = [{**words.as_dict(), "in_the_way": way or None, **_state(offered)} for words, way, offered in plans]
        print_envelope("done", data={"pending": documents})
        return
    for words, way, offered in plans:
        decided = f"{offered.decision} by {offered.by}, {offered.decided}" if offered.decision else "none yet"
        when = f"first {offered.first_offered}, last {offered.last_offered}"
        first = [("IN THE WAY", way)] if way else []
        for heading, sentence in (*first, *sentences(words), ("offered", when), ("decision", decided)):
            click.echo(click.wrap_text(_shown(sentence), PAGE, f"{heading:<{MARGIN}}", " " * MARGIN))
        click.echo()
    digits = f"{FEWEST_DIGITS} digits or more of its digest"
    click.echo(f"plans: {len(plans)}" + (f"; silo-agent approve PLAN, or reject PLAN: {digits}" if plans else ""))


@click.command()
@click.argument("plan")
@config_options
@by_option
@output_option
def approve(plan: str, config: Path, settings: tuple[str, ...], by: str | None, output: str) -> None:
    """Approve of a plan.

    PLAN is its digest, or the first 16 digits or more.

    The agent then takes part in all rounds of this plan, within the policy's hours, and in no other plan's. A decision
    is final and goes into the audit log. The agent need not be running.

    \b
    Example:
      silo-agent approve 0a1b2c3d4e5f6071 --by "J. Doe, data protection" --config agent.yaml
    """
    _decide(plan, config, settings, by, "approved", "", output)


@click.command()
@click.argument("plan")
@config_options
@click.option("--reason", required=True, help="For the audit log here; it is not told anybody.")
@by_option
@output_option
def reject(plan: str, config: Path, settings: tuple[str, ...], reason: str, by: str | None, output: str) -> None:
    """Reject a plan.

    PLAN is its digest, or the first 16 digits or more.

    The aggregator hears that this silo declines, and not why. A decision is final and goes into the audit log; the same
    work can be offered again, as another plan.

    \b
    Example:
      silo-agent reject 0a1b2c3d4e5f6071 --reason "no agreement with its aggregator" --config agent.yaml
    """
    _decide(plan, config, settings, by, "rejected", reason, output)


@click.group()
def audit() -> None:
    """Show and verify the audit log.

    It has the decisions on plans, and what left.
    """


@audit.command("show")
@config_options
@output_option
def show_audit(config: Path, settings: tuple[str, ...], output: str) -> None:
    """Show the events, oldest first. `audit verify` says whether they are as they were written."""
    from silo_agent.config import AgentConfig
    from silo_agent.consent.audit_log import AUDIT_FILE, read_audit_log

    with failing_as(output):
        events = read_audit_log(AgentConfig.read(config, os.environ, settings).state / AUDIT_FILE)
    if output == "json":
        print_envelope("done", data={"events": events})
        return
    for event in events:
        more = {name: event[name] for name in event if name not in ("sequence", "time", "event", "by", "previous")}
        details = " ".join(f"{name}={_shown(value)}" for name, value in more.items())
        click.echo(f"{event['sequence']:>5}  {event['time']}  {event['event']:<19} {_shown(event['by']):<12} {details}")
    click.echo(f"events: {len(events)}")


@audit.command("verify")
@click.argument("file", type=FILE, required=False)
@click.option("--config", type=FILE, envvar="SPARSILO_CONFIG", help="YAML config file, where no FILE is given.")
@click.option("--set", "settings", multiple=True, metavar="FIELD=VALUE", help="A field of the config.")
@click.option("--head", metavar="NUMBER:HASH", help="A line that was noted earlier: it has to be there still.")
@output_option
def verify_audit(
    file: Path | None, config: Path | None, settings: tuple[str, ...], head: str | None, output: str
) -> None:
    """Check that no line of the audit log was altered, left out, put in or moved.

    Without FILE it is the agent's own log, which must also reach as far as its state store says. Of a copy, missing
    lines at the end show only against a --head. Note the head that is printed, outside this machine: whoever can write
    here could make the whole log anew, and only a head that lies elsewhere shows that.

    \b
    Examples:
      silo-agent audit verify --config agent.yaml
      silo-agent audit verify copy.jsonl --head 42:5f6e...
    """
    from silo_agent.consent.audit_log import AUDIT_FILE, verify_audit_log

    with failing_as(output):
        noted = _head(head) if head else None
        if file is None:
            if config is None:
                raise ConfigError("neither FILE nor --config is given", hint="name one of them")
            agent, store = _opened(config, settings)
            file = agent.state / AUDIT_FILE
            verify_audit_log(file, store.audit_head())
        count, last = verify_audit_log(file, noted)
    if output == "json":
        print_envelope("done", data={"file": str(file), "events": count, "head": f"{count}:{last}"})
        return
    print_fields({"file": file, "events": f"{count}, each as it was written", "head": f"{count}:{last}"})


def _decide(
    plan: str, config: Path, settings: tuple[str, ...], by: str | None, decision: str, reason: str, output: str
) -> None:
    from silo_agent.consent.audit_log import AuditLog
    from silo_agent.consent.state_store import Decision

    with failing_as(output):
        agent, store = _opened(config, settings)
        offered = _offered(store, plan)
        digest, who, now = offered.digest.hex(), by or user(), datetime.now(UTC)
        if offered.decision is None:  # the line comes first: a decision that nobody logged must not count
            AuditLog(agent.state).append(decision, who, now, plan=digest, **({"reason": reason} if reason else {}))
        store.decide(offered.digest, Decision(decision), who, now, reason)
    if output == "json":
        print_envelope("done", data={"plan": digest, "decision": decision, "by": who})
        return
    click.echo(f"{digest}: {decision} by {who}")


def _opened(config: Path, settings: tuple[str, ...]) -> "tuple[AgentConfig, StateStore]":
    from silo_agent.config import AgentConfig
    from silo_agent.consent.state_store import STATE_FILE, StateStore

    agent = AgentConfig.read(config, os.environ, settings)
    return agent, StateStore(agent.state / STATE_FILE)


def _offered(store: "StateStore", digits: str) -> "OfferedPlan":
    """Return the one plan whose digest begins so. Raises InputError where there is none, or are several."""
    hint = "silo-agent pending lists them"
    if len(digits) < FEWEST_DIGITS:
        raise InputError(
            f"{digits}: is too short, {FEWEST_DIGITS} digits or more of a plan's digest",
            hint="whoever makes plans can make one whose digest begins like another's, for as long as that is short",
        )
    plans = [offered for offered in store.offers() if offered.digest.hex().startswith(digits.lower())]
    if len(plans) != 1:
        raise InputError(f"{digits}: {'several plans begin so' if plans else 'no such plan was offered'}", hint=hint)
    return plans[0]


def _in_the_way(offered: "OfferedPlan", agent: "AgentConfig", store: "StateStore") -> str:
    """Return what the ledger has against a plan over the text that is there now, or that there is none to look at."""
    from crypto.plan_rules import decode_plan
    from silo_agent.consent.ledger import in_the_way
    from silo_agent.host.file_digest import file_digest

    try:
        return in_the_way(decode_plan(offered.encoded), file_digest(agent.calibration), store.releases())
    except OSError as error:
        return f"{agent.calibration}: {error.strerror}. The ledger knows a text by its file"


def _state(offered: "OfferedPlan") -> dict[str, str | None]:
    names = ("first_offered", "last_offered", "decision", "by", "reason", "decided")
    return {name: getattr(offered, name) for name in names}


def _head(text: str) -> tuple[int, str]:
    number, _, digest = text.partition(":")
    if not (number.isdecimal() and len(digest) == 64):
        raise ConfigError(f"--head: {text!r} is not NUMBER:HASH", hint="as silo-agent audit verify prints it")
    return int(number), digest.lower()


def _shown(value: object) -> str:
    """Return a value as text on one line, whatever somebody wrote."""
    return "".join(character if character.isprintable() else " " for character in str(value))
