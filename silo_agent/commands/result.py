"""`silo-agent result`: the results of runs that this silo took part in, listed and fetched."""

import os
from datetime import UTC, datetime
from pathlib import Path

import click

from silo_agent.host.terminal import (
    FILE,
    ProgressBars,
    config_options,
    failing_as,
    output_option,
    print_envelope,
    print_fields,
)


@click.group()
def result() -> None:
    """List and fetch the results of runs over your roster."""


@result.command("list")
@config_options
@output_option
def list_results(config: Path, settings: tuple[str, ...], output: str) -> None:
    """List the results that the aggregator has for this silo, oldest first.

    \b
    Example:
      silo-agent result list --config agent.yaml
    """
    from silo_agent.config import AgentConfig
    from silo_agent.identity.own_certificate import connected

    with failing_as(output):
        agent = AgentConfig.read(config, os.environ, settings)
        with connected(agent, datetime.now(UTC)) as transport:
            listed = [{"run": known.plan.hex()[:16], "plan": known.plan.hex()} for known in transport.results()]
    if output == "json":
        print_envelope("done", data={"results": listed})
        return
    for row in listed:
        click.echo(f"{row['run']}  plan {row['plan']}")
    click.echo(f"results: {len(listed)}")


@result.command()
@click.argument("run")
@config_options
@click.option(
    "--out", type=FILE, default=Path("results"), show_default=True, help="Folder to put it in, named as the run."
)
@click.option("--with-words", is_flag=True, help="Also what silos uploaded, masked: `verify` repeats the sums with it.")
@output_option
def fetch(run: str, config: Path, settings: tuple[str, ...], out: Path, with_words: bool, output: str) -> None:
    """Fetch the result of RUN, by its name or the beginning of it, and verify it.

    That is the sparse model, the report, and each round's transcript and opened sum. Nothing is in its place before
    every byte of the model was found to follow from your dense model and from the sums that the silos signed. A fetch
    that was cut goes on where it was.

    \b
    Example:
      silo-agent result fetch 0a1b2c --config agent.yaml --out results
    """
    from silo_agent.checkpoint.dense_weights import DenseWeights
    from silo_agent.checkpoint.model_folder import model_folder
    from silo_agent.config import AgentConfig
    from silo_agent.delivery.fetch import ResultFetcher, find_result
    from silo_agent.delivery.settled_rounds import settle_accusations
    from silo_agent.identity.own_certificate import connected
    from silo_agent.identity.own_files import read_roster

    with failing_as(output), ProgressBars() as progress:
        agent = AgentConfig.read(config, os.environ, settings)
        roster, weights = read_roster(agent.roster, agent.suite), DenseWeights.open(model_folder(agent.model))
        with connected(agent, datetime.now(UTC)) as transport:
            wanted = find_result(transport.results(), run)
            fetched = ResultFetcher(transport, weights, roster, out, progress).fetch(wanted, with_words=with_words)
        settle_accusations(agent.state, agent.silo, Path(fetched["folder"]), roster)
    if output == "json":
        print_envelope("done", data=fetched)
        return
    print_fields({"model": "follows from the silos' sums, byte for byte", **fetched})
