"""`make fuzz`: libFuzzer, through Atheris, looks for inputs that reach code which none has reached yet.

Each target runs in a process of its own, over its seeds and corpus/TARGET. New inputs go to FOUND/TARGET. One that ends
in anything but an answer or an error of the typed tree is kept as FOUND/TARGET-*, and FOUND/TARGET.log says why.
"""

import os
import re
import sys
import tempfile
from pathlib import Path

import atheris  # type: ignore[import-not-found]
import click

with atheris.instrument_imports(include=["crypto", "silo_agent", "aggregator"]):
    from fuzz.target import MOST_BYTES, Target, check
    from fuzz.targets import TARGETS

CORPUS = Path(__file__).parent / "corpus"
_COUNT = re.compile(r"stat::number_of_executed_units: *([0-9]+)")


@click.command()
@click.option("--seconds", default=60, show_default=True, help="How long each target runs.")
@click.option("--found", default="fuzz-found", type=Path, show_default=True, help="Where new inputs go.")
@click.argument("names", nargs=-1)
def main(seconds: int, found: Path, names: tuple[str, ...]) -> None:
    """Fuzz every decoder, or those that are named."""
    total, uncaught = 0, 0
    for name in names or TARGETS:
        (found / name).mkdir(parents=True, exist_ok=True)
        log = found / f"{name}.log"
        child = os.fork()
        if not child:
            _fuzz(TARGETS[name], name, seconds, found, log)
        failed = os.waitpid(child, 0)[1] != 0
        count = _COUNT.search(log.read_text(errors="replace"))
        inputs = int(count[1]) if count else 0
        total, uncaught = total + inputs, uncaught + failed
        click.echo(f"{name:20} {inputs:>10} inputs{f'   UNCAUGHT: {log}' if failed else ''}")
    click.echo(f"{'in all':20} {total:>10} inputs, {uncaught} targets with something uncaught")
    sys.exit(bool(uncaught))


def _fuzz(target: Target, name: str, seconds: int, found: Path, log: Path) -> None:
    """Never returns: libFuzzer ends the process."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    with tempfile.TemporaryDirectory() as seeds:
        for number, seed in enumerate(target.seeds()):
            Path(seeds, str(number)).write_bytes(seed)
        folders = [str(folder) for folder in (found / name, CORPUS / name, seeds) if Path(folder).is_dir()]
        limits = [f"-max_len={MOST_BYTES}", "-timeout=20", "-rss_limit_mb=4096", f"-max_total_time={seconds}"]
        options = ["-print_final_stats=1", f"-artifact_prefix={found}/{name}-"]
        atheris.Setup([sys.argv[0], *folders, *limits, *options], lambda data: check(target, data))
        atheris.Fuzz()


if __name__ == "__main__":
    main()
