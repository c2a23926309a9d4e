"""The walk through the blocks, against the whole model in memory with hooks on its linear layers.

What each family's weights see is in `test_families.py`; here is how the walk goes about it.
"""

import gc
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils import _pytree as trees

from crypto.errors import ConfigError, ModelError, OutputError
from silo_agent.checkpoint.dense_weights import DenseWeights
from silo_agent.model import activations, batches
from silo_agent.model.activations import BlockWalk
from support.models import family, in_memory, tiny_llama, tiny_model

CPU = torch.device("cpu")
SEQUENCES = torch.randint(0, 300, (5, 24), generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def several_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "TOKENS_PER_BATCH", 50)  # batches of 2, 2 and 1 sequences


def hooked_energies(model: Any, sequences: Any) -> dict[str, Tensor]:
    """Run the whole model a sequence at a time; sum the squares of each linear layer's inputs in float64."""
    totals: dict[str, Tensor] = {}

    def hook(name: str) -> Any:
        def add(_: nn.Module, inputs: tuple[Tensor], __: Tensor) -> None:
            x = inputs[0].double().reshape(-1, inputs[0].shape[-1])
            totals[name] = totals.get(name, torch.zeros(x.shape[1], dtype=torch.float64)) + (x**2).sum(0)

        return add

    handles = [
        module.register_forward_hook(hook(f"{name}.weight"))
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
    ]
    with torch.no_grad():
        for sequence in sequences:
            model(input_ids=sequence[None])
    for handle in handles:
        handle.remove()
    return totals


def walked(weights: DenseWeights, sequences: Any, device: torch.device = CPU) -> BlockWalk:
    walk = BlockWalk(weights, sequences, device=device)
    for _ in walk:
        walk.advance({})
    return walk


def statistics(walk: BlockWalk) -> dict[str, tuple[Tensor, Tensor, int]]:
    found = {}
    for _ in walk:
        energies, grams = walk.energies(), walk.grams()
        found.update({name: (energies[name], grams[name], walk.tokens[name]) for name in energies})
        walk.advance({})
    return found


