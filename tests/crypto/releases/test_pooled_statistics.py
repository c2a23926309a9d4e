"""Plans that pool statistics: what they have to say of inputs, what they refuse, and how much a silo uploads."""

from collections.abc import Callable

import pytest

from crypto.errors import PlanError
from crypto.names import ReleaseKind
from crypto.plan_rules import checked_plan
from crypto.releases.energies import most_a_silo
from crypto.releases.gram import product_bits
from crypto.releases.release_spec import layout_of
from crypto.secagg.round import Round
from silo_agent.consent.expected_traffic import bytes_down, bytes_up
from silo_agent.consent.ledger import Release
from silo_agent.consent.plan_in_words import plan_in_words
from sparsilo.v1 import plan_pb2
from support.plans import plan_message
from support.pooled_plans import PRUNERS, TARGET, llama, pooled, small


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


def uploaded(message: plan_pb2.Plan) -> int:
    """Bytes of a silo's words in all rounds."""
    plan = checked_plan(message)
    return sum(sum(layout_of(plan, index).lengths) for index in range(len(plan.message.rounds)))


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
