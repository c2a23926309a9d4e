"""Plans that pool statistics: what they have to say of inputs, what they refuse, and how much a silo uploads."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from crypto.errors import PlanError
from crypto.names import ReleaseKind
from crypto.plan import Plan
from crypto.plan_rules import checked_plan
from crypto.releases.energies import most_a_silo
from crypto.releases.gram import product_bits
from crypto.releases.planned_rounds import planned_rounds
from crypto.releases.release_spec import layout_of
from crypto.secagg.round import Round
from silo_agent.consent.expected_traffic import bytes_down, bytes_up
from silo_agent.consent.ledger import Release
from silo_agent.consent.plan_in_words import plan_in_words
from sparsilo.v1 import plan_pb2
from support.plans import plan_message

PRUNERS = {ReleaseKind.ENERGIES: "wanda", ReleaseKind.GRAM: "sparsegpt"}
TARGET = ReleaseKind.DENSE_TARGET


def pooled(
    kind: ReleaseKind,
    tensors: list[tuple[str, int, tuple[int, int], str]],
    *,
    silos: int = 4,
    schedule: str = "iterative",
    chunk_words: int = 4,
    **pruning: object,
) -> plan_pb2.Plan:
    """A plan of the kind, over tensors given as (name, block, shape, whose input it shares)."""
    message = plan_message(silos, chunk_words=chunk_words, group="row")
    del message.model[:], message.rounds[:]
    only_attention = pruning.get("gram_inputs") == "attention"
    attention = {shared or name for name, _, _, shared in tensors if "attn" in name}
    for name, block, shape, shared in sorted(tensors):
        each = kind is not ReleaseKind.ENERGIES and (name in attention or not only_attention)
        exponents = b"" if shared else b"\xf0" * (shape[1] if each else 1)
        message.model.add(
            name=name, digest=bytes(32), shape=shape, prunable=True, block=block,
            shares_input_of=shared, scale_exponents=exponents,
        )  # fmt: skip
        if kind is TARGET and name.endswith("w"):
            message.model[-1].output_exponents = bytes(shape[0])
    message.pruning.pruner, message.pruning.schedule = PRUNERS.get(kind, "sparsegpt"), schedule
    for field, value in pruning.items():
        setattr(message.pruning, field, value)
    for release, block in planned_rounds(Plan(message, b""), kind):
        getattr(message.rounds.add(block=block), release).SetInParent()
    return message


def small(kind: ReleaseKind, **options: Any) -> plan_pb2.Plan:
    tensors = [
        ("blocks.0.k", 0, (3, 10), ""),
        ("blocks.0.q", 0, (6, 10), "blocks.0.k"),
        ("blocks.0.up", 0, (8, 6), ""),
        ("blocks.1.k", 1, (3, 10), ""),
    ]
    return pooled(kind, tensors, **options)


def llama(hidden: int, intermediate: int, kv: int, blocks: int) -> Iterator[tuple[str, int, tuple[int, int], str]]:
    """The prunable tensors of a Llama: q, k and v share an input, and so do gate and up."""
    for block in range(blocks):
        for name, rows, columns, shared in (
            *(("attn.k", kv, hidden, ""), ("attn.q", hidden, hidden, "attn.k"), ("attn.v", kv, hidden, "attn.k")),
            ("attn.o", hidden, hidden, ""),
            *(
                ("gate", intermediate, hidden, ""),
                ("up", intermediate, hidden, "gate"),
                ("w", hidden, intermediate, ""),
            ),
        ):
            yield f"b{block}.{name}", block, (rows, columns), shared and f"b{block}.{shared}"


@pytest.mark.clause("2.4.10")
@pytest.mark.parametrize("kind", PRUNERS)
def test_an_input_has_one_section_however_many_tensors_share_it(kind: ReleaseKind) -> None:
    plan = checked_plan(small(kind))
    sizes = {"energies": {"k": 10, "up": 6}, "gram": {"k": 55, "up": 21}}[kind]
    first, second = (layout_of(plan, index).sections for index in range(2))
    assert [(section.name, section.lanes) for section in first] == [
        ("clipped", 2),
        (f"{kind} blocks.0.k", sizes["k"]),
        (f"{kind} blocks.0.up", sizes["up"]),
    ]
    assert [section.name for section in second] == ["clipped", f"{kind} blocks.1.k"]
    assert {section.width for section in first[1:]} == {64 if kind is ReleaseKind.ENERGIES else 32}


@pytest.mark.parametrize("kind", PRUNERS)
def test_one_round_about_all_blocks(kind: ReleaseKind) -> None:
    plan = checked_plan(small(kind, schedule=""))
    assert len(plan.message.rounds) == 1
    assert len(layout_of(plan, 0).sections) == 1 + 3


@pytest.mark.parametrize("kind", PRUNERS)
def test_owl_costs_a_round_of_energies_or_none(kind: ReleaseKind) -> None:
    """Whoever approves is told; and rounds of blocks overlap the first, which says the same of them (2.5.7, 2.8.3)."""
    plan = checked_plan(small(kind, allocation="owl"))
    first, *of_blocks = (Release.of(Round(plan, index, bytes(32)), bytes(32)) for index in range(3))
    assert [section.name for section in layout_of(plan, 0).sections] == [
        "clipped",
        *(f"energies blocks.{name}" for name in ("0.k", "0.up", "1.k")),
    ]
    assert all(first.overlaps(later) for later in of_blocks)
    assert not of_blocks[0].overlaps(of_blocks[1])
    words = plan_in_words(plan, "silo-000")
    assert words.computed_here[0] == (
        "the sum of squares of each input feature of the weight matrices of the dense model on 4 sequences of 16 "
        "tokens of this silo's text: a block with many outliers loses less"
    )
    assert any("block after block" in sentence for sentence in words.computed_here)
    numbers = {"energies": (26 + 26, 0), "gram": (26, 55 + 21 + 55)}[kind]
    told = {leaving.release: (leaving.rounds, leaving.what) for leaving in words.leaves}
    assert set(told) == {"energies", kind}
    assert f", {numbers[0]} numbers" in told["energies"][1]
    if kind is ReleaseKind.GRAM:
        assert (told["energies"][0], told["gram"][0]) == (1, 2)
        assert f", {numbers[1]} numbers" in told["gram"][1]

    one_shot = checked_plan(small(kind, allocation="owl", schedule=""))
    assert len(one_shot.message.rounds) == 1
    assert "of the dense model" in plan_in_words(one_shot, "silo-000").computed_here[0]
    assert "of the dense model" not in plan_in_words(checked_plan(small(kind)), "silo-000").computed_here[0]


@pytest.mark.parametrize("silos", [3, 4, 7, 8, 127, 128, 200])
def test_the_largest_values_of_all_silos_fit_a_lane(silos: int) -> None:
    assert silos * most_a_silo(64, silos) < 1 << 64 <= silos * most_a_silo(64, silos) * 4
    assert silos * (2 << product_bits(silos)) < 1 << 32 <= silos * (2 << product_bits(silos)) * 4


def own_ratio(message: plan_pb2.Plan) -> None:
    message.roster[1].sparsity_ratio = "0.3"


def scaled(message: plan_pb2.Plan) -> None:
    message.pruning.weight_scaling = True


def magnitude(message: plan_pb2.Plan) -> None:
    message.pruning.pruner = "magnitude"


def shares_with_nobody(message: plan_pb2.Plan) -> None:
    message.model[1].shares_input_of = "blocks.0.z"


def shares_across_blocks(message: plan_pb2.Plan) -> None:
    message.model[3].shares_input_of, message.model[3].scale_exponents = "blocks.0.k", b""


def shares_with_one_that_shares(message: plan_pb2.Plan) -> None:
    message.model[0].shares_input_of, message.model[0].scale_exponents = "blocks.0.q", b""


def shares_with_another_width(message: plan_pb2.Plan) -> None:
    message.model[1].shares_input_of = "blocks.0.up"


def shares_and_has_scales(message: plan_pb2.Plan) -> None:
    message.model[1].scale_exponents = b"\0"


def has_no_scales(message: plan_pb2.Plan) -> None:
    message.model[2].scale_exponents = b""


def has_too_many_scales(message: plan_pb2.Plan) -> None:
    message.model[2].scale_exponents = bytes(7)


@pytest.mark.clause("2.4.13")
@pytest.mark.parametrize("kind", PRUNERS)
@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (own_ratio, "silos have sparsity ratios of their own"),
        (scaled, "weights are scaled by votes"),
        (magnitude, "magnitude reads no text"),
        (shares_with_nobody, "shares_input_of: 'blocks.0.z' has no such input"),
        (shares_across_blocks, "shares_input_of: 'blocks.0.k' has no such input"),
        (shares_with_one_that_shares, "shares_input_of: 'blocks.0.q' has no such input"),
        (shares_with_another_width, "shares_input_of: 'blocks.0.up' has no such input"),
        (shares_and_has_scales, "scale_exponents: are those of blocks.0.k"),
        (has_no_scales, "scale_exponents: are not"),
        (has_too_many_scales, "scale_exponents: are not"),
    ],
)
def test_a_plan_that_contradicts_itself(
    kind: ReleaseKind, change: Callable[[plan_pb2.Plan], None], problem: str
) -> None:
    message = small(kind)
    checked_plan(message)
    change(message)
    with pytest.raises(PlanError, match=problem):
        checked_plan(message)


def test_layer_sampling_is_for_votes() -> None:
    message = small(ReleaseKind.ENERGIES, cohort_floor=3)
    for member in message.roster:
        member.capacity = 2
    with pytest.raises(PlanError, match="blocks are sampled"):
        checked_plan(message)


@pytest.mark.parametrize("pruner", ["wanda", "ria"])
def test_gram_is_for_pruners_that_read_it(pruner: str) -> None:
    with pytest.raises(PlanError, match=f"{pruner} reads energies alone"):
        checked_plan(small(ReleaseKind.GRAM, pruner=pruner))


def test_energies_are_for_every_pruner_that_reads_text() -> None:
    """One that reads products gets them from public text."""
    checked_plan(small(ReleaseKind.ENERGIES, pruner="sparsegpt", comparison_group="layer"))


@pytest.mark.parametrize("kind", PRUNERS)
@pytest.mark.parametrize("bits", [4, 8])
def test_what_is_pooled_also_quantises(kind: ReleaseKind, bits: int) -> None:
    plan = checked_plan(small(kind, quantise_bits=bits))
    assert plan.pruning.quantise_bits == bits
    assert [section.name for section in layout_of(plan, 0).sections] == [
        section.name for section in layout_of(checked_plan(small(kind)), 0).sections
    ]


@pytest.mark.clause("2.1.6")
def test_what_cannot_be_quantised_is_refused() -> None:
    for bits in (1, 3, 5, 16):
        with pytest.raises(PlanError, match=f"quantise_bits: {bits} is none of 4, 8"):
            checked_plan(small(ReleaseKind.GRAM, quantise_bits=bits))
    votes = plan_message(4)
    votes.pruning.quantise_bits = 4
    with pytest.raises(PlanError, match="quantise_bits: needs statistics that silos pool"):
        checked_plan(votes)
    message = small(ReleaseKind.GRAM, quantise_bits=4)
    turned = next(tensor for tensor in message.model if tensor.prunable)
    turned.input_first = True
    with pytest.raises(PlanError, match=f"model {turned.name}: is stored input first"):
        checked_plan(message)
    assert checked_plan(small(ReleaseKind.GRAM)).pruning.quantise_bits is None


def test_votes_say_nothing_of_inputs() -> None:
    message = plan_message(4)
    message.model[0].scale_exponents = b"\0"
    with pytest.raises(PlanError, match="has an input that no round is about"):
        checked_plan(message)


def aiming(**options: Any) -> plan_pb2.Plan:
    """Two blocks, of each of which `w` writes last."""
    tensors = [
        *(("b0.k", 0, (3, 10), ""), ("b0.q", 0, (6, 10), "b0.k"), ("b0.w", 0, (10, 6), "")),
        *(("b1.k", 1, (3, 10), ""), ("b1.w", 1, (10, 4), "")),
    ]
    return pooled(TARGET, tensors, **options)


@pytest.mark.clause("2.4.14")
def test_the_tensor_that_writes_last_has_a_round_of_its_own() -> None:
    plan = checked_plan(aiming())
    rounds = [(plan.release_kind(index), plan.block(index)) for index in range(4)]
    assert rounds == [(ReleaseKind.GRAM, 0), (TARGET, 0), (ReleaseKind.GRAM, 1), (TARGET, 1)]
    about = [[tensor.name for tensor in plan.tensors(index)] for index in range(4)]
    assert about == [["b0.k", "b0.q"], ["b0.w"], ["b1.k"], ["b1.w"]]
    sections = [(section.name, section.lanes, section.width) for section in layout_of(plan, 1).sections]
    assert sections == [("clipped", 2, (4 * 60).bit_length()), ("gram b0.w", 21, 32), ("target b0.w", 60, 32)]
    assert [section.name for section in layout_of(plan, 0).sections] == ["clipped", "gram b0.k"]


def test_an_approver_reads_what_the_target_adds() -> None:
    words = plan_in_words(checked_plan(aiming()), "silo-001")
    gram, target = words.leaves
    assert (gram.release, gram.rounds, target.release, target.rounds) == ("gram", 2, "dense_target", 2)
    assert f" {55 + 55} numbers" in gram.what and f" {21 + 60 + 10 + 40} numbers" in target.what
    assert "of each block's last layer" in target.what
    assert any("the dense model runs over the same text" in sentence for sentence in words.computed_here)
    assert any(sentence.startswith("dense_target, over all survivors: ") for sentence in words.revealed_to.aggregator)


def of_attention_alone(message: plan_pb2.Plan) -> None:
    message.pruning.gram_inputs = "attention"
    for tensor in message.model:
        tensor.name = tensor.name.replace("b", "attn", 1)
        tensor.shares_input_of = tensor.shares_input_of.replace("b", "attn", 1)


def one_shot(message: plan_pb2.Plan) -> None:
    message.pruning.schedule = ""
    for _ in range(2):
        message.rounds.pop()
    for round_ in message.rounds:
        round_.ClearField("block")


def reads_energies(message: plan_pb2.Plan) -> None:
    message.pruning.pruner = "wanda"


def one_exponent_too_few(message: plan_pb2.Plan) -> None:
    message.model[2].output_exponents = bytes(9)


def none_in_a_block(message: plan_pb2.Plan) -> None:
    message.model[4].output_exponents = b""


def two_in_a_block(message: plan_pb2.Plan) -> None:
    message.model[0].output_exponents = bytes(3)


def shares_with_an_earlier_one(message: plan_pb2.Plan) -> None:
    message.model[4].shares_input_of, message.model[4].scale_exponents, message.model[4].shape[1] = "b1.k", b"", 10


def nothing_else_in_the_block(message: plan_pb2.Plan) -> None:
    del message.model[3]


def is_not_prunable(message: plan_pb2.Plan) -> None:
    message.model.add(name="z", digest=bytes(32), shape=[3], output_exponents=bytes(3))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (one_shot, "the schedule is iterative"),
        (of_attention_alone, "leave out gram_inputs"),
        (reads_energies, "wanda reads energies alone"),
        (one_exponent_too_few, "model b0.w: output_exponents: are not 10"),
        (none_in_a_block, "output_exponents: are not those of one tensor in 2 blocks"),
        (two_in_a_block, "output_exponents: are not those of one tensor in 2 blocks"),
        (shares_with_an_earlier_one, "shares_input_of: 'b1.k' has no such input"),
        (nothing_else_in_the_block, "output_exponents: are those of a block's only prunable tensor"),
        (is_not_prunable, "model z: has an input that no round is about"),
    ],
)
def test_a_plan_that_aims_at_nothing(change: Callable[[plan_pb2.Plan], None], problem: str) -> None:
    message = aiming()
    checked_plan(message)
    change(message)
    with pytest.raises(PlanError, match=problem):
        checked_plan(message)


def test_gram_alone_aims_at_nothing() -> None:
    message = small(ReleaseKind.GRAM)
    message.model[2].output_exponents = bytes(8)
    with pytest.raises(PlanError, match="output_exponents: are not those of one tensor in 0 blocks"):
        checked_plan(message)


def uploaded(message: plan_pb2.Plan) -> int:
    """Bytes of a silo's words in all rounds."""
    plan = checked_plan(message)
    return sum(sum(layout_of(plan, index).lengths) for index in range(len(plan.message.rounds)))


