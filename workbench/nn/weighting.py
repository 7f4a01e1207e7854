"""Weights for loss terms, computed from the norms of their gradients."""

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.core.batch_shares import batch_mean


def adaptive_weight(
    reference: Float[Tensor, ""],
    loss: Float[Tensor, ""],
    parameter: Tensor,
    max_weight: float = float("inf"),
) -> Float[Tensor, ""]:
    """Compute the factor that gives a loss the gradient norm of a reference loss.

    Parameters
    ----------
    reference : Tensor, shape ()
        Loss whose gradient sets the scale, usually the reconstruction error.
    loss : Tensor, shape ()
        Loss to be weighted.
    parameter : Tensor
        Weight at which both gradients are measured.
    max_weight : float
        Upper bound of the factor.

    Returns
    -------
    Tensor, shape ()
        The factor in [0, max_weight], detached.

    References
    ----------
    VQGAN (arXiv:2012.09841), Eq. 7, at the decoder's last layer;
    VA-VAE (arXiv:2501.01423), Eq. 6, at the encoder's last layer.
    """
    (reference_gradient,) = torch.autograd.grad(reference, parameter, retain_graph=True)
    (loss_gradient,) = torch.autograd.grad(loss, parameter, retain_graph=True)
    reference_norm = batch_mean(reference_gradient).norm()
    loss_norm = batch_mean(loss_gradient).norm()
    return (reference_norm / (loss_norm + 1e-4)).clamp(0, max_weight).detach()
