"""What secrecy costs a whole run: `aggregator local` on the demo's model and text, with masks and without, in turn.

Run `make bench-privacy-tax`. Prints one JSON document; exits with 1 when the claim in it is not met. Times are wall
times of the command, processes and all, as a user waits for them.
"""

import argparse
import subprocess
import sys
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import monotonic

from bench.demo.harvest import harvest_silos
from bench.demo.run import LENGTH, MODEL, SAMPLES
from bench.document import at_most, progress, publish
from crypto.names import Backend

SPARSITY_RATIO, TAX = "0.7", 1.10


def seconds(backend: Backend, silos: list[Path], out: Path) -> float:
    command = [
        *(sys.executable, "-m", "aggregator.cli", "local", "--model", str(MODEL), "--out", str(out)),
        *(word for silo in silos for word in ("--calibration", str(silo))),
        *("--samples", str(SAMPLES), "--sequence-length", str(LENGTH), "--sparsity-ratio", SPARSITY_RATIO),
        *("--backend", backend),
    ]
    begin = monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return monotonic() - begin


def main(repetitions: int) -> None:
    took: dict[Backend, list[float]] = {Backend.DOUBLE_MASKING: [], Backend.INSECURE_PLAINTEXT: []}
    with TemporaryDirectory() as name:
        folder = Path(name)
        silos = harvest_silos(folder)
        for repetition in range(repetitions):
            for backend, times in list(took.items())[:: 1 if repetition % 2 else -1]:  # neither always goes first
                times.append(seconds(backend, silos, folder / f"{backend}-{repetition}"))
                progress(f"{backend}: {times[-1]:.1f} s")
    medians = {backend: median(times) for backend, times in took.items()}
    ratio = medians[Backend.DOUBLE_MASKING] / medians[Backend.INSECURE_PLAINTEXT]
    setting = {"silos": len(silos), "samples": SAMPLES, "sequence_length": LENGTH, "sparsity_ratio": SPARSITY_RATIO}
    publish(
        {"wall time, double_masking / insecure_plaintext": at_most(ratio, TAX)},
        setting=setting,
        wall_seconds=took,
        wall_seconds_median=medians,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A whole run with and without secure aggregation.")
    parser.add_argument("--repetitions", type=int, default=5)
    main(parser.parse_args().repetitions)
