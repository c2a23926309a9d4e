"""2:4 weights as semi-structured tensors: the check, what stays dense, and the products, as far as a CPU can tell."""

import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.sparse import SparseSemiStructuredTensorCUTLASS
from torch.sparse._semi_structured_conversions import sparse_semi_structured_to_dense_cutlass
from transformers.pytorch_utils import Conv1D

from crypto.errors import ModelError
from silo_agent.checkpoint import semi_structured
from silo_agent.checkpoint.semi_structured import check_two_of_four, convert_to_semi_structured
from support.models import family, in_memory, tiny_model


def two_of_four(rows: int, columns: int, seed: int = 0) -> Tensor:
    """A random float32 weight [d_out, d_in] whose groups of four keep two at random places."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, generator=generator)
    order = torch.rand(rows, columns // 4, 4, generator=generator).argsort(-1)
    return weight * (order < 2).reshape(rows, columns)


@pytest.mark.parametrize("kept", list(itertools.product([False, True], repeat=4)), ids=str)
def test_every_keep_mask_of_four(kept: tuple[bool, ...]) -> None:
    weight = two_of_four(3, 16)
    weight[1, 8:12] = torch.tensor(kept) * -0.5
    if sum(kept) <= 2:
        check_two_of_four("w", weight)
        return
    with pytest.raises(ModelError) as refused:
        check_two_of_four("layers.7.w", weight)
    assert refused.value.message == (
        "layers.7.w: 1 of 12 groups of 4 keep more than 2 weights; the first is row 1, inputs 8 to 11"
    )


def test_groups_of_four_begin_at_multiples_of_four() -> None:
    weight = torch.tensor([[0.0, 0, 1, 1, 1, 1, 0, 0]])
    check_two_of_four("w", weight)
    with pytest.raises(ModelError, match="inputs 4 to 7"):
        check_two_of_four("w", weight.roll(2))
    with pytest.raises(ModelError, match="6 inputs are no multiple of 4"):
        check_two_of_four("w", torch.zeros(2, 6))


class Small(nn.Module):
    """A layer of each kind that can be converted, and one that cannot."""

    def __init__(self, dtype: torch.dtype = torch.float16) -> None:
        super().__init__()
        self.biased = nn.Linear(64, 96)
        self.plain = nn.Linear(96, 64, bias=False)
        self.turned: Any = Conv1D(128, 64)
        self.experts = nn.Parameter(torch.zeros(2, 64, 64))
        with torch.no_grad():
            self.biased.weight.copy_(two_of_four(96, 64, 1))
            self.plain.weight.copy_(two_of_four(64, 96, 2))
            self.turned.weight.copy_(two_of_four(128, 64, 3).t())
            self.turned.bias.normal_(generator=torch.Generator().manual_seed(4))
        self.to(dtype).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.turned(self.plain(self.biased(x)))
        return result


NAMES = ["biased.weight", "plain.weight", "turned.weight"]


def test_on_a_cpu_all_stays_dense_and_each_reason_is_told() -> None:
    model = Small()
    before = dict(model.state_dict())
    dense = convert_to_semi_structured(model, [*NAMES, "experts", "nowhere.weight"])
    assert dense.keys() == {*NAMES, "experts", "nowhere.weight"}
    assert all("CUDA" in dense[name] for name in ("biased.weight", "turned.weight"))
    assert "multiples of 32 x 64" in dense["plain.weight"]  # 96 inputs
    assert dense["experts"] == dense["nowhere.weight"]
    assert "no linear layer" in dense["experts"]
    assert all(after is before[name] or torch.equal(after, before[name]) for name, after in model.state_dict().items())


def test_float32_is_not_converted_since_it_would_lose_weights() -> None:
    dense = convert_to_semi_structured(Small(torch.float32), NAMES)
    assert all("float32; load the model in bfloat16" in dense[name] for name in NAMES)


@pytest.mark.parametrize(
    ("capability", "cusparselt", "converts"),
    [
        ((7, 5), True, False),
        ((8, 0), False, True),
        ((8, 9), True, True),
        ((9, 0), False, False),
        ((9, 0), True, True),
        ((10, 0), True, True),
    ],
)
def test_devices_that_have_kernels(
    capability: tuple[int, int], cusparselt: bool, converts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyTorch's own kernels are compiled for 8.x alone; cuSPARSELt has the newer ones."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(semi_structured, "_cusparselt", lambda: cusparselt)
    weight: Any = SimpleNamespace(is_cuda=True, device="cuda:0", dtype=torch.bfloat16, shape=(64, 128))
    obstacle = semi_structured._obstacle(weight)
    assert obstacle is None if converts else f"capability {capability[0]}.{capability[1]}" in str(obstacle)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_converted_where_one_weight_is_not_two_of_four(name: str, on_the_cpu: None) -> None:
    model = Small()
    weight = model.get_parameter(name)
    (weight.t() if name == "turned.weight" else weight)[5, 4:8] = 1
    before = {each: model.get_parameter(each) for each in NAMES}
    with pytest.raises(ModelError, match=rf"{name}: 1 of .* row 5, inputs 4 to 7"):
        convert_to_semi_structured(model, NAMES)
    assert all(model.get_parameter(each) is before[each] for each in NAMES)


@pytest.fixture
def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch packs semi-structured tensors on a CPU but does not multiply them there: multiply what they unpack to."""

    def product(
        self: Any, other: Tensor, *, bias: Tensor | None = None, should_transpose_dense: bool = False, **_: Any
    ) -> Tensor:
        assert should_transpose_dense  # of [rows, d_in] that the layers multiply from the right
        result = other.float() @ sparse_semi_structured_to_dense_cutlass(self.packed, self.meta).float().t()
        return (result if bias is None else result + bias.float()).to(other.dtype)

    monkeypatch.setattr(SparseSemiStructuredTensorCUTLASS, "_mm", product)
    monkeypatch.setattr(SparseSemiStructuredTensorCUTLASS, "_validate_device_dim_dtype_shape", lambda _: None)
    monkeypatch.setattr(semi_structured, "_obstacle", lambda _: None)
    monkeypatch.setattr(semi_structured, "_cusparselt", lambda: False)


