"""Optimal superposition of batches of conformers."""

import torch
from jaxtyping import Float
from torch import Tensor


@torch.no_grad()
def superpose(
    mobile: Float[Tensor, "batch atoms 3"], target: Float[Tensor, "batch atoms 3"]
) -> Float[Tensor, "batch atoms 3"]:
    """``mobile`` rotated onto ``target`` with least squares; both must be centred. Never a reflection.

    Reference: Kabsch, Acta Cryst. A 32, 922 (1976). The rotation carries no gradient.
    """
    covariance = mobile.transpose(-1, -2) @ target
    u, _, vh = torch.linalg.svd(covariance)
    flip = torch.ones_like(covariance[..., 0])
    flip[..., 2] = torch.sign(torch.linalg.det(u) * torch.linalg.det(vh))
    return mobile @ (u * flip[..., None, :] @ vh)


def lay_upon_first(conformers: Float[Tensor, "conformers atoms 3"]) -> Float[Tensor, "conformers atoms 3"]:
    """Centred conformers, each superposed on the first."""
    return superpose(conformers, conformers[:1].expand_as(conformers))
