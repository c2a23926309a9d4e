"""Plans that sum products of attention's inputs alone."""

from typing import Any

import pytest

from crypto.errors import PlanError
from crypto.names import ReleaseKind
from crypto.plan_rules import checked_plan
from crypto.releases.release_spec import layout_of
from silo_agent.consent.plan_in_words import plan_in_words
from sparsilo.v1 import plan_pb2
from support.pooled_plans import pooled, small


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
