"""`aggregator serve`, `aggregator plan` and `aggregator rounds`: runs over silos that dial in."""

import asyncio
import os
import secrets
from dataclasses import asdict
from datetime import UTC, datetime
from math import sqrt
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any

import click

from crypto.errors import IdentityError, InputError, RoundAborted, TimedOut
from silo_agent.host.logs import logging_as
from silo_agent.host.owned_folder import owned_folder
from silo_agent.host.terminal import (
    FILE,
    ProgressBars,
    config_options,
    failing_as,
    output_option,
    print_envelope,
    print_fields,
    print_pruned,
    user,
)

if TYPE_CHECKING:
    from aggregator.rounds.withdrawals import Unfinished
    from aggregator.runs.submitted import Run, Runs
    from crypto.plan import Plan

LOOK_SECONDS = 0.5
HALF = 0.5
"""An epsilon is proposed with which half of what the silos' text has beyond public text is left."""


@click.command()
@config_options
def serve(config: Path, settings: tuple[str, ...]) -> None:
    """Answer silos, and carry out the runs that are submitted.

    Listens on one port for gRPC over mutual TLS, and on another for /metrics, /livez and /readyz. SIGTERM ends it;
    started again it goes on in the same round.
    """
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # else it logs each failed handshake, and noise fills the disk

    from aggregator.config import AggregatorConfig
    from aggregator.serve import run_aggregator

    given = AggregatorConfig.read(config, os.environ, settings)
    with logging_as(given.log_format), owned_folder(given.state):
        asyncio.run(run_aggregator(given))


@click.group()
def plan() -> None:
    """Check a plan, and submit it as a run."""


@plan.command()
@click.argument("plan_yaml", type=FILE)
@config_options
@output_option
def check(plan_yaml: Path, config: Path, settings: tuple[str, ...], output: str) -> None:
    """Check PLAN_YAML against the model and the silos that are enrolled, and say what it comes to.

    Its fields are named as the options of `aggregator local`, with _ for -; docs/formats.md lists them.
    """
    with failing_as(output):
        made, _ = _planned(plan_yaml, config, settings)
    _print_plan(made, {}, output)


@plan.command()
@click.argument("plan_yaml", type=FILE)
@click.option("--records", type=click.IntRange(1), help="Of each silo, people or records; default: the plan's samples.")
@config_options
@output_option
def budget(plan_yaml: Path, records: int | None, config: Path, settings: tuple[str, ...], output: str) -> None:
    """Say what PLAN_YAML would leave of the silos' text under noise, by epsilon, and propose an epsilon.

    It is an estimate from public numbers: no silo is asked, and nothing is spent. The plan has to have an epsilon, of
    any size, and is otherwise taken as it is.

    \b
    Example:
      aggregator plan budget plan.yaml --records 500 --config aggregator.yaml
    """
    from aggregator.runs.expected_noise import EPSILONS, expected_noise

    with failing_as(output):
        made, _ = _planned(plan_yaml, config, settings)
        if not made.pruning.clip:
            raise InputError(f"{plan_yaml}: epsilon: is missing", hint="add epsilon: 1 and release: energies")
        count = records or made.message.pruning.samples
        rows = [expected_noise(made, count, epsilon) for epsilon in EPSILONS]
    proposed = next((row.epsilon for row in rows if row.left >= HALF), None)
    if output == "json":
        listed = [{**asdict(row), "left": row.left, "is_futile": row.is_futile} for row in rows]
        print_envelope("done", data={"rows": listed, "delta": made.message.pruning.delta, "proposed": proposed})
        return
    for row in rows:
        judged = "no better than sharing nothing" if row.is_futile else f"{row.left:.0%} of the text's own is left"
        click.echo(f"epsilon {row.epsilon:>4g}  noise {row.relative:>7.1%} of a usual feature  {judged}")
    click.echo(
        f"proposed: epsilon {proposed:g}"
        if proposed
        else f"proposed: none of these; with {count} records a silo, have more silos or more records"
    )


@plan.command()
@click.argument("plan_yaml", type=FILE)
@config_options
@output_option
def submit(plan_yaml: Path, config: Path, settings: tuple[str, ...], output: str) -> None:
    """Submit PLAN_YAML as a run, which `aggregator serve` carries out when those before it are over.

    Every enrolled silo has to have signed the present roster.

    \b
    Example:
      aggregator plan submit plan.yaml --config aggregator.yaml
    """
    from aggregator.config import AggregatorConfig
    from aggregator.runs.submitted import Runs
    from aggregator.silos.enrolments import Enrolments
    from crypto.roster import fingerprint

    with failing_as(output):
        made, roster = _planned(plan_yaml, config, settings)
        state = AggregatorConfig.read(config, os.environ, settings).state
        missing = sorted({*roster} - {*Enrolments(state).signatures(fingerprint(roster))})
        if missing:
            raise IdentityError(
                f"the roster is not signed by {', '.join(missing)}", hint="there: silo-agent roster show, then pin"
            )
        run = Runs(state).submit(made, plan_yaml.read_bytes(), datetime.now(UTC))
    _print_plan(made, {"run": run}, output)


