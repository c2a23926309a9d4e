"""The `gram` kind: products of every two input features of the prunable tensors, over the silos' text, added up.

It is what SparseGPT, ADMM and ALPS read of a text: by the sum of all silos they prune as with all text in one place.
"""

from collections.abc import Iterator
from typing import ClassVar, Final

from crypto.encoding.layout import Section
from crypto.errors import PlanError
from crypto.names import GramInputs, ReleaseKind
from crypto.plan import Plan, oriented
from crypto.pruning.pruners import PRUNERS
from crypto.releases.energies import EnergiesSpec, has_products
from sparsilo.v1 import plan_pb2

GRAM_WIDTH: Final = 32


def gram_section(tensor: str) -> str:
    """Name the section that holds the upper triangle of the Gram matrix of a tensor's input, row by row."""
    return f"gram {tensor}"


def product_bits(silos: int) -> int:
    """Return b, where products in [-1, 1] are whole numbers of 2^-b: those of `silos` fit a lane, 2^b added to each."""
    return GRAM_WIDTH - 1 - silos.bit_length()


def triangle(features: int) -> int:
    """Return how many numbers the upper triangle of a Gram matrix has, its diagonal included."""
    return features * (features + 1) // 2


class GramSpec(EnergiesSpec):
    """What energies are, with the products of different features beside the squares."""

    kind = ReleaseKind.GRAM
    noise_field = ""  # noise for as many numbers as there are products would leave nothing of them
    opens = "for every two input features of a weight matrix the sum of their products over all silos' text"
    not_protected: ClassVar[tuple[str, ...]] = (
        "From the products of the first block's inputs it can be computed how often each word occurs in all silos' "
        "text together. A word that one silo alone has shows there, though not whose it is.",
        "Where the silos' text has fewer tokens than a matrix has inputs, the sums say in which directions it lies.",
    )
    seen = "the products of every two input features, summed over all their text"

    def statistics(self, plan: Plan, tensor: plan_pb2.Tensor) -> Iterator[Section]:
        """Yield the section of the upper triangle, or of energies where products are not summed."""
        if not has_products(plan, tensor):
            yield from super().statistics(plan, tensor)
        else:
            yield Section(gram_section(tensor.name), triangle(oriented(tensor)[1]), GRAM_WIDTH)

    def what(self, plan: Plan) -> str:
        """Return in words what rounds of this kind sum over a text."""
        products, squares = "the sum of products of every two input features of", "the sum of squares of each of"
        if plan.pruning.gram_inputs is GramInputs.ALL:
            return f"{products} the weight matrices"
        return f"{products} attention's weight matrices, and {squares} the others"

    def check(self, plan: Plan, index: int) -> None:
        """Refuse also a pruner that makes nothing of products."""
        super().check(plan, index)
        pruner = plan.pruning.pruner
        if not PRUNERS[pruner].updates_weights:
            raise PlanError(
                f"plan: rounds[{index}]: pools {self.kind}, and {pruner} reads energies alone: release energies"
            )


SPEC = GramSpec()
