"""`silo-agent pending`, `approve`, `reject` and `audit`: a person decides what may leave, and sees what did."""

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from crypto.errors import InputError
from silo_agent.terminal import FILE, config_options, failing_as, output_option, print_envelope, user

by_option = click.option("--by", help="Whose decision it is, for the audit log.  [default: the system's user]")


@click.command()
@config_options
@click.option("--all", "everything", is_flag=True, help="Also those that were decided on.")
@output_option
def pending(config: Path, settings: tuple[str, ...], everything: bool, output: str) -> None:
    """Show the plans that wait for a decision, in plain words.

    What would be computed, what would leave and how much, who could see what, and what is not protected. It is derived
    from the plan that the agent will hold the aggregator to.
    """
    from crypto.plan import Plan
    from silo_agent.plan_in_words import plan_in_words

    with failing_as(output):
        agent, store = _opened(config, settings)
        shown = [offered for offered in store.offers() if everything or offered.decision is None]
        plans = [
            {
                **plan_in_words(Plan.decode(offered.encoded), agent.silo),
                "offered": f"first {offered.first_offered}, last {offered.last_offered}",
                "decision": f"{offered.decision} by {offered.by} at {offered.decided}"
                if offered.decision
                else "none yet",
            }
            for offered in shown
        ]
    if output == "json":
        print_envelope("done", data={"plans": plans})
        return
    for plan in plans:
        _print(plan)
        click.echo()
    click.echo(
        f"plans: {len(plans)}" + ("" if not plans or everything else "; silo-agent approve PLAN, or reject PLAN")
    )


@click.command()
@click.argument("plan")
@config_options
@by_option
def approve(plan: str, config: Path, settings: tuple[str, ...], by: str | None) -> None:
    """Approve of PLAN, by its digest or the first 8 digits or more of it.

    The agent then takes part in all its rounds. A decision is final, and goes into the audit log.
    """
    _decide(plan, config, settings, by, "approved", "")


@click.command()
@click.argument("plan")
@config_options
@by_option
@click.option("--reason", default="", help="For the audit log; it is not told anybody.")
def reject(plan: str, config: Path, settings: tuple[str, ...], by: str | None, reason: str) -> None:
    """Reject PLAN, by its digest or the first 8 digits or more of it.

    The aggregator hears that this silo declines, and not why. A decision is final, and goes into the audit log.
    """
    _decide(plan, config, settings, by, "rejected", reason)


@click.group()
def audit() -> None:
    """Show and verify the audit log."""


@audit.command("show")
@config_options
@output_option
def show_audit(config: Path, settings: tuple[str, ...], output: str) -> None:
    """Show the events: what was offered, decided, and what left."""
    from silo_agent.audit_log import AUDIT_FILE, read_audit_log
    from silo_agent.config import AgentConfig

    with failing_as(output):
        events = read_audit_log(AgentConfig.read(config, os.environ, settings).state / AUDIT_FILE)
    if output == "json":
        print_envelope("done", data={"events": events})
        return
    for event in events:
        more = {
            name: value for name, value in event.items() if name not in ("sequence", "time", "event", "by", "previous")
        }
        said = " ".join(f"{name}={value}" for name, value in more.items())
        click.echo(f"{event['sequence']:>5}  {event['time']}  {event['event']:<16} {event['by']:<12} {said}")


@audit.command("verify")
@config_options
@click.option("--file", type=FILE, help="A copy of the log.  [default: the one in the state folder]")
@click.option("--head", metavar="NUMBER:HASH", help="A line that was noted earlier: it has to be there still.")
@output_option
def verify_audit(config: Path, settings: tuple[str, ...], file: Path | None, head: str | None, output: str) -> None:
    """Check that no line of the audit log was altered, left out, put in or moved.

    Missing lines at its end show only against a --head that was noted elsewhere before: note the one that is printed.
    """
    from silo_agent.audit_log import AUDIT_FILE, verify_audit_log
    from silo_agent.config import AgentConfig

    with failing_as(output):
        agent = AgentConfig.read(config, os.environ, settings)
        count, last = verify_audit_log(file or agent.state / AUDIT_FILE, _head(head) if head else None)
    if output == "json":
        print_envelope("done", data={"events": count, "head": f"{count}:{last}"})
        return
    click.echo(f"{count} events, each as it was written. head: {count}:{last}")


def _decide(plan: str, config: Path, settings: tuple[str, ...], by: str | None, decision: str, reason: str) -> None:
    from silo_agent.audit_log import AuditLog
    from silo_agent.state_store import Decision

    agent, store = _opened(config, settings)
    found = [offered for offered in store.offers() if offered.digest.hex().startswith(plan.lower())]
    if len(plan) < 8 or len(found) != 1:
        problem = "no such plan was offered" if len(plan) >= 8 and not found else "8 digits or more, of one plan only"
        raise InputError(f"{plan}: {problem}", hint="silo-agent pending lists them")
    who, now = by or user(), datetime.now(UTC)
    is_new = found[0].decision is None
    store.decide(found[0].digest, Decision(decision), who, now, reason)
    if is_new:
        more = {"reason": reason} if reason else {}
        AuditLog(agent.state).append(decision, who, now, plan=found[0].digest.hex(), **more)
    click.echo(f"{found[0].digest.hex()}: {decision}", err=True)


def _opened(config: Path, settings: tuple[str, ...]) -> tuple[Any, Any]:
    from silo_agent.config import AgentConfig
    from silo_agent.state_store import STATE_FILE, StateStore

    agent = AgentConfig.read(config, os.environ, settings)
    return agent, StateStore(agent.state / STATE_FILE)


def _head(text: str) -> tuple[int, str]:
    number, _, digest = text.partition(":")
    if not number.isdigit():
        raise InputError(f"--head: {text!r} is not NUMBER:HASH", hint="as silo-agent audit verify prints it")
    return int(number), digest.lower()


def _print(plan: dict[str, Any]) -> None:
    width = max(map(len, plan))
    for name, value in plan.items():
        if isinstance(value, dict):
            lines = [f"{key}: {'; '.join(each) if isinstance(each, list) else each}" for key, each in value.items()]
        else:
            lines = value if isinstance(value, list) else [f"{value:,}" if isinstance(value, int) else str(value)]
        for at, line in enumerate(lines):
            click.echo(f"{name if at == 0 else '':<{width}}  {line}")
