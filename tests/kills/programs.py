"""`python -m kills.programs`: starts programs as forks of itself, which has all imported: a restart takes a moment.

Reads a JSON line for each, {"module", "arguments", "log", "secrets"}, and prints its process id. Whatever the program
draws at random goes to the file `secrets`, a hex line each.
"""

import json
import os
import secrets
import signal
import sys
from importlib import import_module
from typing import Any

import torch

import aggregator.cli
import aggregator.serve  # noqa: F401 - so that no program has to import it
import silo_agent.cli
import silo_agent.rounds.round_driver  # noqa: F401


def noting(file: str) -> None:
    """Have what is drawn written down: who looks for secrets on the disk must know them."""
    draw = secrets.token_bytes
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def drawn(count: int | None = None) -> bytes:
        value = draw(count)
        os.write(descriptor, f"{value.hex()}\n".encode())
        return value

    secrets.token_bytes = drawn


def started(wanted: dict[str, Any]) -> int:
    if child := os.fork():
        return child
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    log = os.open(wanted["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for descriptor, file in ((0, os.open(os.devnull, os.O_RDONLY)), (1, log), (2, log)):
        os.dup2(file, descriptor)
    noting(wanted["secrets"])
    sys.argv = [wanted["module"], *wanted["arguments"]]
    code = 1
    try:
        import_module(wanted["module"]).main()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    finally:
        os._exit(code)


def main() -> None:
    torch.set_num_threads(1)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody asks how they ended
    for line in sys.stdin:
        print(started(json.loads(line)), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
