"""The demo: four silos with text of four domains prune one small model together, and a table says what it was worth.

Run ``python -m bench.demo.run`` from the repository root. Everything is real: the model was trained by
bench/demo/train_model.py, the text is harvested from installed packages now, and the silos are processes that meet
the aggregator over mTLS and secure aggregation.
"""

import argparse
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from bench.demo.harvest import harvest_silos

MODEL = Path("bench/demo/model")
SAMPLES, HELD_OUT, LENGTH = 64, 32, 256


def run(module: str, *arguments: str) -> None:
    """Show a command as a user would type it, and run it."""
    name = {"aggregator.cli": "aggregator", "silo_agent.cli": "silo-agent"}[module]
    print(f"\n$ {name} {shlex.join(arguments)}", flush=True)
    lines = {"SPARSILO_PROGRESS": "lines"}  # where bars cannot be drawn
    subprocess.run([sys.executable, "-m", module, *arguments], check=True, env={**os.environ, **lines})


def demo(out: Path, ratio: str) -> None:
    shutil.rmtree(out, ignore_errors=True)
    text = out / "text"
    text.mkdir(parents=True)
    print("Harvesting four domains of text from the packages installed here ...", flush=True)
    silos = harvest_silos(text)
    run(
        "aggregator.cli",
        "local",
        *("--model", str(MODEL)),
        *(word for silo in silos for word in ("--calibration", str(silo))),
        *("--out", str(out / "pruned")),
        *("--samples", str(SAMPLES), "--sequence-length", str(LENGTH), "--sparsity-ratio", ratio),
        *("--evaluate", str(HELD_OUT)),
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Prune a small model over four silos.")
    parser.add_argument("--out", type=Path, default=Path("demo-out"), help="folder to make anew")
    parser.add_argument("--sparsity-ratio", default="0.7")
    given = parser.parse_args()
    demo(given.out, given.sparsity_ratio)
