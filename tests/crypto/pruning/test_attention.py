"""Which weights are attention's, by name, against the modules that they are in."""

from pathlib import Path

import pytest

from crypto.errors import PlanError
from crypto.pruning.attention import check_attention, is_attentions
from silo_agent.checkpoint.dense_weights import DenseWeights
from support.models import BLOCKS, family, tiny_model


@pytest.mark.clause("2.4.17")
@pytest.mark.parametrize("name", BLOCKS)
def test_names_say_what_the_modules_are(name: str, tmp_path: Path) -> None:
    weights = DenseWeights.open(tiny_model(tmp_path / "dense", family(name), seed=3))
    model = weights.skeleton()
    modules = {path: type(module).__name__ for path, module in model.named_modules()}
    of_modules = set()
    for weight in weights.prunable:
        path = weights.place(weight).parameter.split(".")
        owners = [modules[".".join(path[:at])] for at in range(1, len(path))]
        if any("Attention" in owner for owner in owners):
            of_modules.add(weight)
    assert {weight for weight in weights.prunable if is_attentions(weight)} == of_modules
    assert 0 < len(of_modules) < len(weights.prunable)


@pytest.mark.parametrize(
    ("name", "is_so"),
    [
        ("h.0.attn.c_attn.weight", True),
        ("layers.3.self_attention.dense.weight", True),
        ("layer.0.SelfAttention.q.weight", True),
        ("layers.3.mlp.up_proj.weight", False),
        ("layers.3.mixer.in_proj.weight", False),
    ],
)
def test_how_it_is_written(name: str, is_so: bool) -> None:
    assert is_attentions(name) is is_so


def test_a_model_without_attention() -> None:
    check_attention(["layers.0.mixer.in_proj.weight", "layers.1.attn.q.weight"])
    with pytest.raises(PlanError, match="no weight of this model is attention's by its name"):
        check_attention(["layers.0.mixer.in_proj.weight"])
