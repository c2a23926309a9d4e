"""What secrecy costs a whole run: `aggregator local` on the demo's model and text, with masks and without, in turn.

Run `make bench-privacy-tax`. Prints one JSON document; exits with 1 when a claim in it is not met. Wall time is what a
user waits for; CPU time is that of all the run's processes, and says more where others use the machine too.
"""

import argparse
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


def seconds(backend: Backend, silos: list[Path], out: Path) -> tuple[float, float]:
    """Of the wall, and of CPU time of all the run's processes."""
    command = [
        *(sys.executable, "-m", "aggregator.cli", "local", "--model", str(MODEL), "--out", str(out)),
        *(word for silo in silos for word in ("--calibration", str(silo))),
        *("--samples", str(SAMPLES), "--sequence-length", str(LENGTH), "--sparsity-ratio", SPARSITY_RATIO),
        *("--backend", backend),
    ]
    begin, begin_cpu = monotonic(), cpu_of_children()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return monotonic() - begin, cpu_of_children() - begin_cpu


def cpu_of_children() -> float:
    used = getrusage(RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main(repetitions: int) -> None:
    took: dict[Backend, list[tuple[float, float]]] = {Backend.DOUBLE_MASKING: [], Backend.INSECURE_PLAINTEXT: []}
    with TemporaryDirectory() as name:
        folder = Path(name)
        silos = harvest_silos(folder)
        for repetition in range(repetitions):
            for backend, times in list(took.items())[:: 1 if repetition % 2 else -1]:  # neither always goes first
                times.append(seconds(backend, silos, folder / f"{backend}-{repetition}"))
                progress(f"{backend}: {times[-1][0]:.1f} s, {times[-1][1]:.1f} CPU seconds")
    claims, measured = {}, {}
    for at, kind in enumerate(("wall", "CPU")):
        measured[kind] = {backend: [each[at] for each in times] for backend, times in took.items()}
        masked, plain = (median(times) for times in measured[kind].values())
        claims[f"{kind} time, double_masking / insecure_plaintext"] = at_most(masked / plain, TAX)
    setting = {"silos": len(silos), "samples": SAMPLES, "sequence_length": LENGTH, "sparsity_ratio": SPARSITY_RATIO}
    publish(claims, setting=setting, seconds=measured)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A whole run with and without secure aggregation.")
    parser.add_argument("--repetitions", type=int, default=5)
    main(parser.parse_args().repetitions)
