"""Second order from first-order sums: correlations of public text, variances of private text (docs/adr/0041).

Which features of an input go together is mostly the model's doing, and shows on text that it writes itself. How strong
each one is, is the text's. So G = D^1/2 R D^1/2 needs of the private text its diagonal D alone.
"""

import torch
from torch import Tensor


def with_public_correlations(energy: Tensor, public_gram: Tensor) -> Tensor:
    """Return a Gram matrix, float32 [d_in, d_in], with the diagonal `energy` and the correlations of `public_gram`.

    A feature that is always 0 on the public text is taken to be correlated with none.
    """
    deviation = public_gram.diagonal().sqrt()
    scale = torch.where(deviation > 0, energy.clamp(min=0).sqrt() / deviation, 0)
    gram = scale[:, None] * public_gram * scale
    gram.diagonal().copy_(energy)
    return gram
