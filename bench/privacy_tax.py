"""What secrecy costs a whole run: `aggregator local` on the demo's model and text, with masks and without, in turn.

Run `make bench-privacy-tax`. Prints one JSON document; exits with 1 when a claim in it is not met. Wall time is what a
user waits for; CPU time is that of all the run's processes. A machine that others use too is faster at one time than
at another, by more than the tax: two runs one after the other make a pair, and the claim is about the median of the
pairs' ratios.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage
from statistics import median
from tempfile import TemporaryDirectory
from time import monotonic

from bench.demo.harvest import harvest_silos
from bench.demo.run import LENGTH, MODEL, SAMPLES
from bench.document import at_most, progress, publish
from crypto.names import Backend

SPARSITY_RATIO, TAX = "0.7", 1.10


Seconds = dict[str, float]


def seconds(backend: Backend, silos: list[Path], out: Path) -> Seconds:
    """Of the wall, of CPU time of all the run's processes, and of the wall in each phase of the round."""
    command = [
        *(sys.executable, "-m", "aggregator.cli", "local", "--model", str(MODEL), "--out", str(out)),
        *(word for silo in silos for word in ("--calibration", str(silo))),
        *("--samples", str(SAMPLES), "--sequence-length", str(LENGTH), "--sparsity-ratio", SPARSITY_RATIO),
        *("--release", "votes", "--backend", backend),
    ]
    begin, begin_cpu = monotonic(), cpu_of_children()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    phases = json.loads((out / "report.json").read_text())["seconds"]
    return {"wall": monotonic() - begin, "CPU": cpu_of_children() - begin_cpu, **phases}


def cpu_of_children() -> float:
    used = getrusage(RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main(repetitions: int) -> None:
    took: dict[Backend, list[Seconds]] = {Backend.DOUBLE_MASKING: [], Backend.INSECURE_PLAINTEXT: []}
    with TemporaryDirectory() as name:
        folder = Path(name)
        silos = harvest_silos(folder)
        for repetition in range(repetitions):
            for backend, times in list(took.items())[:: 1 if repetition % 2 else -1]:  # neither always goes first
                times.append(seconds(backend, silos, folder / f"{backend}-{repetition}"))
                progress(f"{backend}: {times[-1]['wall']:.1f} s, {times[-1]['CPU']:.1f} CPU seconds")
    claims = {
        f"{kind} time, double_masking / insecure_plaintext": at_most(
            median(masked[kind] / plain[kind] for masked, plain in zip(*took.values(), strict=True)), TAX
        )
        for kind in ("wall", "CPU")
    }
    setting = {"silos": len(silos), "samples": SAMPLES, "sequence_length": LENGTH, "sparsity_ratio": SPARSITY_RATIO}
    medians = {
        backend: {what: median(each[what] for each in times) for what in times[0]} for backend, times in took.items()
    }
    publish(claims, setting=setting, median_seconds=medians, seconds=took)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A whole run with and without secure aggregation.")
    parser.add_argument("--repetitions", type=int, default=9)
    main(parser.parse_args().repetitions)
