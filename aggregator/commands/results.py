"""`aggregator result`: what runs left behind, handed out."""

import os
from pathlib import Path

import click

from crypto.errors import InputError
from silo_agent.host.terminal import FILE, ProgressBars, config_options, failing_as, output_option, print_envelope


@click.group()
def result() -> None:
    """Hand out the results of runs."""


@result.command()
@click.argument("run")
@config_options
@click.option("--out", required=True, type=FILE, help="Folder to make.")
@output_option
def export(run: str, config: Path, settings: tuple[str, ...], out: Path, output: str) -> None:
    """Copy the result of RUN, by its name or the beginning of it, with a manifest of its files.

    With the run's transcripts in it, a silo checks it as one that it fetched: silo-agent verify --model.

    \b
    Example:
      aggregator result export 0a1b2c --config aggregator.yaml --out result
    """
    from aggregator.config import AggregatorConfig
    from aggregator.results.export import export as copy
    from aggregator.runs.submitted import Runs

    with failing_as(output), ProgressBars() as progress:
        runs = Runs(AggregatorConfig.read(config, os.environ, settings).state)
        chosen = runs.find(run)
        folder = runs.folder(chosen.run).result
        if not folder.exists():
            raise InputError(f"{chosen.run}: has no result", hint=f"it is {chosen.status}: aggregator rounds show")
        manifest = copy(folder, bytes.fromhex(chosen.plan_digest), out, progress)
    if output == "json":
        files, size = len(manifest.files), sum(listed.size for listed in manifest.files)
        data = {
            "run": chosen.run,
            "folder": str(out),
            "files": files,
            "bytes": size,
            "manifest": manifest.digest.hex(),
        }
        print_envelope("done", data=data)
        return
    click.echo(f"{out}: {len(manifest.files)} files; SHA-256 of the manifest: {manifest.digest.hex()}")
