"""Numbers as features: noise levels and distances."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

_NOISE_FREQUENCIES = (1.0, 2.0, 4.0)
NOISE_FEATURES = 1 + 2 * len(_NOISE_FREQUENCIES)
_NOTHING = -64.0


def noise_features(c_noise: Float[Tensor, " batch"]) -> Float[Tensor, "batch features"]:
    """A noise level c_noise = ¼ ln(σ/σ_data), with sines and cosines of it."""
    angles = torch.pi * c_noise[:, None] * c_noise.new_tensor(_NOISE_FREQUENCIES)
    return torch.cat([c_noise[:, None], torch.sin(angles), torch.cos(angles)], dim=-1)


class RadialFunctions(nn.Module):
    """exp(−½((d − μ)/w)²) on grids of centres μ, each given as (how many, lowest, highest); w is the grid's spacing.

    The exponent is expanded, −d²/2w² + dμ/w² − μ²/2w²: one small product in the place of a chain of operations on every
    distance and centre. It ends at −64, which is as good as nothing: where results underflow, processors take ten times
    as long for an exponential.
    """

    exponents: Tensor
    offsets: Tensor

    def __init__(self, *grids: tuple[int, float, float]) -> None:
        super().__init__()
        exact = torch.float64
        centres = torch.cat([torch.linspace(low, high, n, dtype=exact) for n, low, high in grids])
        widths = torch.cat([torch.full((n,), (high - low) / (n - 1), dtype=exact) for n, low, high in grids])
        exponents, offsets = torch.stack([-0.5 / widths**2, centres / widths**2], dim=1), -0.5 * (centres / widths) ** 2
        self.register_buffer("exponents", exponents.to(torch.get_default_dtype()), persistent=False)
        self.register_buffer("offsets", offsets.to(torch.get_default_dtype()), persistent=False)

    def forward(self, distance: Float[Tensor, "*axes 1"]) -> Float[Tensor, "*axes functions"]:
        powers = torch.cat([distance.square(), distance], dim=-1)
        return torch.exp(nn.functional.linear(powers, self.exponents, self.offsets).clamp(min=_NOTHING))
