"""Noise levels and noise in the subspace of zero centre of mass."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


def centre(positions: Float[Tensor, "*batch atoms 3"]) -> Float[Tensor, "*batch atoms 3"]:
    """Positions about their centroid (the zero-centre-of-mass subspace with unit masses)."""
    return positions - positions.mean(dim=-2, keepdim=True)


def centred_noise(
    shape: tuple[int, ...], *, generator: torch.Generator, dtype: torch.dtype = torch.float32
) -> Float[Tensor, "*batch atoms 3"]:
    """Standard normal noise projected to zero centre of mass. Draws from ``generator``."""
    return centre(torch.randn(shape, generator=generator, device=generator.device, dtype=dtype))


def state_noise(
    shape: tuple[int, ...], *, generator: torch.Generator, dtype: torch.dtype = torch.float32
) -> Float[Tensor, "*batch atoms channels"]:
    """Standard normal noise of a state: zero centre of mass in the first three channels, free in the others.

    Draws from ``generator``.
    """
    noise = torch.randn(shape, generator=generator, device=generator.device, dtype=dtype)
    return torch.cat([centre(noise[..., :3]), noise[..., 3:]], dim=-1)


def spawned(generator: torch.Generator, number: int) -> list[torch.Generator]:
    """Generators for so many batches that do not wait for each other. Draws their seeds from ``generator``."""
    seeds = torch.randint(2**62, (number,), generator=generator, device=generator.device)
    return [torch.Generator(generator.device).manual_seed(int(seed)) for seed in seeds]


def start_noise(
    shape: tuple[int, ...],
    *,
    sigma_max_nm: float,
    data_spread_nm: float,
    generator: torch.Generator,
    noise: Callable[..., Tensor] = centred_noise,
) -> Float[Tensor, "*batch atoms channels"]:
    """Where sampling starts: √(σ_max² + σ_data²) ε, the spread that data have under the highest noise.

    σ_max ε alone would start, and with a deterministic sampler end, too narrow. Draws from ``generator``, by ``noise``.
    """
    return math.hypot(sigma_max_nm, data_spread_nm) * noise(shape, generator=generator)


@dataclass(frozen=True)
class TrainingLevels:
    """Noise levels of a training, all within [σ_min, σ_max].

    A share of them is uniform in ln σ, the others log-normal, ln σ ~ N(ln median, log_width²), cut off at both ends.
    The log-normal ones are where basins and handedness are decided, the uniform ones see to it that the levels near
    the spread of a bond, which decide energies, are trained as well.

    Reference: Karras et al. 2022 (arXiv 2206.00364), table 1, for the log-normal law.
    """

    sigma_min_nm: float
    sigma_max_nm: float
    median_nm: float
    log_width: float
    uniform_share: float

    def draw(self, n: int, *, generator: torch.Generator) -> Float[Tensor, " {n}"]:
        """``n`` levels in random order, one of each stratum of equal probability of its law.

        Stratifying leaves each level's distribution as it is and lowers the variance of their mean.
        Draws from ``generator``.
        """
        device = generator.device
        strata = torch.randperm(n, generator=generator, device=device)
        uniform = (strata + torch.rand(n, generator=generator, device=device)) / n
        low, high = (self._cumulative(s) for s in (self.sigma_min_nm, self.sigma_max_nm))
        # float32 rounds a quantile next to 1 up to it, where the normal's is infinite.
        cumulative = (low + (high - low) * uniform).clamp(1e-6, 1 - 1e-6)
        log_normal = self.median_nm * torch.exp(self.log_width * torch.special.ndtri(cumulative))
        log_uniform = self.sigma_min_nm * (self.sigma_max_nm / self.sigma_min_nm) ** uniform
        chosen = torch.rand(n, generator=generator, device=device) < self.uniform_share
        return torch.where(chosen, log_uniform, log_normal.clamp(self.sigma_min_nm, self.sigma_max_nm))

    def _cumulative(self, sigma_nm: float) -> float:
        """Probability of a level below σ under the log-normal law before it is cut off."""
        return 0.5 * math.erfc(-math.log(sigma_nm / self.median_nm) / self.log_width / math.sqrt(2.0))


def stratified_log_uniform_sigma(
    n: int, *, sigma_min_nm: float, sigma_max_nm: float, generator: torch.Generator
) -> Float[Tensor, " {n}"]:
    """Noise levels uniform in ln σ, one in each of ``n`` equal strata, ascending. Draws from ``generator``."""
    uniform = (
        torch.arange(n, device=generator.device) + torch.rand(n, generator=generator, device=generator.device)
    ) / n
    return sigma_min_nm * (sigma_max_nm / sigma_min_nm) ** uniform


def karras_sigma(steps: int, *, sigma_min_nm: float, sigma_max_nm: float, rho: float) -> Float[Tensor, " levels"]:
    """Descending noise levels of a sampler, ending with 0 (``steps`` + 1 levels).

    σ_i = (σ_max^{1/ρ} + i/(n−1) (σ_min^{1/ρ} − σ_max^{1/ρ}))^ρ. Reference: Karras et al. 2022, eq. 5.
    """
    ramp = torch.linspace(0, 1, steps, dtype=torch.float64)
    low, high = sigma_min_nm ** (1 / rho), sigma_max_nm ** (1 / rho)
    sigma = (high + ramp * (low - high)) ** rho
    return torch.cat([sigma, torch.zeros(1, dtype=torch.float64)])
