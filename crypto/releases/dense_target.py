"""The `dense_target` kind: of the layer that writes to the residual stream last in a block, what it should write.

All layers of a block are pruned by Gram matrices, but this one comes in a second round of the block. Beside the Gram
matrix of its inputs, as they are then, silos sum their products with what is missing to the dense model's hidden states
after the block. So it makes up for what pruning has done so far (docs/adr/0042).
"""

from collections.abc import Iterator, Sequence

from crypto.encoding.layout import Section
from crypto.errors import PlanError
from crypto.names import GramInputs, ReleaseKind, Schedule
from crypto.plan import Plan, oriented
from crypto.releases.gram import GRAM_WIDTH, GramSpec
from sparsilo.v1 import plan_pb2


def target_section(tensor: str) -> str:
    """Name the section that holds, output by output, the products of a tensor's inputs with what it should write."""
    return f"target {tensor}"


class DenseTargetSpec(GramSpec):
    """What gram is, with products of inputs and missing outputs beside those of two inputs."""

    kind = ReleaseKind.DENSE_TARGET
    preceded_by = (ReleaseKind.GRAM,)
    opens = (
        "of each block's last layer the same, and for every input and output of it the sum of products of what comes "
        "in and what is missing there to the dense model's hidden states"
    )
    not_protected = (
        "The sums say how the hidden states that the dense model has on the silos' text lie to the pruned one's.",
        *GramSpec.not_protected[1:],
    )
    seen = "the products of every two input features, summed over all their text, and in each block those of the last "
    "layer's input features with what it should write"

    def statistics(self, plan: Plan, tensor: plan_pb2.Tensor) -> Iterator[Section]:
        """Yield the section of the upper triangle, and that of the target."""
        yield from super().statistics(plan, tensor)
        d_out, d_in = oriented(tensor)
        yield Section(target_section(tensor.name), d_out * d_in, GRAM_WIDTH)

    def check(self, plan: Plan, index: int) -> None:
        """Refuse also a pruning of all blocks at once or without all products, and outputs that the plan lacks."""
        super().check(plan, index)
        if plan.pruning.schedule is not Schedule.ITERATIVE:
            raise PlanError(
                f"plan: rounds[{index}]: aims at the dense model block after block: the schedule is iterative"
            )
        if plan.pruning.gram_inputs is not GramInputs.ALL:
            raise PlanError(
                f"plan: rounds[{index}]: aims at the dense model by products of all inputs: leave out gram_inputs"
            )
        for tensor in plan.tensors(index):
            outputs = oriented(tensor)[0]
            if len(tensor.output_exponents) != outputs:
                raise PlanError(f"plan: model {tensor.name}: output_exponents: are not {outputs}")

    def computes(self, plan: Plan, index: int, silo: str) -> Iterator[str]:
        """Yield also that the dense model runs beside what is pruned."""
        yield from super().computes(plan, index, silo)
        yield "what each block's last layer should write, for which the dense model runs over the same text beside"

    def leaves(self, plan: Plan, rounds: Sequence[int]) -> str:
        """Say what is summed, and how many numbers that is."""
        tensors = [tensor for index in rounds for tensor in plan.tensors(index)]
        numbers = sum(section.lanes for tensor in tensors for section in self.statistics(plan, tensor))
        return (
            "the sum of products of every two input features of each block's last layer, and of each of them with what "
            f"each output lacks, {numbers:,} numbers, and how many of them were too large for the plan's scales"
        )


SPEC = DenseTargetSpec()
