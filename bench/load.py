"""A round of 10 real agents, and one of 200: does everybody finish, and what does the aggregator hold in memory?

Run `make bench-load` (Linux, 16 GB of memory, 20 minutes on two cores). Aggregator and agents are processes that talk
over mutual TLS on loopback, with the demo's commands and a model of two small blocks. Prints one JSON document; exits
with 1 when a claim in it is not met. Memory is what is resident at most (VmHWM) in the aggregator's process.
"""

import json
import re
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic, sleep
from typing import Any, Final

import click
import yaml

from aggregator.cli import cli as aggregator
from aggregator.runs.submitted import Runs, Status
from bench.document import at_least, at_most, progress, publish
from bench.streaming import free_port
from silo_agent.cli import cli as silo_agent
from tests.support.forked_programs import Programs
from tests.support.models import tiny_llama, write_text

SIZES: Final = (10, 200)
MOST_A_SILO: Final = 1 << 20
"""Bytes of memory that each silo beyond the smaller size may cost."""
PATIENCE_SECONDS: Final = 3600


def command(cli: click.Group, *arguments: object) -> Any:
    """Return the data that a command prints with `--output json`."""
    out = StringIO()
    with redirect_stdout(out), redirect_stderr(StringIO()):
        cli.main([*map(str, arguments), "--output", "json"], standalone_mode=False)
    return json.loads(out.getvalue())["data"]


def enrolled(folder: Path, model: Path, config: Path, silos: Sequence[str]) -> None:
    """Enrol every silo, with a text of its own, and pin the roster."""
    for number, silo in enumerate(silos):
        invitation = folder / f"{silo}.yaml"
        invited = command(aggregator, "invite", "--silo", silo, "--out", invitation, "--config", config)
        text = write_text(folder / f"{silo}.txt", 900, seed=number)
        told = ("--invitation", invitation, "--fingerprint", invited["fingerprint"])
        command(silo_agent, "enroll", *told, "--out", folder / silo, "--model", model, "--calibration", text)
        policy = folder / silo / "policy.yaml"
        small = {"approval": "auto", "least_samples": 1, "least_sequence_length": 2}
        policy.write_text(yaml.safe_dump({**yaml.safe_load(policy.read_text()), **small}))
        if number % 50 == 49:
            progress(f"{number + 1} silos are enrolled")
    first = folder / silos[0] / "agent.yaml"
    fingerprint = command(silo_agent, "roster", "show", "--config", first)["fingerprint"]
    for silo in silos:
        own = folder / silo / "agent.yaml"
        command(silo_agent, "roster", "pin", "--fingerprint", fingerprint, "--config", own)


def peak(process: int) -> int:
    """Return what was resident of a process at most, in bytes."""
    most_resident = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text())
    return 1024 * int(most_resident[1]) if most_resident else 0


def measure(count: int, folder: Path) -> dict[str, Any]:
    """Return what a round of `count` silos cost, and how many of them finished."""
    silos = [f"silo-{number:03}" for number in range(count)]
    model, port, config = tiny_llama(folder / "dense"), free_port(), folder / "aggregator.yaml"
    address = {"public_address": f"localhost:{port}", "address": f"127.0.0.1:{port}"}
    config.write_text(yaml.safe_dump({**address, "model": f"{model}", "state": "state"}))
    logs = folder / "logs"
    logs.mkdir()
    programs = Programs(logs)
    try:
        programs.start("aggregator", "aggregator.cli", "serve", config)
        log = programs.log("aggregator")
        while not (log.exists() and "aggregator on port" in log.read_text(errors="replace")):
            sleep(0.2)
        enrolled(folder, model, config, silos)
        for silo in silos:
            programs.start(silo, "silo_agent.cli", "run", folder / silo / "agent.yaml")
        plan = folder / "plan.yaml"
        seconds = {"phase_seconds": PATIENCE_SECONDS, "preparation_seconds": PATIENCE_SECONDS}
        plan.write_text(
            yaml.safe_dump({"release": "votes", "samples": 4, "sequence_length": 32, "sparsity_ratio": 0.5, **seconds})
        )
        began = monotonic()
        name, runs = command(aggregator, "plan", "submit", plan, "--config", config)["run"], Runs(folder / "state")
        while not (run := runs.find(name)).is_over:
            sleep(1)
        progress(f"{count} silos: {run.status} after {monotonic() - began:.0f} s {run.said}")
        return {
            "silos": count,
            "done": run.status == Status.DONE,
            "survivors": run.survivors,
            "seconds": monotonic() - began,
            "aggregator_peak_bytes": peak(programs.running["aggregator"]),
        }
    finally:
        programs.close()


def main() -> None:
    rounds = []
    for count in SIZES:
        with TemporaryDirectory() as folder:
            rounds.append(measure(count, Path(folder)))
    few, many = rounds
    more = (many["aggregator_peak_bytes"] - few["aggregator_peak_bytes"]) / (many["silos"] - few["silos"])
    claims = {
        "silos that finished": at_least(sum(round_["survivors"] for round_ in rounds if round_["done"]), sum(SIZES)),
        "bytes of memory a silo beyond the first ten": at_most(more, MOST_A_SILO),
    }
    publish(claims, rounds=rounds)


if __name__ == "__main__":
    main()
