"""What a plan says of inputs: who shares one, and scales near what the model's own text comes to."""

from pathlib import Path

import numpy as np
import pytest
import torch

from aggregator.runs.public_scales import Scaling, public_scales
from crypto.errors import ModelError
from crypto.names import ReleaseKind
from silo_agent.checkpoint.dense_weights import DenseWeights
from silo_agent.model.activations import BlockWalk
from silo_agent.writing.self_text import self_sequences
from support.models import family, in_memory, tiny_llama, tiny_model

CPU = torch.device("cpu")
TOKENS = 4096


@pytest.mark.parametrize("kind", [ReleaseKind.ENERGIES, ReleaseKind.GRAM])
def test_scales_are_near_what_the_models_own_text_comes_to(kind: ReleaseKind, tmp_path: Path) -> None:
    """Of other text than the scales are taken from: usual energies have some 32 bits, products 10 bits of room."""
    weights = DenseWeights.open(tiny_llama(tmp_path / "dense"))
    inputs = public_scales(
        weights, lambda _: Scaling.PRODUCTS if kind is ReleaseKind.GRAM else Scaling.SUMS, TOKENS, CPU, lambda *_: None
    )
    text = self_sequences(weights, samples=64, sequence_length=64, device=CPU, progress=lambda *_: None, seed=9)
    walk = BlockWalk(weights, text, device=CPU)
    for _ in walk:
        for name, energy in walk.energies().items():
            if inputs[name].shares_input_of:
                continue
            exponents = np.frombuffer(inputs[name].scale_exponents, np.int8).astype(float)
            values = energy.double().numpy() * (TOKENS / text.numel())
            if kind is ReleaseKind.ENERGIES:
                assert exponents.shape == (1,)
                assert 2.0**30 < values.mean() / 2 ** exponents[0] < 2.0**34
            else:
                assert exponents.shape == values.shape
                assert (values / 4**exponents < 2.0**-5).all(), "there is room above"
                assert np.median(values / 4**exponents) > 2.0**-16, "and not too much of it"
        walk.advance({})


def test_who_shares_an_input(tmp_path: Path) -> None:
    weights = DenseWeights.open(tiny_llama(tmp_path / "dense"))
    told: list[tuple[str, int, int]] = []
    inputs = public_scales(weights, lambda _: Scaling.SUMS, TOKENS, CPU, lambda *step: told.append(step))
    tasks = dict.fromkeys(task for task, _, _ in told)
    assert list(tasks) == ["writing calibration text", "scaling inputs of blocks"]
    assert told[-1] == ("scaling inputs of blocks", 2, 2)
    first = "model.layers.0."
    shared = {name.removeprefix(first): said.shares_input_of for name, said in inputs.items() if name.startswith(first)}
    attention, mlp = f"{first}self_attn.k_proj.weight", f"{first}mlp.gate_proj.weight"
    assert shared == {
        **{f"self_attn.{name}_proj.weight": "" for name in "ko"},
        **{f"self_attn.{name}_proj.weight": attention for name in "qv"},
        "mlp.gate_proj.weight": "",
        "mlp.up_proj.weight": mlp,
        "mlp.down_proj.weight": "",
    }
    assert all(bool(said.shares_input_of) != bool(said.scale_exponents) for said in inputs.values())


def test_an_experts_input_is_its_own(tmp_path: Path) -> None:
    """Which tokens reach it is for the text to say, so no plan may count on it."""
    weights = DenseWeights.open(tiny_model(tmp_path, family("mixtral")))
    inputs = public_scales(weights, lambda _: Scaling.SUMS, TOKENS, CPU, lambda *_: None)
    experts = [said for name, said in inputs.items() if "experts" in name]
    assert experts
    assert not any(said.shares_input_of for said in experts)


def test_scales_of_outputs_are_near_dense_hidden_states(tmp_path: Path) -> None:
    weights = DenseWeights.open(tiny_llama(tmp_path / "dense"))
    inputs, gram = (
        public_scales(weights, lambda _: Scaling.PRODUCTS, TOKENS, CPU, lambda *_: None, aims=aims)
        for aims in (True, False)
    )
    text = self_sequences(weights, samples=64, sequence_length=64, device=CPU, progress=lambda *_: None, seed=9)
    hidden = in_memory(weights.folder).model(input_ids=text, output_hidden_states=True).hidden_states
    for block in weights.blocks:
        *others, last = block.prunable
        assert not any(inputs[name].output_exponents for name in others)
        assert all(inputs[name].scale_exponents == gram[name].scale_exponents for name in block.prunable)
        exponents = np.frombuffer(inputs[last].output_exponents, np.int8).astype(float)
        if block.index == 0:  # what is after the last block was normed
            values = hidden[1].detach().double().flatten(0, -2).square().sum(0).numpy() * (TOKENS / text.numel())
            assert (values / 4**exponents < 2.0**-5).all(), "there is room above"
            assert np.median(values / 4**exponents) > 2.0**-16, "and not too much of it"


@pytest.mark.parametrize("name", ["gemma3_text", "mixtral"])
def test_a_model_in_which_nothing_writes_last_has_no_target(name: str, tmp_path: Path) -> None:
    weights = DenseWeights.open(tiny_model(tmp_path / "dense", family(name)))
    with pytest.raises(
        ModelError, match=r"model.layers.0: has no weight matrix that writes to the residual stream last"
    ):
        public_scales(weights, lambda _: Scaling.PRODUCTS, TOKENS, CPU, lambda *_: None, aims=True)