@pytest.mark.filterwarnings("ignore:The PyTorch API of SparseSemiStructuredTensor")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_converted_layers_multiply_as_the_dense_ones(dtype: torch.dtype, on_the_cpu: None) -> None:
    """Both kinds of layers, with and without bias, one example and batches."""
    model = Small(dtype)
    model.plain = nn.Linear(96, 64, bias=False).to(dtype).requires_grad_(False)
    model.plain.weight.copy_(two_of_four(64, 96, 2))
    inputs = [
        torch.randn(shape, generator=torch.Generator().manual_seed(9)).to(dtype) for shape in ((5, 64), (2, 3, 64))
    ]
    expected = [model(x) for x in inputs]
    assert convert_to_semi_structured(model, NAMES) == {}
    for name in NAMES:
        weight = model.get_parameter(name)
        assert isinstance(weight, SparseSemiStructuredTensorCUTLASS)
        assert not weight.requires_grad
    for x, want in zip(inputs, expected, strict=True):
        torch.testing.assert_close(model(x), want, rtol=2**-6, atol=2**-4)


@pytest.mark.filterwarnings("ignore:The PyTorch API of SparseSemiStructuredTensor")
@pytest.mark.parametrize("name", ["llama", "opt"])
def test_a_transformers_model_converts_and_generates(name: str, on_the_cpu: None, tmp_path: Path) -> None:
    sizes = {"hidden_size": 64, "intermediate_size": 128} if name == "llama" else {"hidden_size": 64, "ffn_dim": 128}
    config = family(name, **sizes, **({"word_embed_proj_dim": 64} if name == "opt" else {}))
    folder = tiny_model(tmp_path, config)
    model = in_memory(folder).to(torch.bfloat16)
    linear = [f"{each}.weight" for each, module in model.named_modules() if isinstance(module, nn.Linear)]
    prunable = [each for each in linear if not each.startswith("lm_head")]
    with torch.no_grad():
        for each in prunable:
            parameter = model.get_parameter(each)
            parameter.copy_(two_of_four(*parameter.shape) * 0.2)
    ids = torch.arange(12).reshape(1, 12)
    expected = model(ids).logits
    assert convert_to_semi_structured(model, prunable) == {}
    torch.testing.assert_close(model(ids).logits, expected, rtol=2**-4, atol=2**-3)
    assert model.generate(ids, max_new_tokens=3, min_new_tokens=3).shape == (1, 15)
