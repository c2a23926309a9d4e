"""The results that an agent keeps in a folder: of every run that this silo approved, once it is verified."""

import logging
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from crypto.errors import LinkError, SparsiloError
from silo_agent.consent.audit_log import AuditLog
from silo_agent.consent.state_store import Decision, StateStore
from silo_agent.delivery.fetch import ResultFetcher, is_there, run_name
from silo_agent.network.transport import Transport
from sparsilo.v1 import words_pb2

_log = logging.getLogger(__name__)


class KeptResults:
    """Fetches what is new into `folder`, whenever the agent has nothing else to do."""

    def __init__(
        self,
        folder: Path,
        transport: Transport,
        store: StateStore,
        audit: AuditLog,
        fetcher: Callable[[], ResultFetcher],
        settle: Callable[[Path], None],
    ) -> None:
        """`fetcher` is asked for each result, since the pinned roster may have changed. `settle` is called with the
        folder of each that was verified.
        """
        self._folder, self._transport, self._store, self._audit = folder, transport, store, audit
        self._fetcher, self._settle = fetcher, settle
        self._refused: set[bytes] = set()

    def keep_up(self) -> None:
        """Fetch and verify the results that are listed and not there. What is wrong is logged; a result with which
        something is wrong is not fetched again.
        """
        try:
            listed = self._transport.results()
        except SparsiloError as error:
            _log.warning("results cannot be listed: %s", error)
            return
        for result in listed:
            is_ours = self._store.decision(result.plan) is Decision.APPROVED
            if is_ours and result.manifest not in self._refused and not is_there(self._folder, result):
                self._fetch(result)

    def _fetch(self, result: words_pb2.Result) -> None:
        run = run_name(result.plan)
        try:
            self._fetcher().fetch(result, with_words=False)
            self._settle(self._folder / run)
        except LinkError as error:
            _log.warning("run %s: its result will be fetched later: %s", run, error)
        except SparsiloError as error:
            self._refused.add(result.manifest)
            _log.error("run %s: its result is not kept: %s", run, error)
            self._note("result_refused", plan=result.plan.hex(), reason=error.code)
        else:
            _log.info("run %s: its result is verified, and in %s", run, self._folder / run)
            self._note("result_verified", plan=result.plan.hex())

    def _note(self, event: str, **fields: object) -> None:
        self._audit.append(event, "agent", datetime.now(UTC), **fields)