@click.group()
def rounds() -> None:
    """Follow the runs and their rounds."""


@rounds.command("list")
@config_options
@output_option
def list_rounds(config: Path, settings: tuple[str, ...], output: str) -> None:
    """List all runs, oldest first."""
    with failing_as(output):
        listed = _runs(config, settings).all()
    if output == "json":
        print_envelope("done", data={"runs": [run.as_dict() for run in listed]})
        return
    for run in listed:
        done = f"{run.done} of {run.rounds} rounds"
        click.echo(f"{run.run}  {run.status:<9} {run.phase:<12} {done:<16} {run.release:<8} {run.submitted}")
    click.echo(f"runs: {len(listed)}")


@rounds.command()
@click.argument("run")
@config_options
@output_option
def show(run: str, config: Path, settings: tuple[str, ...], output: str) -> None:
    """Show one RUN, by its name or the beginning of it, and where its result lies."""
    with failing_as(output):
        runs = _runs(config, settings)
        shown_run = runs.find(run)
    _print_run(shown_run, runs, output)


@rounds.command()
@click.argument("run")
@config_options
@click.option("--timeout", type=click.IntRange(1), metavar="SECONDS", help="Give up after so long, with exit code 3.")
@output_option
def wait(run: str, config: Path, settings: tuple[str, ...], timeout: int | None, output: str) -> None:
    """Wait until RUN is over.

    Exits with 0 where it is done, 1 where it failed or was cancelled, 3 where time ran out.
    """
    with failing_as(output):
        runs = _runs(config, settings)
        since = monotonic()
        with ProgressBars() as progress:
            while not (shown_run := runs.find(run)).is_over:
                waiting = shown_run.as_dict()["waiting"]
                awaited = f"; awaited: {', '.join(waiting['awaited'])}" if waiting else ""
                detail = f"{shown_run.phase or shown_run.status}{awaited}"
                progress("rounds", shown_run.done, shown_run.rounds, detail)
                if timeout is not None and monotonic() - since > timeout:
                    where = shown_run.phase or shown_run.status
                    raise TimedOut(f"{shown_run.run}: not over after {timeout} seconds, but {where}")
                sleep(LOOK_SECONDS)
        if shown_run.status != "done":
            raise RoundAborted(f"{shown_run.run}: {shown_run.status}: {shown_run.said}")
    _print_run(shown_run, runs, output)


@rounds.command()
@click.argument("run")
@config_options
@output_option
def cancel(run: str, config: Path, settings: tuple[str, ...], output: str) -> None:
    """Cancel RUN: at once while it waits, and within seconds of `aggregator serve` once it is at work.

    Silos are told, and wait for the next run. Those whose words had left count the round as released.
    """
    with failing_as(output):
        runs = _runs(config, settings)
        chosen = runs.find(run)
        if chosen.is_over:
            raise InputError(f"{chosen.run}: is {chosen.status} already", hint="aggregator rounds show says more")
        runs.cancel(chosen.run, user(), datetime.now(UTC))
    _print_run(runs.find(chosen.run), runs, output)


@rounds.command()
@click.argument("run")
@config_options
@output_option
def retry(run: str, config: Path, settings: tuple[str, ...], output: str) -> None:
    """Queue RUN again, which failed after its sums were opened: for want of disk space, say.

    It goes on from what is on the disk. Where all rounds are over no silo has to be there.
    """
    with failing_as(output):
        runs = _runs(config, settings)
        chosen = runs.find(run)
        runs.retry(chosen.run)
    _print_run(runs.find(chosen.run), runs, output)


@click.group()
def state() -> None:
    """Look after what the aggregator's state folder holds of runs that are over."""


@state.command()
@click.option(
    "--keep", type=click.IntRange(0), default=0, metavar="N", help="Keep those of the last N runs that ended."
)
@config_options
@output_option
def prune(keep: int, config: Path, settings: tuple[str, ...], output: str) -> None:
    """Remove the folders of runs that are over, results among them. `rounds list` still has the runs.

    What is at work or waits is not touched. `retention` in aggregator.yaml does the same after every run.

    \b
    Example:
      aggregator state prune --keep 5 --config aggregator.yaml
    """
    with failing_as(output):
        pruned = _runs(config, settings).prune(keep)
    print_pruned(pruned, output)


