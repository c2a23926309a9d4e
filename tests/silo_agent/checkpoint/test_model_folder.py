"""A model's name: a folder, or a hub id found in the hub's cache. No network."""

from hashlib import sha256
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub.errors import HTTPError

from crypto.errors import ModelError
from silo_agent.checkpoint import model_folder as module
from silo_agent.checkpoint.dense_weights import DenseWeights
from silo_agent.checkpoint.model_folder import copied_files, file_digests, model_folder
from support.models import tiny_llama

COMMIT = "0123456789abcdef0123456789abcdef01234567"
NAME = f"owner/tiny@{COMMIT}"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub cache that has a commit of `owner/tiny`, also as branch main, on a machine that is offline."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.chdir(tmp_path)  # where no folder has the names used here
    repository = tmp_path / "models--owner--tiny"
    tiny_llama(repository / "snapshots" / COMMIT, blocks=1)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    return repository / "snapshots" / COMMIT


def test_a_hub_id_with_its_commit_is_its_snapshot(cache: Path) -> None:
    assert model_folder(NAME) == cache
    assert DenseWeights.open(model_folder(NAME)).tokenizer


@pytest.mark.parametrize(
    "revision", ["", "@", "@main", "@v1", f"@{COMMIT[:7]}", f"@{COMMIT[:39]}", f"@{COMMIT}0", f"@{COMMIT[:39]}F"]
)
def test_what_a_branch_or_a_tag_means_can_change(cache: Path, revision: str) -> None:
    with pytest.raises(ModelError, match="no hub id with a commit") as raised:
        model_folder(f"owner/tiny{revision}")
    assert raised.value.hint.startswith("owner/tiny@ and the 40 hex digits")


def test_a_folder_is_itself_even_where_it_looks_like_an_id(cache: Path) -> None:
    assert model_folder(cache) == model_folder(str(cache)) == cache
    Path("owner/tiny").mkdir(parents=True)
    assert model_folder("owner/tiny") == Path("owner/tiny")


@pytest.mark.parametrize("name", ["nowhere", "a/b/c", "/owner/tiny", "../tiny", "owner/", Path("/x")])
def test_neither_folder_nor_id(cache: Path, name: str | Path) -> None:
    with pytest.raises(ModelError, match="no such folder") as raised:
        model_folder(name)
    assert "hub id" in raised.value.hint


@pytest.mark.parametrize("name", [f"owner/other@{COMMIT}", f"owner/tiny@{COMMIT[::-1]}", f"owner/ti..ny@{COMMIT}"])
def test_not_in_the_cache(cache: Path, name: str) -> None:
    with pytest.raises(ModelError, match=rf"^{name}: no such folder, and not to be had from the hub: \w+Error: "):
        model_folder(name)


@pytest.mark.parametrize("error", [HTTPError("connection\nlost"), OSError(28, "No space left"), ValueError("odd")])
def test_what_goes_wrong_on_the_way_is_one_line(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def download(*_: object, **__: object) -> str:
        raise error

    monkeypatch.setattr(module, "snapshot_download", download)
    with pytest.raises(ModelError) as raised:
        model_folder(NAME)
    assert raised.value.__cause__ is error and "\\n" not in str(raised.value) and len(str(raised.value)) < 500


def test_weights_config_and_tokenizer_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    files = {
        "config.json": True,
        "model.safetensors": True,
        "model-00001-of-00002.safetensors": True,
        "model.safetensors.index.json": True,
        "tokenizer.json": True,
        "tokenizer.model": True,
        "merges.txt": True,
        "chat_template.jinja": True,
        "pytorch_model.bin": False,
        "modeling_tiny.py": False,
        "consolidated.safetensors": False,
        "original/params.json": False,
        "onnx/model.safetensors": False,
        "model.gguf": False,
    }
    asked: list[tuple[str, dict[str, object]]] = []

    def download(repository: str, **options: object) -> str:
        asked.append((repository, options))
        return "there"

    monkeypatch.setattr(module, "snapshot_download", download)
    assert model_folder(NAME) == Path("there")
    ((repository, options),) = asked
    assert repository == "owner/tiny" and options.pop("revision") == COMMIT
    found = huggingface_hub.utils.filter_repo_objects(files, **options)  # type: ignore[arg-type]
    assert set(found) == {file for file, wanted in files.items() if wanted}


def test_digests_are_of_what_may_be_read_and_of_nothing_else(tmp_path: Path) -> None:
    read = ("config.json", "merges.txt", "template.jinja", "tokenizer.json", "tokenizer.model", "vocab.tiktoken")
    others = ("README.md", "model.safetensors", "model.safetensors.index.json", "modeling.py", ".hidden.json", "a.bin")
    for name in (*read, *others):
        (tmp_path / name).write_text(name)
    (tmp_path / "original.json").mkdir()
    (tmp_path / "original.json" / "params.json").write_text("{}")
    assert file_digests(tmp_path) == {name: sha256(name.encode()).digest() for name in read}
    assert list(file_digests(tmp_path)) == sorted(read)
    with copied_files(tmp_path, file_digests(tmp_path)) as folder:
        assert {file.name: file.read_text() for file in folder.iterdir()} == {name: name for name in read}
    assert not folder.exists()


def test_a_file_that_changed_since_or_is_gone(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    digests = file_digests(tmp_path)
    (tmp_path / "config.json").write_text("{ }")
    with pytest.raises(ModelError, match=r"config[.]json: was changed"), copied_files(tmp_path, digests):
        pass
    (tmp_path / "config.json").unlink()
    with pytest.raises(ModelError, match=r"config[.]json: cannot be read"), copied_files(tmp_path, digests):
        pass
