"""How much a loss should weigh beside another, judged by their gradients."""

import torch
from jaxtyping import Float
from torch import Tensor


def adaptive_weight(
    reference: Float[Tensor, ""], loss: Float[Tensor, ""], at: Tensor, most: float = float("inf")
) -> Float[Tensor, ""]:
    """The factor that gives the loss a gradient as long as the reference's, at one weight; detached.

    VQGAN (arXiv:2012.09841) Eq. 7 at the decoder's last layer, VA-VAE (arXiv:2501.01423) Eq. 6 at the encoder's.
    """
    norms = [torch.autograd.grad(one, at, retain_graph=True)[0].norm() for one in (reference, loss)]
    return (norms[0] / (norms[1] + 1e-4)).clamp(0, most).detach()
