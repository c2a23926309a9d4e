"""Keep-mask files: a mapping of bool tensors, checked against the model's shapes."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from crypto.errors import InputError
from silo_agent.checkpoint.pruned_file import PrunedFile

MASKS = {"a.weight": torch.tensor([[True, False, True]]), "b.weight": torch.zeros(2, 4, dtype=torch.bool)}
SHAPES: dict[str, tuple[int, ...]] = {"a.weight": (1, 3), "b.weight": (2, 4)}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "keep_mask.safetensors"
    save_file({**MASKS, "extra": torch.ones(3, dtype=torch.bool)}, file)
    return file


def test_it_is_a_mapping(file: Path) -> None:
    masks = PrunedFile(file)
    assert set(masks) == {"a.weight", "b.weight", "extra"}
    assert len(masks) == 3
    for name, mask in MASKS.items():
        assert torch.equal(masks[name], mask)
    assert masks.get("c.weight") is None
    assert "c.weight" not in masks
    with pytest.raises(KeyError):
        masks["c.weight"]


def test_a_keep_mask_for_each_tensor_and_nothing_else(file: Path, tmp_path: Path) -> None:
    PrunedFile(file).check_keep_masks({**SHAPES, "extra": (3,)})
    with pytest.raises(InputError, match="extra: is not a keep mask of shape None"):
        PrunedFile(file).check_keep_masks(SHAPES)


@pytest.mark.parametrize(
    ("name", "shape"), [("c.weight", (1, 3)), ("a.weight", (3, 1)), ("a.weight", (3,)), ("a.weight", (1, 3, 1))]
)
def test_a_missing_tensor_or_another_shape_is_refused(name: str, shape: tuple[int, ...], file: Path) -> None:
    with pytest.raises(InputError) as refused:
        PrunedFile(file).check_keep_masks({**SHAPES, "extra": (3,), name: shape})
    assert refused.value.message.startswith(f"{file}: {name}: ")
    assert str(shape) in refused.value.message


@pytest.mark.clause("14.3.2")
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.bfloat16, torch.int8])
def test_another_dtype_is_refused(dtype: torch.dtype, tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    save_file({"a.weight": MASKS["a.weight"], "b.weight": MASKS["b.weight"].to(dtype)}, file)
    with pytest.raises(InputError, match=r"b\.weight: is not a keep mask"):
        PrunedFile(file).check_keep_masks(SHAPES)


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04 a zip file", b"\xff" * 8])
def test_another_kind_of_file_is_refused(content: bytes | None, tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(InputError, match=r"x\.safetensors: holds no keep masks or weights"):
        PrunedFile(file)


def test_a_truncated_file_is_refused(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(InputError, match="holds no keep masks or weights"):
        PrunedFile(file)
