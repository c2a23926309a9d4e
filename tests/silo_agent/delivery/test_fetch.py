"""What is fetched is what was listed, within bounds, and in its place only once it is verified."""

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from crypto.errors import BadAudit, ConnectionFailed, InputError, MalformedMessage, ProtocolError, SparsiloError
from silo_agent.delivery import fetch
from silo_agent.delivery.fetch import ResultFetcher, find_result, is_there, run_name
from silo_agent.results.manifest import MANIFEST_FILE, Manifest
from sparsilo.v1 import words_pb2

PLAN = bytes(range(32))
RUN = run_name(PLAN)
FILES = {
    "model/config.json": b"{}",
    "model/model.safetensors": b"weights" * 100,
    "model-quantised/model.safetensors": b"levels" * 50,
    "report.html": b"<script>",
    "report.json": b"{}",
    "keep_counts.safetensors": b"counts",
    "transcript/opened_sum.words": b"sum" * 10,
    "transcript/silo-000.words": b"own" * 10,
    "transcript/transcript": b"signed",
}
FETCHED = {
    name for name in FILES if name not in ("report.html", "keep_counts.safetensors", "transcript/silo-000.words")
}


class Aggregator:
    """Serves files by digest, and remembers which were asked for."""

    def __init__(self, folder: Path, files: dict[str, bytes], plan: bytes = PLAN) -> None:
        for name, content in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        self.manifest = Manifest.of_folder(plan, folder)
        self.served = {sha256(content).digest(): content for content in (*files.values(), self.manifest.encoded)}
        self.asked: list[bytes] = []
        self.cut_after: int | None = None

    @property
    def result(self) -> words_pb2.Result:
        return words_pb2.Result(plan=PLAN, manifest=self.manifest.digest)

    def download(self, request: words_pb2.FileRequest, file: Path, most: int) -> None:
        """Write the file that is asked for, as the real transport does."""
        if self.cut_after is not None and len(self.asked) >= self.cut_after:
            raise ConnectionFailed("cut")
        self.asked.append(request.result)
        content = self.served[request.result]
        if len(content) > most:
            raise ProtocolError("serves a file of more bytes", party="aggregator")
        file.write_bytes(content)


def verifying(plan: bytes = PLAN) -> Callable[..., dict[str, Any]]:
    return lambda model, *_: {"plan": plan.hex(), "folder": str(model)}


@pytest.fixture(autouse=True)
def verified(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "verify_model", verifying())


def fetcher(aggregator: Aggregator, tmp_path: Path) -> ResultFetcher:
    dense = tmp_path / "dense"
    dense.mkdir(exist_ok=True)
    (dense / "model.safetensors").write_bytes(bytes(1000))
    weights: Any = SimpleNamespace(folder=dense, prunable=["a"], shape=lambda _: (10, 10))
    transport: Any = aggregator
    return ResultFetcher(transport, weights, {}, tmp_path / "results", lambda *_: None)


def contents(folder: Path) -> dict[str, bytes]:
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize("with_words", [False, True])
def test_the_model_the_report_and_the_proofs_are_fetched_and_no_page(with_words: bool, tmp_path: Path) -> None:
    aggregator = Aggregator(tmp_path / "published", FILES)
    said = fetcher(aggregator, tmp_path).fetch(aggregator.result, with_words=with_words)
    out = tmp_path / "results" / RUN
    assert said["folder"] == str(out)
    names = FETCHED | ({"transcript/silo-000.words"} if with_words else set())
    assert contents(out) == {name: FILES[name] for name in names} | {MANIFEST_FILE: aggregator.manifest.encoded}
    assert [path.name for path in (tmp_path / "results").iterdir()] == [RUN]
    assert is_there(tmp_path / "results", aggregator.result)


def test_what_was_cut_goes_on_where_it_was(tmp_path: Path) -> None:
    aggregator = Aggregator(tmp_path / "published", FILES)
    for come in range(len(FETCHED) + 1):
        aggregator.cut_after = come
        with pytest.raises(ConnectionFailed):
            fetcher(aggregator, tmp_path).fetch(aggregator.result, with_words=False)
        assert not (tmp_path / "results" / RUN).exists()
    aggregator.cut_after = None
    fetcher(aggregator, tmp_path).fetch(aggregator.result, with_words=False)
    assert (
        len(aggregator.asked) == len({*aggregator.asked}) + 1 == len(FETCHED) + 1
    )  # model config and report are equal


