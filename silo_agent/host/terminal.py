"""What both command lines are made of: one-line errors with exit codes, JSON documents, progress bars, options."""

import getpass
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from enum import StrEnum
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Any, Final, TypeVar

import click
from click.shell_completion import get_completion_class
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from crypto.errors import SparsiloError
from crypto.names import Pruner, Suite
from crypto.plan_options import PLAN_OPTIONS, PlanOption
from silo_agent.host.freed_memory import keep_freed_memory

USAGE_EXIT: Final = 4
"""Exit code where the command line itself is wrong."""
ENVELOPE_VERSION: Final = 1
"""Version of the JSON document that `--output json` prints (docs/formats.md)."""
LINE_SECONDS: Final = 5.0
"""Least time between two lines of progress, where progress is lines."""
FILE: Final = click.Path(path_type=Path)
"""Type of an argument that names a file or folder."""

_Command = TypeVar("_Command", bound=Callable[..., object])

output_option = click.option("--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
suite_option = click.option(
    "--suite",
    type=click.Choice([suite.profile for suite in Suite]),
    default=Suite.DEFAULT.profile,
    show_default=True,
    help="Cryptographic algorithms; fips takes approved ones only.",
)


def config_options(command: _Command) -> _Command:
    """Give a command `--config`, and `--set` for single fields: its parameters `config` and `settings`."""
    config = click.option(
        "--config", required=True, type=FILE, envvar="SPARSILO_CONFIG", help="YAML config file.  [env: SPARSILO_CONFIG]"
    )
    settings = click.option(
        "--set", "settings", multiple=True, metavar="FIELD=VALUE", help="A field of the config, whatever the file says."
    )
    return config(settings(command))


def choice_of(kind: type[StrEnum]) -> click.Choice[str]:
    """Return the type of an option that chooses among an enumeration's values; click's own would offer their names."""
    return click.Choice([member.value for member in kind])


def plan_option(option: PlanOption) -> Callable[[_Command], _Command]:
    """Return the click option of a plan's option; it passes on a text, a number or a truth value, and texts by silo."""
    flag, help_text = option.flag or f"--{option.name.replace('_', '-')}", option.help
    if option.unset:
        help_text += f"  [default: {option.unset}]"
    if option.kind is bool:
        return click.option(flag, option.name, is_flag=True, help=help_text)
    kind: Any = None  # as click takes it: a type or a click.ParamType
    if issubclass(option.kind, StrEnum):
        kind = click.Choice([member.value for member in option.choices or option.kind])
    elif option.kind is float:
        kind = float
    elif option.kind is int and not option.by_silo:
        kind = int if option.least is None else click.IntRange(option.least)
    default = option.default.value if isinstance(option.default, StrEnum) else option.default
    multiple: dict[str, Any] = {"multiple": True} if option.by_silo else {"default": default}
    return click.option(
        flag,
        option.name,
        type=kind,
        show_default=option.default is not None and not option.by_silo,
        metavar=option.metavar,
        help=help_text or None,
        **multiple,
    )


ratio_option, pattern_option = (
    plan_option(option) for option in PLAN_OPTIONS if option.name in ("sparsity_ratio", "pattern")
)


def pruner_option(default: Pruner) -> Callable[[_Command], _Command]:
    """Return the option `--pruner` of a command that no release kind chooses the pruner for."""
    return click.option("--pruner", type=choice_of(Pruner), default=default.value, show_default=True)


def completion_command(program: str, group: click.Group) -> click.Command:
    """Return the command `completion SHELL` of a program."""

    @click.command()
    @click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
    def completion(shell: str) -> None:
        """Print what makes SHELL complete this program's commands and options."""
        kind = get_completion_class(shell)
        if kind is None:
            raise AssertionError(f"click completes {shell}")
        click.echo(kind(group, {}, program, f"_{program.replace('-', '_').upper()}_COMPLETE").source())

    completion.help = f"Print a shell's completion script.\n\nSuch as: source <({program} completion bash)"
    return completion


def user() -> str:
    """Return the name of the user who runs this, or the user's number where a container has no name for it."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"


def run_command(command: click.Command) -> None:
    """Run a command line and end the process: every error is one line on stderr, with its exit code.

    Nobody but its owner may read what the process writes, whatever the mode of the folder: SQLite's files and those of
    libraries too, whose modes no code here chooses.
    """
    os.umask(0o077)
    keep_freed_memory()
    try:
        # click returns the exit code itself where it printed --help or the like.
        code = command.main(standalone_mode=False, auto_envvar_prefix="SPARSILO")
    except SparsiloError as error:
        fail(str(error), error.exit_code)
    except click.ClickException as error:
        fail(error.format_message(), USAGE_EXIT)
    except (click.Abort, KeyboardInterrupt):
        fail("interrupted", 1)
    except OSError as error:  # a full disk, a folder without permission: nobody's bug
        fail(f"{error.filename or 'the system'}: {error.strerror}", 1)
    sys.exit(code if isinstance(code, int) else 0)


def fail(message: str, code: int) -> None:
    """Say on one line of stderr what is wrong, and end the process with `code`."""
    click.echo(f"error: {' '.join(message.split())}", err=True)
    sys.exit(code)


class ProgressBars(AbstractContextManager["ProgressBars"]):
    """A bar a task on stderr, on a terminal only.

    Elsewhere nothing; or, where the environment has SPARSILO_PROGRESS=lines, a line every LINE_SECONDS at most and one
    at the end of each task.
    """

    def __init__(self) -> None:
        console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}
        self._says_lines = not console.is_terminal and os.environ.get("SPARSILO_PROGRESS") == "lines"
        self._line, self._line_at = "", -LINE_SECONDS

    def __enter__(self) -> "ProgressBars":
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._progress.stop()

    def __call__(self, task: str, done: int, total: int, detail: str = "") -> None:
        """Show that `task` stands at `done` of `total`, with a detail that changes on the way."""
        shown = f"{task} ({detail})" if detail else task
        if task not in self._tasks:
            self._tasks[task] = self._progress.add_task(shown, total=total)
        self._progress.update(self._tasks[task], completed=done, total=total, description=shown)
        line, now = f"{shown}: {done} of {total}", monotonic()
        is_due = now - self._line_at >= LINE_SECONDS or done == total
        if self._says_lines and is_due and line != self._line:
            click.echo(line, err=True)
            self._line, self._line_at = line, now


def print_envelope(status: str, **content: object) -> None:
    """Print the one JSON document that a command puts on stdout with `--output json`, whatever became of it."""
    click.echo(json.dumps({"schema_version": ENVELOPE_VERSION, "status": status, **content}, indent=2))


@contextmanager
def failing_as(output: str) -> Iterator[None]:
    """Print an error that is raised within as the JSON document, where `output` is json, and raise it again."""
    try:
        yield
    except SparsiloError as error:
        if output == "json":
            print_envelope("failed", error=described(error))
        raise


def print_fields(fields: Mapping[str, object]) -> None:
    """Print a field a line, with the values aligned."""
    width = max(map(len, fields))
    for name, value in fields.items():
        click.echo(f"{name:<{width}}  {value}")


def print_pruned(runs: Sequence[str], output: str) -> None:
    """Print whose folders were removed, in either form."""
    if output == "json":
        print_envelope("done", data={"pruned": [*runs]})
        return
    for run in runs:
        click.echo(run)
    click.echo(f"removed: {len(runs)}")


def described(error: SparsiloError) -> dict[str, str]:
    """Return an error as a JSON document has it."""
    return {"code": error.code, "message": error.message, "hint": error.hint}
