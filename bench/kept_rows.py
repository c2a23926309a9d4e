"""What a long bench measured so far, in a file that is whole at any time, so that it may be stopped and go on."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from torch import Tensor

from bench.document import progress
from bench.pruned_models import Changed, Silos
from bench.ways import WAYS, Setting, ways_of
from silo_agent.checkpoint.dense_weights import DenseWeights
from silo_agent.host.whole_file import write_whole

FOLDER: Final = Path.home() / ".cache" / "sparsilo-bench"

Row = dict[str, Any]
Tables = dict[str, dict[str, dict[str, Row]]]
"""Rows by kind of silos, sparsity ratio or pattern, and name."""


class KeptRows:
    """Rows of tables, in a JSON file beside the setting that they were measured in."""

    def __init__(self, file: Path, setting: dict[str, Any]) -> None:
        self._file, self._setting = file, json.loads(json.dumps(setting))
        self.tables: Tables = {}
        if file.exists():
            document = json.loads(file.read_text())
            if document["setting"] != self._setting:
                raise SystemExit(f"{file}: was measured with other sequences; remove it, or name another --results")
            self.tables = document["tables"]

    def measure(
        self,
        silos: Silos,
        domain: str,
        targets: Iterable[str],
        ways: Iterable[str],
        weights: DenseWeights,
        self_text: Tensor,
        figures: Callable[[Iterable[Changed]], Row],
    ) -> None:
        """Measure the `figures` of what is lacking of one kind of silos."""
        for target in targets:
            rows = self.tables.setdefault(domain, {}).setdefault(target, {})
            with TemporaryDirectory() as folder:
                setting = Setting(weights, silos, target, self_text, Path(folder))
                for way in ways_of(target):
                    if way in ways and way not in rows:
                        rows[way] = figures(WAYS[way](setting))
                        self._save()
                        progress(f"{domain} {target} {way}:", rows[way])

    def _save(self) -> None:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(self._file, json.dumps({"setting": self._setting, "tables": self.tables}, indent=2).encode())
