"""An agent keeps the results of runs that it approved, once; what is wrong with one is in its audit log."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from crypto.errors import BadAudit, ConnectionFailed
from silo_agent.consent.audit_log import AuditLog, read_audit_log
from silo_agent.consent.state_store import STATE_FILE, Decision, StateStore
from silo_agent.delivery.fetch import run_name
from silo_agent.delivery.kept_results import KeptResults
from silo_agent.results.manifest import MANIFEST_FILE, Manifest
from sparsilo.v1 import words_pb2

NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)
OURS, REJECTED, UNDECIDED, UNKNOWN = (bytes([number]) * 32 for number in range(4))


class Fetched:
    """Lists a result of every plan, and fetches what it is asked for."""

    def __init__(self, tmp_path: Path) -> None:
        self.folder, self.fails_with = tmp_path / "results", None
        self.listing_fails: Exception | None = None
        self.asked: list[bytes] = []
        self.settled: list[Path] = []
        self.manifests = {plan: Manifest(plan, ()) for plan in (OURS, REJECTED, UNDECIDED, UNKNOWN)}
        self.store, self.audit = StateStore(tmp_path / STATE_FILE), AuditLog(tmp_path)
        self.audit_file = tmp_path / "audit.jsonl"
        for plan, decision in ((OURS, Decision.APPROVED), (REJECTED, Decision.REJECTED), (UNDECIDED, None)):
            self.store.offer(plan, b"", NOW)
            if decision is not None:
                self.store.decide(plan, decision, "a person", NOW)

    def results(self) -> list[words_pb2.Result]:
        if self.listing_fails:
            raise self.listing_fails
        return [words_pb2.Result(plan=plan, manifest=made.digest) for plan, made in self.manifests.items()]

    def fetch(self, result: words_pb2.Result, *, with_words: bool) -> None:
        assert not with_words
        self.asked.append(result.plan)
        if self.fails_with is not None:
            raise self.fails_with
        folder = self.folder / run_name(result.plan)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MANIFEST_FILE).write_bytes(self.manifests[result.plan].encoded)

    def kept(self) -> KeptResults:
        transport: Any = self
        fetcher: Any = lambda: self  # noqa: E731
        return KeptResults(self.folder, transport, self.store, self.audit, fetcher, self.settled.append)

    @property
    def events(self) -> list[str]:
        return [entry["event"] for entry in read_audit_log(self.audit_file)]


def test_only_what_was_approved_and_once(tmp_path: Path) -> None:
    fetched = Fetched(tmp_path)
    kept = fetched.kept()
    for _ in range(3):
        kept.keep_up()
    fetched.kept().keep_up()  # also after a restart
    assert fetched.asked == [OURS]
    assert fetched.events == ["result_verified"]
    assert fetched.settled == [fetched.folder / run_name(OURS)]


def test_again_when_it_has_changed(tmp_path: Path) -> None:
    fetched = Fetched(tmp_path)
    fetched.kept().keep_up()
    fetched.manifests[OURS] = Manifest(OURS, (*fetched.manifests[OURS].files,))
    fetched.folder.joinpath(run_name(OURS), MANIFEST_FILE).write_bytes(b"of the result before its evaluation")
    fetched.kept().keep_up()
    assert fetched.asked == [OURS, OURS]


def test_one_that_is_wrong_is_not_fetched_over_and_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fetched = Fetched(tmp_path)
    fetched.fails_with = BadAudit("tensor x: is not what the opened sums make of it")  # type: ignore[assignment]
    kept = fetched.kept()
    kept.keep_up()
    kept.keep_up()
    assert fetched.asked == [OURS]
    assert fetched.events == ["result_refused"]
    assert "tensor x" in caplog.text


def test_a_lost_connection_is_no_fault_of_the_result(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fetched = Fetched(tmp_path)
    kept = fetched.kept()
    fetched.listing_fails = ConnectionFailed("cut")
    kept.keep_up()
    fetched.listing_fails, fetched.fails_with = None, ConnectionFailed("cut")  # type: ignore[assignment]
    kept.keep_up()
    fetched.fails_with = None
    kept.keep_up()
    assert fetched.asked == [OURS, OURS]
    assert fetched.events == ["result_verified"]
    assert "cannot be listed" in caplog.text
