"""Peak memory on 12 and on 48 equal blocks: of `silo-agent prune`, and of either side of whole local runs.

Run `make bench-prune-memory` (Linux, half an hour). Both commands run as a user would run them; a thread looks at
/proc/PID/status every few milliseconds. Peak is VmHWM, the kernel's own high-water mark of all resident pages: pages of
the program, of memory it asked for (RssAnon) and of mapped files (RssFile), of which the largest seen are shown beside
it. A mapped page counts as long as its mapping lives. A child begins with its parent's memory, which its program then
replaces: that is not counted. Prints one JSON document; exits with 1 when a claim is not met.
"""

import argparse
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from tempfile import TemporaryDirectory
from time import sleep

from bench.document import at_most, progress, publish
from bench.prune_speed import Shape, write_llama
from tests.support.models import write_text

BLOCKS = (12, 48)
SHAPE = Shape(hidden=256, intermediate=704, heads=8, blocks=0, samples=4, length=128)
SILOS = 3
RUNS = {
    "votes": ("--release", "votes", "--save-counts"),
    "energies, wanda": ("--release", "energies", "--pruner", "wanda"),
    "energies, admm": ("--release", "energies", "--pruner", "admm"),
    "gram, admm": ("--release", "gram", "--pruner", "admm"),
    "gram, admm, 4 bits": ("--release", "gram", "--pruner", "admm", "--quantise", "4"),
}
"""By name the options of `aggregator local`; statistics that are pooled go block by block, a round each."""
MOST_UNLIKE = 1.05
FIELDS = ("VmHWM", "RssAnon", "RssFile", "RssShmem")
EVERY_SECONDS = 0.005
CHARACTERS = 20_000

Peaks = dict[str, int]


def peaks(module: str, *arguments: str | Path) -> tuple[Peaks, Peaks]:
    """Run a command; bytes by field at their highest, of its process and of the worst of its children."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    seen: dict[int, Peaks] = defaultdict(lambda: dict.fromkeys(FIELDS, 0))
    while process.poll() is None:
        for pid in (process.pid, *children(process.pid)):
            now = memory(pid)
            if now and now["VmHWM"] < seen[pid]["VmHWM"]:  # another program than when last looked at
                del seen[pid]
            for field, size in now.items():
                seen[pid][field] = max(seen[pid][field], size)
        sleep(EVERY_SECONDS)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: exit code {process.returncode}")
    own = seen.pop(process.pid)
    return own, {field: max((each[field] for each in seen.values()), default=0) for field in FIELDS}


def children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:  # it has ended
        return []


def memory(pid: int) -> Peaks:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return {}
    fields = (line.split(":") for line in lines)
    sizes = {name: 1024 * int(value.split()[0]) for name, value in fields if name in FIELDS}
    return sizes if len(sizes) == len(FIELDS) else {}  # it has ended


def measure(blocks: int, folder: Path, runs: list[str]) -> dict[str, Peaks]:
    model, text = folder / "model", [write_text(folder / f"silo-{at}.txt", CHARACTERS, at) for at in range(SILOS)]
    write_llama(model, SHAPE._replace(blocks=blocks))
    size = ["--samples", str(SHAPE.samples), "--sequence-length", str(SHAPE.length)]
    masks = folder / "keep_mask.safetensors"
    prune, _ = peaks("silo_agent.cli", "prune", "--model", model, "--calibration", text[0], "--out", masks, *size)
    progress(f"{blocks} blocks: pruned: {prune}")
    by_role = {"silo-agent prune": prune}
    calibration = [word for file in text for word in ("--calibration", file)]
    for run in runs:
        with TemporaryDirectory(dir=folder) as work:
            out = Path(work) / "out"
            options: list[str | Path] = ["local", "--model", model, *calibration, "--out", out, *size, *RUNS[run]]
            aggregator, silo = peaks("aggregator.cli", *options)
        progress(f"{blocks} blocks: {run}: aggregator: {aggregator}; silo: {silo}")
        by_role |= {f"{run}: aggregator": aggregator, f"{run}: silo-agent run": silo}
    return by_role


def main(numbers: list[int], runs: list[str]) -> None:
    found: dict[int, dict[str, Peaks]] = {}
    for blocks in numbers:
        with TemporaryDirectory() as folder:
            found[blocks] = measure(blocks, Path(folder), runs)
    few, many = found[min(found)], found[max(found)]
    publish(
        {
            f"{role}: peak memory, {max(found)} blocks / {min(found)} blocks": at_most(
                many[role]["VmHWM"] / few[role]["VmHWM"], MOST_UNLIKE
            )
            for role in few
        },
        setting={
            "bytes_a_block": 2 * SHAPE.block_weights,
            "samples": SHAPE.samples,
            "sequence_length": SHAPE.length,
            "silos": SILOS,
        },
        peak_bytes=found,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Memory of pruning by the number of blocks.")
    parser.add_argument("--blocks", type=int, nargs="+", default=BLOCKS)
    parser.add_argument("--runs", nargs="+", default=[*RUNS], choices=RUNS)
    arguments = parser.parse_args()
    main(arguments.blocks, arguments.runs)