def of_attention(**options: Any) -> plan_pb2.Plan:
    """Block 1 computes attention and MLP side by side: `fc` has the input of `attn.qkv`."""
    tensors = [
        ("blocks.0.attn.k", 0, (3, 10), ""),
        ("blocks.0.attn.q", 0, (6, 10), "blocks.0.attn.k"),
        ("blocks.0.up", 0, (8, 6), ""),
        ("blocks.1.attn.qkv", 1, (9, 5), "blocks.1.fc"),
        ("blocks.1.fc", 1, (7, 5), ""),
        ("blocks.1.proj", 1, (5, 7), ""),
    ]
    return pooled(ReleaseKind.GRAM, tensors, gram_inputs="attention", **options)


@pytest.mark.clause("2.4.17")
def test_products_of_attentions_inputs_beside_energies_of_all_others() -> None:
    """Also where another weight that shares the input has the section."""
    plan = checked_plan(of_attention())
    sections = [[(s.name, s.lanes, s.width) for s in layout_of(plan, index).sections] for index in range(2)]
    assert sections == [
        [
            ("clipped", 2, (4 * 55).bit_length()),
            ("gram blocks.0.attn.k", 55, 32),
            ("energies blocks.0.up", 6, 64),
        ],
        [
            ("clipped", 2, (4 * 15).bit_length()),
            ("gram blocks.1.fc", 15, 32),
            ("energies blocks.1.proj", 7, 64),
        ],
    ]
    words = plan_in_words(plan, "silo-000")
    what = (
        "the sum of products of every two input features of attention's weight matrices, and the sum of squares of "
        "each of the others"
    )
    assert words.computed_here[0].startswith(f"{what} on 4 sequences")
    assert words.leaves[0].what.startswith(f"{what}, {55 + 6 + 15 + 7} numbers")
    assert "products are summed of the inputs of attention's weights alone, and of all other inputs squares" in (
        words.also_asked
    )
    assert not any("attention" in said for said in plan_in_words(checked_plan(small(ReleaseKind.GRAM)), "a").also_asked)


