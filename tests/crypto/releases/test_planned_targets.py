"""Plans in which the last tensor of each block aims at the dense model's hidden states."""

from collections.abc import Callable
from typing import Any

import pytest

from crypto.errors import PlanError
from crypto.names import ReleaseKind
from crypto.plan_rules import checked_plan
from crypto.releases.release_spec import layout_of
from silo_agent.consent.plan_in_words import plan_in_words
from sparsilo.v1 import plan_pb2
from support.pooled_plans import TARGET, pooled, small


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
