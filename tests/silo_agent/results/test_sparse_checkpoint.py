"""Sparse models, read back byte by byte with a reader of our own and with the libraries' readers."""

import json
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from crypto.errors import BadAudit, ModelError, OutputError
from silo_agent.checkpoint.dense_weights import DenseWeights
from silo_agent.checkpoint.tensor_files import read_tensor_file
from silo_agent.results import sparse_checkpoint
from silo_agent.results.sparse_checkpoint import SparseModel, check_sparse_model, division_of, write_sparse_model
from support.models import tiny_llama
from support.raw_tensors import raw_tensors

Pruned = Callable[[str], Tensor | None]

PROVENANCE = {"sparsilo": "1", "plan_digest": "ab" * 32}


def write(weights: DenseWeights, pruned: Pruned, folder: Path, metadata: dict[str, str]) -> dict[str, float]:
    """Write the model; the fraction of zeros by tensor."""
    model = sparse(weights, pruned, metadata)
    write_sparse_model(model, folder)
    return model.achieved


def sparse(weights: DenseWeights, pruned: Pruned, metadata: Mapping[str, str] = PROVENANCE, **more: Any) -> SparseModel:
    return SparseModel(weights, pruned, metadata, lambda achieved: f"{sum(achieved.values())}\n", **more)


def folder_tensors(folder: Path) -> dict[str, tuple[str, list[int], bytes]]:
    return {
        name: entry for file in sorted(folder.glob("*.safetensors")) for name, entry in raw_tensors(file)[1].items()
    }


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def random_keep(weights: DenseWeights) -> Callable[[str], Tensor]:
    """About one weight in three zeroed, another pattern for every tensor, the same at every call."""

    def keep(name: str) -> Tensor:
        generator = torch.Generator().manual_seed(sum(name.encode()))
        return torch.rand(weights.tensor(name).shape, generator=generator) > 1 / 3

    return keep


