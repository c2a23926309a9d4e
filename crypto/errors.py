"""Every error Sparsilo raises on purpose, as one tree.

The first level says whose fault it is, and so what to change; `exit_code` is the command line's contract for it.
A message names the file, field or party and what is wrong, on one line; `hint` says what to do about it.
No message ever carries key material, calibration text or a keep mask.
"""

from typing import ClassVar, Final

MOST_CHARACTERS: Final = 1000


class SparsiloError(Exception):
    """Root of the tree. `code` is the stable machine name, `exit_code` the process's exit status."""

    code: ClassVar[str] = "error"
    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        self.message = _one_line(message)
        self.hint = hint
        super().__init__(self.message)

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


def _one_line(text: str) -> str:
    """Return a text without line breaks, terminal escapes or megabytes: a peer's words may be quoted in a message."""
    shown = text if len(text) <= MOST_CHARACTERS else text[:MOST_CHARACTERS] + "..."
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in shown)


# --- The caller's: an option, a file or a plan is wrong. Change it and run again. -------------------------------


class InputError(SparsiloError):
    """Something the user gave is wrong; nothing was written."""

    code = "input"
    exit_code = 4


class ConfigError(InputError):
    """A command-line option, environment variable or config field is wrong."""

    code = "config"


class ModelError(InputError):
    """A model folder is missing, damaged, or of a kind that cannot be pruned."""

    code = "model"


class CalibrationError(InputError):
    """A calibration file is missing, malformed or too short."""

    code = "calibration"


class PlanError(InputError):
    """A plan contradicts itself or what this party can do (threshold, cohort, lane width, ratio, model)."""

    code = "plan"


class ReleaseRefused(InputError):
    """This silo does not release: its ledger, its policy or a person says no, or it spoke in the round before."""

    code = "release_refused"


class OutputError(InputError):
    """The place to write to cannot be used."""

    code = "output"


# --- The link's: identity or connection. Nobody's data is at fault. ---------------------------------------------


class LinkError(SparsiloError):
    """The other side cannot be reached or is not who it should be."""

    code = "link"
    exit_code = 2


class ConnectionFailed(LinkError):
    """No connection, or it was lost and did not come back in time."""

    code = "connection"


class IdentityError(LinkError):
    """A certificate, key or roster entry is missing, unreadable or does not match."""

    code = "identity"


class VersionsDiffer(LinkError):
    """Both sides work, and do not speak the same version of the protocol."""

    code = "versions"


# --- Another party's: it broke the protocol. `party` says who. --------------------------------------------------


class ProtocolError(SparsiloError):
    """A party sent what the protocol does not allow. The round cannot be trusted and is aborted."""

    code = "protocol"

    def __init__(self, message: str, *, party: str = "", hint: str = "") -> None:
        super().__init__(f"{party}: {message}" if party else message, hint=hint)
        self.party = party


class MalformedMessage(ProtocolError):
    """Bytes that are not the one canonical encoding of a known message within its size limits."""

    code = "malformed_message"


class UnexpectedMessage(ProtocolError):
    """A well-formed message that the transition table does not list for the present phase."""

    code = "unexpected_message"


class BadSignature(ProtocolError):
    """A signature does not verify under the roster's key for that silo."""

    code = "bad_signature"


class BadSeal(ProtocolError):
    """A sealed message does not open: wrong key, wrong context, or altered."""

    code = "bad_seal"


class BadShare(ProtocolError):
    """Shamir shares that do not lie on one polynomial, or are outside the field."""

    code = "bad_share"


class BadUpload(ProtocolError):
    """Uploaded words do not match the chunk table or the signed root."""

    code = "bad_upload"


class BadAudit(ProtocolError):
    """Recomputed from the committed uploads, a chunk is not what the aggregator opened; or nobody recomputed it."""

    code = "bad_audit"


class CorruptSum(ProtocolError):
    """An opened sum fails a corruption check (header word, count above survivors, group sum)."""

    code = "corrupt_sum"


# --- Nobody's: the round could not be completed. ----------------------------------------------------------------


class RoundAborted(SparsiloError):
    """The round ended without a result; the message names the phase and the reason."""

    code = "round_aborted"


class DiskFailed(RoundAborted):
    """What the aggregator keeps of a round cannot be read, or is not what was written. No silo is at fault, or was told
    that the round ended.
    """

    code = "disk_failed"

    @classmethod
    def changed(cls, file: object) -> "DiskFailed":
        """Return the error for a file that is damaged or lost."""
        return cls(
            f"{file}: is not what was written there", hint="the disk lost or changed it; silos did nothing wrong"
        )


class TooFewSurvivors(RoundAborted):
    """Fewer silos answered in a phase than the plan's threshold or least survivors."""

    code = "too_few_survivors"


class PreparationFailed(SparsiloError):
    """This silo could not compute what it agreed to release. Why, only it itself knows: the error's cause."""

    code = "failed"


class TimedOut(SparsiloError):
    """The time that the user allowed ran out."""

    code = "timed_out"
    exit_code = 3
