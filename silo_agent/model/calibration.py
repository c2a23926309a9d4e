"""Calibration text to sequences of token ids: what the model is run on to see which weights matter.

`.txt` is one record; `.jsonl` holds a record a line, `{"text": ..., "unit": ...}` (`unit` names the person it belongs
to, optional). Records are tokenised with the model's tokenizer as it adds special tokens, concatenated in file order
and cut into consecutive sequences. Files are read as bytes, so a file gives the same sequences on every machine.
"""

import json
import logging
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from crypto.errors import CalibrationError, ConfigError
from silo_agent.host.file_digest import file_digest

MOST_CHARACTERS: Final = 1 << 18
"""Characters that the tokenizer gets at a time: each takes 400 bytes of memory, and Ctrl-C is heard when it returns."""
MOST_LINE_BYTES: Final = 1 << 24
"""Bytes of a line of a `.jsonl` file, which is read at once."""

_log = logging.getLogger(__name__)


def usual_length(config: Any, asked: int | None) -> int:
    """Return how many tokens a sequence has: `asked`, else 2048 or the model's positions, whichever is less.

    Raises ConfigError where more is asked for than the model has positions.
    """
    most = positions(config)
    if asked is None:
        return min(2048, most or 2048)
    if most is not None and asked > most:
        raise ConfigError(f"--sequence-length: {asked} tokens, the model has {most} positions", hint=f"at most {most}")
    return asked


def positions(config: Any) -> int | None:
    """Return how many positions a model has at most, where its config says so."""
    most = getattr(getattr(config, "text_config", config), "max_position_embeddings", None)
    return most if most is not None and most > 0 else None


def read_sequences(
    file: Path, tokenizer: Any, *, samples: int, sequence_length: int, held_out: int = 0, fill: bool = False
) -> tuple[Tensor, Tensor]:
    """Return the first `samples` whole sequences and the next `held_out`: int64 [samples, L] and [held_out, L].

    Reads no further than needed. With `fill` a text that is too short is repeated from its beginning, and records that
    the tokenizer fails on are left out, both with a warning (14.2.2): how much text a silo has must not end in a
    refusal. Raises CalibrationError naming the file, and the line or record where one is at fault.
    """
    needed, tokens = (samples + held_out) * sequence_length, list[int]()
    for number, record in enumerate(records(file), 1):
        try:
            for ids in tokenised(file, number, record, tokenizer):
                tokens += ids
                if len(tokens) >= needed:
                    break
        except CalibrationError as error:
            if not fill:
                raise
            _log.warning("%s; it is left out", error.message)
        if len(tokens) >= needed:
            break
    if len(tokens) < needed:
        whole = len(tokens) // sequence_length
        asked = f"{samples} + {held_out} held out" if held_out else f"{samples}"
        short = f"{file}: has {whole} whole sequences of {sequence_length} tokens; {asked} are needed"
        if not fill:
            raise CalibrationError(short, hint="give more text, or lower --samples or --sequence-length")
        _log.warning("%s: the text is repeated", short)
        tokens = (tokens or [0]) * -(-needed // max(1, len(tokens)))
    sequences = torch.tensor(tokens[:needed]).view(-1, sequence_length)
    return sequences[:samples], sequences[samples:]


def tokenised(file: Path, number: int, record: str, tokenizer: Any) -> Iterator[list[int]]:
    """Yield the token ids of a file's record, piece by piece. Raises CalibrationError naming file and record.

    `number` says which record it is; the first one is 1.
    """
    for piece in _pieces(record):
        try:
            ids: list[int] = tokenizer(piece, verbose=False)["input_ids"]  # verbose would warn about every long record
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # noqa: BLE001 - a panic of the library is no Exception; its words may be the text's
            raise CalibrationError(
                f"{file}: record {number}: the tokenizer fails on it: {type(error).__name__}",
                hint="copy the model's tokenizer files again",
            ) from None
        yield ids


def _pieces(record: str) -> Iterator[str]:
    """Cut a record after the last line break among the first MOST_CHARACTERS, or after these, and so on."""
    start = 0
    while len(record) - start > MOST_CHARACTERS:
        most = start + MOST_CHARACTERS
        end = record.rfind("\n", start, most) + 1 or most
        yield record[start:end]
        start = end
    yield record[start:]


def check_text(file: Path) -> None:
    """Read the whole file. Raises CalibrationError naming it, and the line where one is at fault."""
    if not sum(map(bool, records(file))):
        raise CalibrationError(f"{file}: has no text", hint="give a file with text in it")


def data_digest(file: Path) -> bytes:
    """Return SHA-256 of the file, by which the release ledger knows its text. Raises CalibrationError naming it."""
    try:
        return file_digest(file)
    except OSError as error:
        raise CalibrationError(f"{file}: {error.strerror}", hint="name a file that can be read") from None


class WatchedText:
    """A calibration file that its institution may replace, or write to, while an agent runs."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._seen: tuple[int, ...] = ()
        self._digest = b""

    @property
    def digest(self) -> bytes:
        """The file's `data_digest`, computed again where the file is another one. Raises CalibrationError."""
        try:
            status = self._file.stat()
        except OSError:  # data_digest says which
            return data_digest(self._file)
        if (seen := (status.st_mtime_ns, status.st_ino, status.st_size)) != self._seen:
            self._digest, self._seen = data_digest(self._file), seen
        return self._digest


def records(file: Path) -> Iterator[str]:
    """Yield every record's text. Raises CalibrationError naming the file, and the line where one is at fault."""
    return (text for text, _ in records_of_units(file))


def records_of_units(file: Path) -> Iterator[tuple[str, str | None]]:
    """Yield every record's text, and the unit that it belongs to; None where it names none. Raises as `records`."""
    if file.suffix not in (".txt", ".jsonl"):
        raise CalibrationError(f"{file}: is neither .txt nor .jsonl", hint="name the file by its format")
    try:
        with file.open("rb") as lines:
            if file.suffix == ".txt":
                yield _decode(file, lines.read(), 1), None
            else:
                for number, line in enumerate(iter(partial(lines.readline, MOST_LINE_BYTES + 1), b""), 1):
                    if len(line) > MOST_LINE_BYTES:
                        raise CalibrationError(
                            f"{file}: line {number}: is longer than {MOST_LINE_BYTES} bytes",
                            hint="split the record into several, a line each",
                        )
                    if line.strip():
                        yield _record(file, _decode(file, line, number), number)
    except OSError as error:
        raise CalibrationError(f"{file}: {error.strerror}", hint="name a file that can be read") from error


def _decode(file: Path, content: bytes, first_line: int) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = first_line + content.count(b"\n", 0, error.start)
        raise CalibrationError(f"{file}: line {line}: not UTF-8", hint="save the file as UTF-8") from None


def _record(file: Path, line: str, number: int) -> tuple[str, str | None]:
    """Return a JSON line's `text` and `unit`. Messages carry nothing of the line itself, which is private."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        raise CalibrationError(f"{file}: line {number}: not valid JSON", hint="write one JSON object a line") from None
    text = record.get("text") if isinstance(record, dict) else None
    if not isinstance(text, str):
        raise CalibrationError(f"{file}: line {number}: no `text` string", hint='write {"text": "..."} a line')
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise CalibrationError(f"{file}: line {number}: `text` has a lone surrogate", hint="write valid Unicode")
    unit = record.get("unit")
    if not (unit is None or type(unit) in (str, int)):  # a truth value is an int to Python
        raise CalibrationError(
            f"{file}: line {number}: `unit` is neither a text nor a whole number",
            hint="name the person that the record is about, or leave it out",
        )
    return text, None if unit is None else str(unit)
