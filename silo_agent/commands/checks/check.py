"""One line of `silo-agent preflight`: what was checked, how it came out, and what to do about it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from crypto.errors import InputError, SparsiloError

FIXES: Final[Mapping[str, str]] = {
    "config": "docs/formats.md, section 8, has the fields",
    "identity": "silo-agent enroll makes the signing key, silo-agent roster pin writes the roster",
    "TLS": "name the files that silo-agent enroll made, or your own and the aggregator's authority",
    "policy": "docs/formats.md, section 12, has the fields",
    "clock": "ask the aggregator's people",
    "proxy": "give proxy or proxy_file in the config",
}
"""What to do, by the check that failed, where the error itself does not say it."""


@dataclass(frozen=True)
class Check:
    """The outcome of one check.

    `status` is ok or failed; skipped after a failure of another check that this one stands on; fact or warning where
    there was nothing that could fail.
    """

    name: str
    status: str
    message: str
    error: SparsiloError | None = None


def tried(name: str, check: Callable[[], str | Check]) -> Check:
    """Return what `check` returns, or the failed check where it raises an error. A text stands for an ok check."""
    try:
        outcome = check()
    except SparsiloError as error:
        return failed(name, error)
    except OSError as error:  # a folder that cannot be made
        return failed(name, InputError(f"{error.filename}: {error.strerror}", hint="name another in the config"))
    return outcome if isinstance(outcome, Check) else Check(name, "ok", outcome)


def failed(name: str, error: SparsiloError) -> Check:
    """Return the failed check, with a hint from FIXES where the error has none."""
    error.hint = error.hint or FIXES.get(name, "")
    return Check(name, "failed", str(error), error)