@pytest.fixture(params=[(torch.float32, False), (torch.bfloat16, True), (torch.float16, False)], ids=str)
def dense(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    dtype, shards = request.param
    folder = tmp_path / "dense"
    tiny_llama(folder, dtype=dtype, shards=shards)
    return folder


def test_only_zeroed_weights_change(dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sparse_checkpoint, "SLICE", 100)  # slices end inside rows and inside tensors
    weights = DenseWeights.open(dense)
    keep, digest = random_keep(weights), weights.digest()
    achieved = write(weights, keep, tmp_path / "sparse", PROVENANCE)
    assert weights.digest() == digest  # its tensors are views of the mapped files

    before, after = folder_tensors(dense), folder_tensors(tmp_path / "sparse")
    assert before.keys() == after.keys()
    assert achieved.keys() == set(weights.prunable)
    for name, (dtype, shape, content) in before.items():
        if name not in weights.prunable:
            assert after[name] == (dtype, shape, content)
            continue
        one = len(content) // int(np.prod(shape))
        expected = bytearray(content)
        zeros = 0
        for index, kept in enumerate(keep(name).flatten().tolist()):
            if not kept:
                expected[index * one : (index + 1) * one] = bytes(one)
                zeros += 1
        assert after[name] == (dtype, shape, bytes(expected))
        assert achieved[name] == zeros / int(np.prod(shape))
    for file in dense.iterdir():
        copy = tmp_path / "sparse" / file.name
        if file.suffix == ".safetensors":
            assert raw_tensors(copy)[0] == {"format": "pt"} | PROVENANCE
        elif file.name.endswith(".index.json"):
            assert json.loads(copy.read_bytes())["weight_map"] == json.loads(file.read_bytes())["weight_map"]
        else:
            assert copy.read_bytes() == file.read_bytes()
    assert (tmp_path / "sparse" / "README.md").read_text() == f"{sum(achieved.values())}\n"
    names = {file.name for file in dense.iterdir()} | {"README.md"}
    assert {file.name for file in (tmp_path / "sparse").iterdir()} == names


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_signs_of_zero_and_nan_payloads(tmp_path: Path, dtype: torch.dtype) -> None:
    """Kept weights keep every bit; zeroed ones become +0.0 whatever they were; both zeros count as zeros."""
    tiny_llama(tmp_path / "dense", dtype=dtype)
    file = tmp_path / "dense" / "model.safetensors"
    name = "model.layers.0.mlp.down_proj.weight"
    tensors = load_file(file)
    tensors[name] = tensors[name].clone()
    tensors[name][tensors[name] == 0] = 1.0
    one = dtype.itemsize
    # little-endian: -0.0, a quiet NaN and a signalling NaN with payloads, infinity, a negative number
    odd = {
        2: ["0080", "d5ff", "957f", "807f", "80bf"],
        4: ["00000080", "0dd0d5ff", "0df0957f", "0000807f", "000080bf"],
    }[one]
    row = torch.frombuffer(bytearray.fromhex("".join(odd)), dtype=dtype)
    tensors[name].view(-1)[:5] = row
    save_file(tensors, file, {"format": "pt"})
    content = raw_tensors(file)[1][name][2]
    assert content[: 5 * one] == bytes.fromhex("".join(odd))

    weights = DenseWeights.open(tmp_path / "dense")
    numel = tensors[name].numel()
    for kept in (True, False):

        def keep(asked: str, kept: bool = kept) -> Tensor | None:
            mask = torch.ones(weights.tensor(asked).shape, dtype=torch.bool)
            mask.view(-1)[:5] = kept
            return mask if asked == name else None

        folder = tmp_path / f"sparse_{kept}"
        achieved = write(weights, keep, folder, PROVENANCE)
        after = folder_tensors(folder)[name][2]
        assert after[5 * one :] == content[5 * one :]
        assert after[: 5 * one] == (content[: 5 * one] if kept else bytes(5 * one))
        assert achieved[name] == (1 if kept else 5) / numel
        others = set(weights.prunable) - {name}
        assert {other: achieved[other] for other in others} == dict.fromkeys(others, 0.0)


def test_it_loads_with_its_tokenizer_and_generates(dense: Path, tmp_path: Path) -> None:
    weights = DenseWeights.open(dense)
    keep = random_keep(weights)
    write(weights, keep, tmp_path / "sparse", PROVENANCE)
    model: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "sparse")
    loaded = model.state_dict()
    assert set(weights.prunable) <= loaded.keys()
    for name in weights.names:
        tensor = weights.tensor(name)
        expected = tensor.where(keep(name), torch.zeros_like(tensor)) if name in weights.prunable else tensor
        assert torch.equal(loaded[name], expected)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "sparse")
    ids = tokenizer("a", return_tensors="pt")["input_ids"]
    assert model.generate(ids, max_new_tokens=3, min_new_tokens=3).shape == (1, ids.shape[1] + 3)


@pytest.mark.parametrize("tied", [True, False])
def test_tied_embeddings_stay_tied_and_are_written_once(tmp_path: Path, tied: bool) -> None:
    dense = tmp_path / "dense"
    tiny_llama(dense)
    model: Any = AutoModelForCausalLM.from_pretrained(dense)
    model.config.tie_word_embeddings = tied
    (dense / "model.safetensors").unlink()
    type(model)(model.config).save_pretrained(dense)

    weights = DenseWeights.open(dense)
    write(weights, random_keep(weights), tmp_path / "sparse", PROVENANCE)
    assert ("lm_head.weight" in folder_tensors(tmp_path / "sparse")) is not tied
    sparse: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "sparse")
    assert (sparse.lm_head.weight is sparse.model.embed_tokens.weight) is tied
    assert torch.equal(sparse.model.embed_tokens.weight, weights.tensor("model.embed_tokens.weight"))
    assert torch.equal(sparse.lm_head.weight, weights.tensor(f"{'model.embed_tokens' if tied else 'lm_head'}.weight"))