def assert_close(left: dict[str, tuple[Tensor, Tensor, int]], right: dict[str, tuple[Tensor, Tensor, int]]) -> None:
    assert left.keys() == right.keys()
    for name, (energy, gram, tokens) in left.items():
        torch.testing.assert_close(energy, right[name][0], rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(gram, right[name][1], rtol=1e-4, atol=1e-2)
        assert tokens == right[name][2]


def test_batches_are_in_order(tmp_path: Path) -> None:
    walk = walked(DenseWeights.open(tiny_llama(tmp_path)), SEQUENCES)
    ids, got = zip(*walk.logits(), strict=True)
    assert [len(batch) for batch in ids] == [2, 2, 1]
    assert torch.equal(torch.cat(ids), SEQUENCES)
    with torch.no_grad():
        expected = in_memory(tmp_path)(input_ids=SEQUENCES).logits
    torch.testing.assert_close(torch.cat(got), expected, rtol=1e-5, atol=1e-5)


def test_logits_come_in_small_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    walk = walked(DenseWeights.open(tiny_llama(tmp_path)), SEQUENCES)
    whole = torch.cat([logits for _, logits in walk.logits()])
    monkeypatch.setattr(activations, "LOGITS", 300 * 24 + 1)
    ids, pieces = zip(*walk.logits(), strict=True)
    assert [len(piece) for piece in pieces] == [1] * 5 and torch.equal(torch.cat(ids), SEQUENCES)
    torch.testing.assert_close(torch.cat(pieces), whole, rtol=1e-5, atol=1e-5)


def test_mixed_lengths_are_not_padded(tmp_path: Path) -> None:
    weights = DenseWeights.open(tiny_model(tmp_path, family("gemma2")))  # masks longer than its window
    lengths = [24, 7, 24, 1, 12, 7, 24]
    sequences = [
        torch.randint(0, 300, (length,), generator=torch.Generator().manual_seed(length)) for length in lengths
    ]
    model = in_memory(tmp_path)
    expected = hooked_energies(model, sequences)
    walk = BlockWalk(weights, sequences, device=CPU)
    for _ in walk:
        for name, energy in walk.energies().items():
            torch.testing.assert_close(energy.double(), expected[name], rtol=1e-5, atol=1e-6)
            assert walk.tokens[name] == sum(lengths)
        walk.advance({})
    pieces = list(walk.logits())
    assert sorted(tuple(ids.shape) for ids, _ in pieces) == [(1, 1), (1, 12), (1, 24), (2, 7), (2, 24)]
    with torch.no_grad():
        for ids, logits in pieces:
            torch.testing.assert_close(logits, model(input_ids=ids).logits, rtol=1e-4, atol=1e-4)


def test_energies_on_the_way_to_the_next_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One run of a block gives its statistics and the next one's inputs, the same as two do."""
    weights = DenseWeights.open(tiny_llama(tmp_path))
    twice, once = (BlockWalk(weights, SEQUENCES, device=CPU) for _ in range(2))
    runs: list[BlockWalk] = []
    run = BlockWalk._run
    monkeypatch.setattr(BlockWalk, "_run", lambda walk, *batch: (runs.append(walk), run(walk, *batch))[1])
    for _ in zip(twice, once, strict=True):
        energies, onward = twice.energies(), once.energies(onward=True)
        assert onward.keys() == energies.keys()
        assert all(torch.equal(onward[name], energy) for name, energy in energies.items())
        assert once.tokens == twice.tokens
        twice.advance({})
    assert runs.count(twice) == 2 * runs.count(once) > 0
    for (_, logits), (_, same) in zip(twice.logits(), once.logits(), strict=True):
        assert torch.equal(logits, same)


def test_the_next_block_sees_the_pruned_one(tmp_path: Path) -> None:
    weights = DenseWeights.open(tiny_llama(tmp_path))
    generator = torch.Generator().manual_seed(1)
    keep = {name: torch.rand(weights.shape(name), generator=generator) < 0.5 for name in weights.blocks[0].prunable}
    del keep["model.layers.0.self_attn.v_proj.weight"]  # without a keep mask it stays dense
    model = in_memory(tmp_path)
    dense = hooked_energies(model, SEQUENCES)
    for name, mask in keep.items():
        model.get_parameter(name).data *= mask
    pruned = hooked_energies(model, SEQUENCES)
    walk = BlockWalk(weights, SEQUENCES, device=CPU)
    for block in walk:
        expected = dense if block.index == 0 else pruned
        for name, energy in walk.energies().items():
            torch.testing.assert_close(energy.double(), expected[name], rtol=1e-5, atol=0)
        walk.advance(keep)


def test_pruning_a_block_leaves_the_mapped_file_alone(tmp_path: Path) -> None:
    weights = DenseWeights.open(tiny_llama(tmp_path))
    before = weights.digest()
    walk = BlockWalk(weights, SEQUENCES, device=CPU)
    for block in walk:
        walk.advance({name: torch.zeros(weights.shape(name), dtype=torch.bool) for name in block.prunable})
    assert weights.digest() == before == DenseWeights.open(tmp_path).digest()


def test_new_weights_and_keep_masks_may_be_mixed(tmp_path: Path) -> None:
    weights = DenseWeights.open(tiny_llama(tmp_path, dtype=torch.float16))
    generator = torch.Generator().manual_seed(1)
    kept, new, *_ = weights.blocks[0].prunable
    changed = {kept: torch.rand(weights.shape(kept), generator=generator) < 0.5}
    changed[new] = torch.randn(weights.shape(new), generator=generator).half()
    model = in_memory(tmp_path)
    model.get_parameter(kept).data *= changed[kept]
    model.get_parameter(new).data.copy_(changed[new])
    walk = BlockWalk(weights, SEQUENCES, device=CPU)
    for _ in walk:
        walk.advance(changed)
    with torch.no_grad():
        expected = model(input_ids=SEQUENCES).logits
    torch.testing.assert_close(torch.cat([logits for _, logits in walk.logits()]), expected, rtol=1e-5, atol=1e-4)


def test_one_block_is_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = DenseWeights.open(tiny_llama(tmp_path, blocks=4))
    skeleton = weights.skeleton()
    monkeypatch.setattr(weights, "skeleton", lambda: skeleton)
    blocks = list(skeleton.model.layers)

    def loaded() -> list[int]:
        return [i for i, block in enumerate(blocks) if not all(value.is_meta for value in block.parameters())]

    walk = BlockWalk(weights, SEQUENCES, device=CPU)
    assert loaded() == [] and skeleton.model.embed_tokens.weight.is_meta
    for block in walk:
        walk.energies()
        assert loaded() == [block.index]
        walk.advance({})
    assert loaded() == []


def test_a_bfloat16_model_is_computed_in_float32(tmp_path: Path) -> None:
    weights = DenseWeights.open(tiny_llama(tmp_path, dtype=torch.bfloat16))
    walk = BlockWalk(weights, SEQUENCES, device=CPU)
    for _ in walk:
        walk.advance({})
    model = in_memory(tmp_path)
    with torch.no_grad():
        expected = model(input_ids=SEQUENCES).logits
    torch.testing.assert_close(torch.cat([logits for _, logits in walk.logits()]), expected, rtol=1e-5, atol=1e-5)


def test_layers_that_share_an_input_sum_it_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = DenseWeights.open(tiny_llama(tmp_path, blocks=1))
    walk = BlockWalk(weights, SEQUENCES, device=CPU)
    squares = []
    square = Tensor.square

    def counted(x: Tensor) -> Tensor:
        squares.append(x.shape)
        return square(x)

    monkeypatch.setattr(Tensor, "square", counted)
    for _ in walk:
        walk.energies()
    assert len(squares) == 4 * 3  # inputs of q/k/v, o, gate/up and down, in each of three batches


def test_rows_are_squared_a_few_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = DenseWeights.open(tiny_llama(tmp_path))
    whole = statistics(BlockWalk(weights, SEQUENCES, device=CPU))
    monkeypatch.setattr(activations, "ROWS_SQUARED", 7)
    assert_close(statistics(BlockWalk(weights, SEQUENCES, device=CPU)), whole)


@pytest.mark.clause("14.2.1")
def test_sums_that_are_not_finite_are_nothing_or_the_largest(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file, norm = tiny_llama(tmp_path) / "model.safetensors", "model.layers.0.input_layernorm.weight"
    tensors = {name: tensor.clone() for name, tensor in load_file(file).items()}
    tensors[norm][:2] = torch.tensor([float("nan"), 1e25])
    save_file(tensors, file, {"format": "pt"})
    walk = BlockWalk(DenseWeights.open(tmp_path), SEQUENCES, device=CPU)
    next(iter(walk))
    energy, gram = (of["model.layers.0.self_attn.q_proj.weight"] for of in (walk.energies(), walk.grams()))
    most = torch.finfo(torch.float32).max
    assert energy[:2].tolist() == gram.diagonal()[:2].tolist() == [0.0, most]
    assert 0 < energy[2:].min() <= energy[2:].max() < 1e6
    assert not gram[0].any() and gram.isfinite().all()
    assert "activations are not finite" in caplog.text


def test_experts_that_no_token_reaches(tmp_path: Path) -> None:
    weights = DenseWeights.open(tiny_model(tmp_path, family("qwen3_moe")))
    walk = BlockWalk(weights, [torch.tensor([5]), torch.tensor([7])], device=CPU)
    for _ in walk:
        energies, grams = walk.energies(), walk.grams()
        reached = {name: tokens for name, tokens in walk.tokens.items() if ".experts." in name}
        assert sum(reached.values()) == 2 * 2 * 3 and 0 in reached.values()  # two tokens to two experts of three each
        for name, tokens in reached.items():
            size = weights.shape(name)[1]
            assert energies[name].shape == (size,) and grams[name].shape == (size, size)
            assert energies[name].dtype == grams[name].dtype == torch.float32
            assert (tokens > 0) == bool(energies[name].any()) == bool(grams[name].any())
        walk.advance({name: torch.zeros(weights.shape(name), dtype=torch.bool) for name in reached})


def test_experts_whose_inputs_cannot_be_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny_model(tmp_path, family("mixtral"))
    weights = DenseWeights.open(folder)
    skeleton = weights.skeleton()
    skeleton.set_experts_implementation("batched_mm")
    monkeypatch.setattr(weights, "skeleton", lambda: skeleton)
    walk = BlockWalk(weights, SEQUENCES, device=CPU)
    with pytest.raises(ModelError, match=r"what .*experts.0.w1.weight and the like are multiplied with cannot be seen"):
        for _ in walk:
            walk.energies()


def captured(walk: BlockWalk) -> set[int]:
    return {id(leaf) for leaf in trees.tree_leaves(walk._calls) if isinstance(leaf, Tensor)}


def test_what_blocks_are_called_with_is_kept_once_for_each_shape(tmp_path: Path) -> None:
    few = DenseWeights.open(tiny_model(tmp_path / "few", family("gemma2", num_hidden_layers=2)))
    many = DenseWeights.open(tiny_model(tmp_path / "many", family("gemma2", num_hidden_layers=6)))
    tokens = torch.randint(0, 300, (20, 24), generator=torch.Generator().manual_seed(0))
    assert len(captured(BlockWalk(many, tokens, device=CPU))) == len(captured(BlockWalk(few, tokens[:2], device=CPU)))
    walk = BlockWalk(many, [*tokens, *tokens[:, :8]], device=CPU)
    assert {tuple(batch.shape) for batch in walk._batches} == {(2, 24), (6, 8), (2, 8)}
    assert len(captured(walk)) == 3 * len(captured(BlockWalk(few, tokens[:2], device=CPU)))
    gc.collect()
    assert all(pass_through.called == () for pass_through in walk._pass_throughs)


def test_blocks_may_be_given_more_of_each_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights, model = DenseWeights.open(tiny_llama(tmp_path)), in_memory(tmp_path)
    rotate = type(model.model.rotary_emb).forward

    def by_text(self: nn.Module, x: Tensor, position_ids: Tensor) -> Any:
        cos, sin = rotate(self, x, position_ids)
        return cos + x.mean((1, 2), keepdim=True), sin

    monkeypatch.setattr(type(model.model.rotary_emb), "forward", by_text)
    expected = hooked_energies(model, SEQUENCES)
    for name, (energy, _, _) in statistics(BlockWalk(weights, SEQUENCES, device=CPU)).items():
        torch.testing.assert_close(energy.double(), expected[name], rtol=1e-4, atol=1e-3)


def test_a_model_that_does_more_between_its_blocks_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = DenseWeights.open(tiny_llama(tmp_path))
    kind = type(weights.skeleton().model)
    run = kind.forward

    def halving(self: Any, *args: Any, **kwargs: Any) -> Any:
        second = self.layers[1]
        hook = second.register_forward_pre_hook(lambda _, inputs: (inputs[0] / 2, *inputs[1:]))
        try:
            return run(self, *args, **kwargs)
        finally:
            hook.remove()

    monkeypatch.setattr(kind, "forward", halving)
    with pytest.raises(ModelError, match="it changes hidden states between its blocks"):
        BlockWalk(weights, SEQUENCES, device=CPU)


def test_blocks_that_do_not_run_by_themselves_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = DenseWeights.open(tiny_llama(tmp_path))
    kind = type(weights.skeleton().model.layers[0].mlp)
    monkeypatch.setattr(kind, "forward", lambda self, x: x.no_such)
    with pytest.raises(ModelError, match=r"its blocks do not run one by one: AttributeError: .*no_such") as raised:
        BlockWalk(weights, SEQUENCES, device=CPU)
    assert str(tmp_path) in raised.value.message


def test_a_layer_that_shares_its_input_but_not_always(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = DenseWeights.open(tiny_llama(tmp_path))
    kind = type(weights.skeleton().model.layers[0].mlp)

    def twice(self: Any, x: Tensor) -> Tensor:
        product = self.act_fn(self.gate_proj(x)) * self.up_proj(x)
        return self.down_proj(product + self.up_proj(x * 2))

    monkeypatch.setattr(kind, "forward", twice)
    expected = hooked_energies(in_memory(tmp_path), SEQUENCES)
    walk = BlockWalk(weights, SEQUENCES, device=CPU)
    for block in walk:
        energies = walk.energies()
        gate, up = (f"{block.prefix}.mlp.{name}_proj.weight" for name in ("gate", "up"))
        torch.testing.assert_close(energies[up], 5 * energies[gate])
        assert walk.tokens[up] == 2 * walk.tokens[gate] == 2 * SEQUENCES.numel()
        for name, energy in energies.items():
            torch.testing.assert_close(energy.double(), expected[name], rtol=1e-4, atol=1e-3)
        walk.advance({})


def test_hidden_states_beyond_the_limit_are_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = DenseWeights.open(tiny_llama(tmp_path / "model"))
    sequences = [*SEQUENCES, SEQUENCES[0, :7]]
    expected = statistics(BlockWalk(weights, sequences, device=CPU))
    folder = tmp_path / "files"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    size = (5 * 24 + 7) * 32 * 4

    def files() -> int:
        return sum(str(folder) in line for line in Path("/proc/self/maps").read_text().splitlines())

    monkeypatch.setattr(batches, "IN_MEMORY", size)
    assert files() == 0 and BlockWalk(weights, sequences, device=CPU) and files() == 0
    monkeypatch.setattr(batches, "IN_MEMORY", size - 1)
    walk = BlockWalk(weights, sequences, device=CPU)
    assert files() == 1 and list(folder.iterdir()) == []  # no name is left to clean up
    places = [hidden.data_ptr() for hidden in walk._hidden]
    found = statistics(walk)
    assert [hidden.data_ptr() for hidden in walk._hidden] == places
    assert all(torch.equal(found[name][1], expected[name][1]) for name in expected)
    del walk
    gc.collect()
    assert files() == 0


def test_no_room_for_that_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = DenseWeights.open(tiny_llama(tmp_path))
    monkeypatch.setattr(batches, "IN_MEMORY", 0)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 5 * 24 * 32 * 4 - 1))
    with pytest.raises(OutputError, match="no room for 0 GiB of hidden states") as raised:
        BlockWalk(weights, SEQUENCES, device=CPU)
    assert "TMPDIR" in raised.value.hint


@pytest.mark.parametrize("name", ["llama", "mixtral"])
def test_batches_take_turns_on_several_devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    weights = DenseWeights.open(tiny_model(tmp_path, family(name)))
    one = BlockWalk(weights, SEQUENCES, device=CPU)
    expected = statistics(one)
    monkeypatch.setattr(activations, "devices_of", lambda _: [CPU, CPU])
    two = BlockWalk(weights, SEQUENCES, device=CPU)
    ran: list[nn.Module] = []
    assert_close(statistics(two), expected)
    for (_, left), (_, right) in zip(one.logits(), two.logits(), strict=True):
        torch.testing.assert_close(left, right)
    zero = {key: torch.zeros(weights.shape(key), dtype=torch.bool) for key in weights.prunable}
    walk = BlockWalk(weights, SEQUENCES, device=CPU)
    for _ in walk:
        for copied in walk._copies:
            copied.register_forward_hook(lambda module, *_: ran.append(module))
        before = [hidden.clone() for hidden in walk._hidden]
        walk.advance(zero)  # every copy is pruned: what is left of a block is its residual
        assert ran == [walk._copies[0], walk._copies[1], walk._copies[0]]
        ran.clear()
        assert all(torch.equal(*pair) for pair in zip(walk._hidden, before, strict=True))


@pytest.mark.parametrize(("length", "fits"), [(256, True), (257, False)])
def test_positions_are_the_limit(tmp_path: Path, length: int, fits: bool) -> None:
    weights = DenseWeights.open(tiny_llama(tmp_path, blocks=1))
    sequences = torch.zeros(1, length, dtype=torch.int64)
    if fits:
        BlockWalk(weights, sequences, device=CPU)
    else:
        with pytest.raises(
            ConfigError, match=r"--sequence-length 257 is above the 256 positions of .*--sequence-length 256"
        ):
            BlockWalk(weights, sequences, device=CPU)