def _planned(plan_yaml: Path, config: Path, settings: tuple[str, ...]) -> "tuple[Plan, dict[str, bytes]]":
    from aggregator.config import AggregatorConfig
    from aggregator.runs.plan_file import PlanFile
    from aggregator.runs.planning import Planner
    from aggregator.silos.enrolments import Enrolments
    from silo_agent.checkpoint.dense_weights import DenseWeights
    from silo_agent.checkpoint.model_folder import model_folder

    given, asked = AggregatorConfig.read(config, os.environ, settings), PlanFile.read(plan_yaml)
    roster = Enrolments(given.state).roster()
    weights = DenseWeights.open(model_folder(given.model))
    with ProgressBars() as progress:
        planner = Planner(weights, asked, roster, given.suite, secrets.token_bytes, watch=progress)
    return planner.pruning(asked.evaluate), roster


def _runs(config: Path, settings: tuple[str, ...]) -> "Runs":
    from aggregator.config import AggregatorConfig
    from aggregator.runs.submitted import Runs

    return Runs(AggregatorConfig.read(config, os.environ, settings).state)


def _print_plan(made: "Plan", more: dict[str, Any], output: str) -> None:
    from aggregator.runs.expected_noise import expected_noise
    from crypto.backends.backend_spec import audited_bytes, backend_spec
    from crypto.privacy.noise_shares import VOTE_BITS, noise_shares
    from crypto.releases.release_spec import layout_of
    from crypto.releases.votes import votes_in_words

    cohort = made.message
    of_rounds = [sum(layout_of(made, index).lengths) for index in range(len(cohort.rounds))]
    up, most, rate = sum(of_rounds), max(of_rounds), made.least_bytes_per_second
    fields = {
        **more,
        "plan": made.digest.hex(),
        "silos": len(made.silos),
        "threshold": cohort.threshold,
        "colluders": cohort.colluders,
        "rounds": ", ".join(made.release_kind(index) for index in range(len(cohort.rounds))),
        "weights": sum(made.block_weights),
        "auditors a chunk": backend_spec(made.backend).auditors(made),
        "bytes up a silo": up,
        "bytes down a silo in audit": audited_bytes(made, up, len(made.silos)),
        "seconds of an upload at most": cohort.phase_seconds + most // rate,
        "seconds of an audit at most": cohort.phase_seconds + audited_bytes(made, most, len(made.silos)) // rate,
    }
    if made.pruning.has_noise:
        promise = cohort.pruning
        fields |= {
            "epsilon": promise.epsilon,
            "delta": promise.delta,
            "unit": "a person whom records name in `unit`, or else a record",
            "shares of noise counted on": noise_shares(made),
        }
    if made.pruning.vote_units:
        fields |= {
            "noise of a keep count": f"{sqrt(len(made.silos)) * 2**VOTE_BITS / made.pruning.vote_units:.3g} votes",
            "kept of votes": votes_in_words(made),
        }
    if made.pruning.clip:
        expected = expected_noise(made, promise.samples)
        fields |= {
            "noise of a usual feature": f"{expected.relative:.1%}",
            "left of the text's own": f"{expected.left:.0%}" + ", no better than sharing nothing" * expected.is_futile,
        }
    if output == "json":
        print_envelope("done", data={name.replace(" ", "_"): value for name, value in fields.items()})
        return
    print_fields(fields)


def _what_is_left(left: "Unfinished") -> str:
    """Say of a round that did not come to DONE whether it may be repeated, and what to do where it may not yet."""
    if not left.may_be_open:
        return f"nobody opens it: {len(left.withdrawn)} silos withdrew. Submit the plan again"
    said = f"{', '.join(left.withdrawn) or 'nobody'} withdrew, {left.needed} silos have to: have the others' agents run"
    return f"its sum may be open. {said}, or bring exactly its survivors together again"


def _print_run(shown_run: "Run", runs: "Runs", output: str) -> None:
    from aggregator.rounds.withdrawals import Withdrawals

    result = runs.folder(shown_run.run).result
    fields = {**shown_run.as_dict(), "result": str(result) if result.exists() else None}
    unfinished = Withdrawals(runs.state).unfinished(shown_run.plan_digest) if shown_run.is_over else []
    if output == "json":
        rounds_left = [{**asdict(left), "may_be_open": left.may_be_open} for left in unfinished]
        print_envelope("done", data={**fields, "unfinished": rounds_left})
        return
    if waiting := fields.pop("waiting"):
        fields |= {
            "arrived": f"{waiting['arrived']} of {waiting['expected']}",
            "awaited": ", ".join(waiting["awaited"]),
            "late": ", ".join(waiting["late"]),
            "phase_since": waiting["since"],
            "phase_until_at_the_latest": waiting["until"],
        }
    for left in unfinished:
        fields[f"round {left.round}"] = _what_is_left(left)
    print_fields({name: "-" if value in (None, "") else value for name, value in fields.items()})
