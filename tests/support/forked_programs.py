"""Programs that start in a moment: as forks of a process that has everything imported.

`python -m support.forked_programs` is that process. It reads a JSON line for each program, {"module", "arguments",
"log", "secrets", "dies"}, and prints its process id. What the program draws at random goes to the file `secrets`, a hex
line each. With `dies`, a number and a folder, it is killed before that one of its file operations in the folder.
"""

import gc
import json
import os
import secrets
import signal
import subprocess
import sys
import time
import traceback
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from support.ended_early import Ending

ROOT: Final = Path(__file__).parents[2]
IMPORTED: Final = (
    *("aggregator.cli", "aggregator.serve", "aggregator.edge.servicer", "aggregator.runs.run"),
    *(
        "silo_agent.cli",
        "silo_agent.commands.run",
        "silo_agent.rounds.round_driver",
        "silo_agent.delivery.kept_results",
    ),
    *("crypto.backends.double_masking.spec", "transformers.models.llama.modeling_llama"),
)
"""What a program of ours has imported once it has pruned a Llama: a fork that imports it has it for itself alone."""


class Programs:
    """The programs that were started, by name, with their logs in `folder`. Close it at the end."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}
        self._forking = subprocess.Popen(
            [sys.executable, "-m", "support.forked_programs"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
        )
        self.running: dict[str, int] = {}
        """The process id of each program, by its name."""

    def start(self, name: str, module: str, command: str, config: Path, dies: tuple[int, Path] | None = None) -> None:
        assert self._forking.stdin
        assert self._forking.stdout
        files = {"log": f"{self.log(name)}", "secrets": f"{self._folder / name}.secrets"}
        at = None if dies is None else (dies[0], f"{dies[1]}")
        wanted = {"module": module, "arguments": [command, "--config", f"{config}"], "dies": at, **files}
        self._forking.stdin.write(f"{json.dumps(wanted)}\n")
        self._forking.stdin.flush()
        self.running[name] = int(self._forking.stdout.readline())

    def kill(self, name: str) -> None:
        """Send SIGKILL, and return when the process is gone."""
        number = self.running[name]
        with suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)
            while True:
                os.kill(number, 0)
                time.sleep(0.001)

    def is_running(self, name: str) -> bool:
        with suppress(ProcessLookupError):
            os.kill(self.running[name], 0)
            return True
        return False

    def log(self, name: str) -> Path:
        return self._folder / f"{name}.log"

    def drawn(self) -> set[bytes]:
        """What all of them drew since this was called last, of 16 bytes or more."""
        lines = list[str]()
        for file in self._folder.glob("*.secrets"):
            lines += file.read_text().split()
            os.truncate(file, 0)
        return {bytes.fromhex(line) for line in lines if len(line) >= 32}

    def close(self) -> None:
        for name in self.running:
            self.kill(name)
        self._forking.kill()
        self._forking.wait()


def note_draws(file: str) -> None:
    """Write down what is drawn: who looks for secrets on the disk must know them."""
    draw = secrets.token_bytes
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def drawn(count: int | None = None) -> bytes:
        value = draw(count)
        os.write(descriptor, f"{value.hex()}\n".encode())
        return value

    secrets.token_bytes = drawn


def forked(wanted: dict[str, Any]) -> int:
    """Start a program; return its process id."""
    if child := os.fork():
        return child
    code = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        log = os.open(wanted["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for descriptor, file in ((0, os.open(os.devnull, os.O_RDONLY)), (1, log), (2, log)):
            os.dup2(file, descriptor)
        note_draws(wanted["secrets"])
        if wanted["dies"]:
            number, folder = wanted["dies"]
            sys.addaudithook(Ending("killed", number, folder))
        sys.argv = [wanted["module"], *wanted["arguments"]]
        import_module(wanted["module"]).main()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    except BaseException:  # noqa: BLE001 - a fork must not go on as what it was forked from
        traceback.print_exc()
    finally:
        os._exit(code)


def main() -> None:
    for module in IMPORTED:
        import_module(module)
    gc.collect()
    gc.freeze()  # or each fork's first collection would write on, and so copy, all that it shares with the others
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody asks how they ended
    for line in sys.stdin:
        print(forked(json.loads(line)), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
