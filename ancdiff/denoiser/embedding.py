"""Numbers as features: noise levels and distances."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

_NOISE_FREQUENCIES = (1.0, 2.0, 4.0)
NOISE_FEATURES = 1 + 2 * len(_NOISE_FREQUENCIES)


def noise_features(c_noise: Float[Tensor, " batch"]) -> Float[Tensor, "batch features"]:
    """A noise level c_noise = ¼ ln(σ/σ_data), with sines and cosines of it."""
    angles = torch.pi * c_noise[:, None] * c_noise.new_tensor(_NOISE_FREQUENCIES)
    return torch.cat([c_noise[:, None], torch.sin(angles), torch.cos(angles)], dim=-1)


class RadialFunctions(nn.Module):
    """exp(−½((d − μ)/w)²) on grids of centres μ, each given as (how many, lowest, highest); w is the grid's spacing."""

    centres: Tensor
    scales: Tensor

    def __init__(self, *grids: tuple[int, float, float]) -> None:
        super().__init__()
        centres = [torch.linspace(low, high, n) for n, low, high in grids]
        widths = [torch.full((n,), (high - low) / (n - 1)) for n, low, high in grids]
        self.register_buffer("centres", torch.cat(centres), persistent=False)
        self.register_buffer("scales", 1.0 / torch.cat(widths), persistent=False)

    def forward(self, distance: Float[Tensor, "*axes 1"]) -> Float[Tensor, "*axes functions"]:
        return torch.exp(-0.5 * ((distance - self.centres) * self.scales).square())