def test_of_a_changed_result_only_what_changed_is_fetched(tmp_path: Path) -> None:
    first = Aggregator(tmp_path / "first", FILES)
    fetcher(first, tmp_path).fetch(first.result, with_words=False)
    second = Aggregator(tmp_path / "second", {**FILES, "report.json": b"with perplexities"})
    assert not is_there(tmp_path / "results", second.result)
    fetcher(second, tmp_path).fetch(second.result, with_words=False)
    assert second.asked == [second.manifest.digest, sha256(b"with perplexities").digest()]
    assert (tmp_path / "results" / RUN / "report.json").read_bytes() == b"with perplexities"
    assert [path.name for path in (tmp_path / "results").iterdir()] == [RUN]


@pytest.mark.clause("7.31")
def test_nothing_is_in_its_place_that_does_not_verify(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> Any:
        raise BadAudit("tensor x: is not what the opened sums make of it")

    aggregator = Aggregator(tmp_path / "published", FILES)
    for check, said in ((refuse, "tensor x"), (verifying(bytes(32)), "for another")):
        monkeypatch.setattr(fetch, "verify_model", check)
        with pytest.raises(BadAudit, match=said):
            fetcher(aggregator, tmp_path).fetch(aggregator.result, with_words=False)
        assert not (tmp_path / "results" / RUN).exists()


def served_as(content: bytes) -> Callable[[Aggregator], object]:
    return lambda aggregator: aggregator.served.update({sha256(FILES["model/config.json"]).digest(): content})


Lie = Callable[[Aggregator], object]
LIES: dict[str, Lie] = {
    "another config.json": served_as(b"[]"),
    "more bytes": served_as(b"{}" * 100),
    "another manifest.json": lambda aggregator: aggregator.served.update({aggregator.manifest.digest: b"{}"}),
}


@pytest.mark.clause("7.31")
@pytest.mark.parametrize("said", LIES)
def test_what_is_not_what_was_listed_is_deleted(said: str, tmp_path: Path) -> None:
    aggregator = Aggregator(tmp_path / "published", FILES)
    LIES[said](aggregator)
    with pytest.raises(ProtocolError, match=said):
        fetcher(aggregator, tmp_path).fetch(aggregator.result, with_words=False)
    assert not (tmp_path / "results" / RUN).exists()


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("model/model.safetensors", 2_000),
        ("model/another.json", 2_000),
        ("model-quantised/model.safetensors", 2_000),
        ("report.json", 3_000),
        ("transcript/opened_sum.words", 3_000),
        ("transcript/silo-000.words", 31),
    ],
)
def test_more_bytes_than_there_can_be_are_not_asked_for(
    name: str, size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "ROOM", 500)
    aggregator = Aggregator(tmp_path / "published", {**FILES, name: bytes(size)})
    with pytest.raises(ProtocolError, match=r"lists .* with more bytes than there can be"):
        fetcher(aggregator, tmp_path).fetch(aggregator.result, with_words=True)
    assert aggregator.asked == [aggregator.manifest.digest]


def test_the_files_of_another_run_and_what_is_no_manifest(tmp_path: Path) -> None:
    other = Aggregator(tmp_path / "published", FILES, plan=bytes(32))
    with pytest.raises(BadAudit, match="another run"):
        fetcher(other, tmp_path).fetch(other.result, with_words=False)
    other.served[sha256(b"{}").digest()] = b"{}"
    with pytest.raises(MalformedMessage):
        listed = words_pb2.Result(plan=PLAN, manifest=sha256(b"{}").digest())
        fetcher(other, tmp_path).fetch(listed, with_words=False)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    aggregator = Aggregator(tmp_path / "published", FILES)
    (tmp_path / "results").write_bytes(b"a file")
    with pytest.raises(SparsiloError, match="results: cannot be written"):
        fetcher(aggregator, tmp_path).fetch(aggregator.result, with_words=False)


def test_a_run_is_named_by_the_beginning_of_its_name() -> None:
    results = [words_pb2.Result(plan=bytes([1, number]) + bytes(30)) for number in (2, 3)]
    assert find_result(results, "0102") is results[0]
    for run, said in (("01", "several"), ("ff", "no such result")):
        with pytest.raises(InputError, match=said):
            find_result(results, run)
