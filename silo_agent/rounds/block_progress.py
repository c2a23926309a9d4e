"""How far this silo's pruning is, told three ways with the same numbers: in metrics, in the log, on a terminal's bar.
The log also says how far text is that the model writes.

How long a block takes may depend on the silo's text. All three are seen by the silo's own people only.
"""

import logging
from time import monotonic

from silo_agent.host.metrics import SiloMetrics
from silo_agent.rounds.run_pruning import PRUNING, Progress
from silo_agent.writing.self_text import WRITING

_log = logging.getLogger(__name__)


class BlockProgress:
    """Is told what is being done, as a Progress is, and hands it on to `bars`."""

    def __init__(self, metrics: SiloMetrics, bars: Progress) -> None:
        self._metrics, self._bars = metrics, bars
        self._first = 0, 0.0

    def __call__(self, task: str, done: int, total: int) -> None:
        """Tell that `task` stands at `done` of `total`."""
        self._bars(task, done, total)
        if task == WRITING:
            _log.info("%s: %d of %d tokens", task, done, total)
        if task != PRUNING:
            return
        self._metrics.blocks.set(total)
        self._metrics.blocks_done.set(done)
        first, since = self._first
        if not 0 < first < done:
            self._first = done, monotonic()
            _log.info("block %d of %d", done, total)
        else:
            seconds = round((monotonic() - since) / (done - first) * (total - done))
            _log.info("block %d of %d, about %d:%02d minutes left", done, total, seconds // 60, seconds % 60)