def test_two_writes_are_byte_identical(dense: Path, tmp_path: Path) -> None:
    weights = DenseWeights.open(dense)
    backwards = dict(reversed(PROVENANCE.items()))
    (tmp_path / "b").mkdir()  # an empty folder is no obstacle
    first = write(weights, random_keep(weights), tmp_path / "a", PROVENANCE)
    again = write(DenseWeights.open(dense), random_keep(weights), tmp_path / "b", backwards)
    assert first == again
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_a_tensor_without_a_keep_mask_stays_dense(dense: Path, tmp_path: Path) -> None:
    weights = DenseWeights.open(dense)
    asked: list[str] = []
    achieved = write(weights, asked.append, tmp_path / "new" / "sparse", PROVENANCE)
    assert sorted(asked) == sorted(weights.prunable)
    assert set(achieved.values()) == {0.0}
    assert folder_tensors(tmp_path / "new" / "sparse") == folder_tensors(dense)


def test_only_files_that_a_plan_lists_are_copied(tmp_path: Path) -> None:
    dense = tmp_path / "dense"
    tiny_llama(dense)
    kept = {file.name for file in dense.iterdir()} | {"README.md", "extra.jinja", "linked.txt"}
    for name in ("pytorch_model.bin", "x.pt", "x.gguf", "x.ONNX", "extra.jinja", "README.md", "model.py", ".git.json"):
        (dense / name).write_bytes(b"x")
    (dense / "linked.txt").symlink_to(dense / "extra.jinja")  # as in the hub's cache
    (dense / "original").mkdir()
    (dense / "original" / "params.json").write_bytes(b"x")
    write(DenseWeights.open(dense), lambda _: None, tmp_path / "sparse", PROVENANCE)
    assert {file.name for file in (tmp_path / "sparse").iterdir()} == kept
    assert not any(file.is_symlink() for file in (tmp_path / "sparse").iterdir())


def test_a_tensor_that_the_index_does_not_name_is_left_out(tmp_path: Path) -> None:
    dense = tmp_path / "dense"
    tiny_llama(dense, shards=True)
    shard = sorted(dense.glob("*.safetensors"))[0]
    save_file(load_file(shard) | {"stray": torch.ones(3)}, shard, {"format": "pt"})
    weights = DenseWeights.open(dense)
    write(weights, lambda _: None, tmp_path / "sparse", PROVENANCE)
    assert folder_tensors(tmp_path / "sparse").keys() == set(weights.names)


def test_a_crash_leaves_nothing_behind(dense: Path, tmp_path: Path) -> None:
    weights = DenseWeights.open(dense)
    asked: list[str] = []

    def crash(name: str) -> Tensor | None:
        asked.append(name)
        if len(asked) == len(weights.prunable):
            raise RuntimeError("crash")
        return random_keep(weights)(name)

    with pytest.raises(RuntimeError, match="crash"):
        write(weights, crash, tmp_path / "sparse", PROVENANCE)
    assert [file.name for file in tmp_path.iterdir()] == ["dense"]


@pytest.mark.parametrize("change", [Tensor.byte, Tensor.flatten, lambda mask: mask[:3]])
def test_a_keep_mask_of_another_shape_or_type_is_refused(tmp_path: Path, change: Callable[[Tensor], Tensor]) -> None:
    tiny_llama(tmp_path / "dense")
    weights = DenseWeights.open(tmp_path / "dense")
    keep = random_keep(weights)
    with pytest.raises(ValueError, match="the pruned "):
        write(weights, lambda name: change(keep(name)), tmp_path / "sparse", PROVENANCE)
    assert [file.name for file in tmp_path.iterdir()] == ["dense"]