@pytest.mark.clause("2.4.17")
@pytest.mark.parametrize(
    ("tensor", "exponents", "due"), [("blocks.0.attn.k", 1, 10), ("blocks.1.fc", 1, 5), ("blocks.0.up", 6, 1)]
)
def test_which_inputs_have_products_nobody_chooses(tensor: str, exponents: int, due: int) -> None:
    message = of_attention()
    next(entry for entry in message.model if entry.name == tensor).scale_exponents = bytes(exponents)
    with pytest.raises(PlanError, match=f"model {tensor}: scale_exponents: are not {due}"):
        checked_plan(message)


@pytest.mark.clause("2.1.6")
def test_of_which_inputs_products_are_summed() -> None:
    message = of_attention()
    message.pruning.gram_inputs = "mlp"
    with pytest.raises(PlanError, match="gram_inputs: 'mlp' is unknown"):
        checked_plan(message)
    with pytest.raises(PlanError, match="gram_inputs: are of products, and no round sums them"):
        checked_plan(small(ReleaseKind.ENERGIES, gram_inputs="attention"))
    with pytest.raises(PlanError, match="no weight of this model is attention's by its name"):
        checked_plan(small(ReleaseKind.GRAM, gram_inputs="attention"))


def test_upload_of_large_models() -> None:
    """The figures of ADR 40: energies of Llama 2 7B in 6 MB, where votes take 3.2 GB and its weights 13."""
    llama_2_7b, llama_3_1b = [*llama(4096, 11008, 4096, 32)], [*llama(2048, 8192, 512, 16)]
    chunk_words = 1 << 17
    energies, gram = (
        uploaded(pooled(kind, llama_2_7b, chunk_words=chunk_words)) for kind in (ReleaseKind.ENERGIES, ReleaseKind.GRAM)
    )
    assert 5_963_776 < energies < 6_000_000  # 745 472 sums of 8 bytes
    assert 10.9e9 < gram < 11.1e9
    target = uploaded(pooled(TARGET, llama_2_7b, chunk_words=chunk_words))
    assert 5.7e9 < target - gram < 5.8e9  # ADR 42: 32 matrices of 4096 x 11008 numbers of 4 bytes
    attention = uploaded(pooled(ReleaseKind.GRAM, llama_2_7b, chunk_words=chunk_words, gram_inputs="attention"))
    assert 2.1e9 < attention < 2.2e9
    plan = checked_plan(pooled(ReleaseKind.ENERGIES, llama_2_7b, chunk_words=chunk_words))
    assert bytes_up(plan, "silo-000") + bytes_down(plan, "silo-000") < 30e6, "AUDIT and earlier sums included"
    assert 2.5e9 < uploaded(pooled(ReleaseKind.GRAM, llama_3_1b, chunk_words=chunk_words)) < 2.7e9
