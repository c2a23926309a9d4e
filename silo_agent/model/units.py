"""Calibration text by units: a unit is a person whom records name in `unit`, or else a record.

With noise no sequence has text of two units, and what becomes of one unit's text does not depend on another's: then a
unit changes nothing but its own contribution.
"""

import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from crypto.errors import CalibrationError
from silo_agent.model.calibration import records_of_units, tokenised

_log = logging.getLogger(__name__)


def read_units(file: Path, tokenizer: Any, *, units: int, sequence_length: int, sequences: int) -> list[list[Tensor]]:
    """Return for each of the first `units` units of a file its first `sequences` sequences: int64 [L_i], L at most.

    A unit's records are joined in the order of the file; its last sequence may be shorter. A unit without tokens keeps
    its place and has no sequence. A record that the tokenizer fails on has no tokens, with a warning (14.2.2). Raises
    CalibrationError naming the file, and the line where one is at fault.
    """
    tokens: dict[str | int, list[int]] = {}
    for number, (record, named) in enumerate(records_of_units(file), 1):
        unit = number if named is None else named
        if unit not in tokens and len(tokens) == units:
            continue  # the unit is beyond those that are used, and later records may be of one that is
        of_unit = tokens.setdefault(unit, [])
        try:
            for ids in tokenised(file, number, record, tokenizer) if record else ():  # of nothing there are tokens too
                of_unit += ids[: sequences * sequence_length - len(of_unit)]
        except CalibrationError as error:
            _log.warning("%s; it is left out", error.message)
    if len(tokens) == 1:
        _log.warning("%s: is one unit: noise hides all of it, and leaves next to nothing of it", file)
    return [
        [torch.tensor(of_unit[at : at + sequence_length]) for at in range(0, len(of_unit), sequence_length)]
        for of_unit in tokens.values()
    ]
