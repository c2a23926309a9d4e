"""Semi-structured weights on a GPU: products and memory."""

import pytest
import torch
from torch import nn
from torch.sparse import SparseSemiStructuredTensor
from transformers.pytorch_utils import Conv1D

from silo_agent.checkpoint.semi_structured import convert_to_semi_structured

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available() or torch.cuda.get_device_capability() < (8, 0),
    reason="no CUDA device with sparse tensor cores (compute capability 8.0 or more)",
)


@pytest.mark.filterwarnings("ignore:The PyTorch API of SparseSemiStructuredTensor")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("rows", [1, 7, 256])  # the kernels take multiples of 8: padding is PyTorch's
def test_products_are_those_of_the_dense_weights(dtype: torch.dtype, rows: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(512, 1024), nn.Linear(1024, 256, bias=False), Conv1D(512, 256)).cuda().to(dtype)
    model.requires_grad_(False)
    for layer in model:
        weight = layer.weight.t() if isinstance(layer, Conv1D) else layer.weight
        order = torch.rand(weight.shape[0], weight.shape[1] // 4, 4, device="cuda").argsort(-1)
        weight.mul_((order < 2).reshape(weight.shape))
    x = torch.randn(rows, 512, device="cuda", dtype=dtype)
    expected = model(x)
    names = [f"{index}.weight" for index in range(3)]
    dense_bytes = sum(model.get_parameter(name).nbytes for name in names)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    assert convert_to_semi_structured(model, names) == {}
    assert all(isinstance(model.get_parameter(name), SparseSemiStructuredTensor) for name in names)
    assert before - torch.cuda.memory_allocated() > 0.4 * dense_bytes  # 9/16 is left
    torch.testing.assert_close(model(x), expected, rtol=2**-5, atol=2**-5)