def test_a_place_with_something_in_it_is_refused(tmp_path: Path) -> None:
    tiny_llama(tmp_path / "dense")
    weights = DenseWeights.open(tmp_path / "dense")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious").write_bytes(b"x")
    (tmp_path / "file").write_bytes(b"x")
    before = sorted(tmp_path.rglob("*"))
    for folder in (tmp_path / "full", tmp_path / "dense", tmp_path / "file", tmp_path / "file" / "below"):
        asked: list[str] = []
        with pytest.raises(OutputError, match=folder.name):
            write(weights, asked.append, folder, PROVENANCE)
        assert not asked  # before the work, not after it
    assert sorted(tmp_path.rglob("*")) == before


def check(dense: Path, folder: Path) -> None:
    weights = DenseWeights.open(dense)
    model = sparse(weights, random_keep(weights), division=division_of(folder, weights.names))
    check_sparse_model(model, folder, lambda *_: None)


@pytest.fixture
def written(dense: Path, tmp_path: Path) -> Path:
    weights = DenseWeights.open(dense)
    write(weights, random_keep(weights), tmp_path / "sparse", PROVENANCE)
    return tmp_path / "sparse"


def test_what_was_written_is_what_follows(dense: Path, written: Path) -> None:
    check(dense, written)


def test_how_the_dense_model_is_divided_into_files_does_not_matter(tmp_path: Path) -> None:
    for name, shards in (("one", False), ("many", True)):
        tiny_llama(tmp_path / name, shards=shards)
        weights = DenseWeights.open(tmp_path / name)
        write(weights, random_keep(weights), tmp_path / f"sparse-{name}", PROVENANCE)
    check(tmp_path / "one", tmp_path / "sparse-many")
    check(tmp_path / "many", tmp_path / "sparse-one")


def test_a_flipped_byte_is_found_and_the_file_and_the_tensor_are_named(dense: Path, written: Path) -> None:
    for file in sorted(written.iterdir()):
        content = file.read_bytes()
        tensors = read_tensor_file(file).tensors if file.suffix == ".safetensors" else {}
        places = {name: stored.start + stored.size - 1 for name, stored in tensors.items()} or {"": len(content) // 2}
        for tensor, at in places.items():
            file.write_bytes(content[:at] + bytes([content[at] ^ 64]) + content[at + 1 :])
            with pytest.raises(
                BadAudit, match=re.escape(f"{file}: " + (f"tensor {tensor}: is not" if tensor else "is"))
            ):
                check(dense, written)
        file.write_bytes(content)
    check(dense, written)


@pytest.mark.parametrize("at", [0, 8, 9, 40, 200])
def test_a_flipped_byte_of_a_header_is_found(at: int, dense: Path, written: Path) -> None:
    file = sorted(written.glob("*.safetensors"))[0]
    content = file.read_bytes()
    file.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    with pytest.raises((BadAudit, ModelError), match=re.escape(str(written))):
        check(dense, written)


Change = Callable[[Path], object]
CHANGES: dict[str, Change] = {
    "README.md: is missing": lambda folder: (folder / "README.md").unlink(),
    "config.json: is missing": lambda folder: (folder / "config.json").rename(folder / "config.json.old"),
    "config.json: is too long": lambda folder: (folder / "config.json").open("ab").write(b" "),
    "tokenizer.json: is not what follows": lambda folder: (folder / "tokenizer.json").write_bytes(b"{"),
    "adapter_config.json: is no file of this model": lambda folder: (folder / "adapter_config.json").touch(),
    ".hidden: is no file of this model": lambda folder: (folder / ".hidden").mkdir(),
    "is not there once": lambda folder: shutil.copy(next(folder.glob("*.safetensors")), folder / "n.safetensors"),
}


@pytest.mark.parametrize("said", CHANGES)
def test_a_folder_that_is_otherwise_is_refused(said: str, dense: Path, written: Path) -> None:
    CHANGES[said](written)
    with pytest.raises(BadAudit, match=re.escape(said)):
        check(dense, written)


def test_a_link_to_the_right_content_is_none(dense: Path, written: Path) -> None:
    (written / "config.json").unlink()
    (written / "config.json").symlink_to(dense / "config.json")
    with pytest.raises(BadAudit, match=r"config\.json: is missing"):
        check(dense, written)
