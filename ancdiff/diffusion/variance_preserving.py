"""The variance-preserving process x_t = √α_t x_0 + σ_t ε beside EDM's, and its denoising score matching.

x_0 is in units of the data's spread σ_d, so that x_t keeps a variance near 1. β(t) rises linearly from β_min to β_max,

    α_t = exp(−∫₀ᵗ β) = exp(−β_min t − ½ (β_max − β_min) t²),    σ_t² = 1 − α_t .

It is the variance-exploding process in other coordinates: y = σ_d x_t/√α_t = x + σ ε with σ = σ_d σ_t/√α_t. So one
denoiser, one set of solvers and one model energy serve both, and the scores are tied by

    s(x_t, t) = (√α_t D(y; σ)/σ_d − x_t)/σ_t² = (σ_d/√α_t) ∇ ln p_σ(y) .

Reference: Song et al. 2021 (arXiv 2011.13456), appendix B, with α_t for the square of their scale of the mean.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from ancdiff.config import DiffusionSettings
from ancdiff.diffusion import Denoise
from ancdiff.diffusion.energy import Noised, noised
from ancdiff.diffusion.noise import centred_noise

Times = Float[Tensor, " batch"]
Positions = Float[Tensor, "batch atoms 3"]


def alpha(time: Times, diffusion: DiffusionSettings) -> Times:
    """α_t, the share of the data's variance that is left at t."""
    return torch.exp(-diffusion.beta_min * time - 0.5 * (diffusion.beta_max - diffusion.beta_min) * time**2)


def sigma_squared(time: Times, diffusion: DiffusionSettings) -> Times:
    """σ_t² = 1 − α_t, without loss of digits at small t."""
    return -torch.expm1(-diffusion.beta_min * time - 0.5 * (diffusion.beta_max - diffusion.beta_min) * time**2)


def matched_sigma_nm(time: Times, diffusion: DiffusionSettings, *, sigma_data_nm: float) -> Times:
    """Noise σ = σ_d σ_t/√α_t of the variance-exploding process that is as noisy as x_t."""
    return sigma_data_nm * torch.sqrt(sigma_squared(time, diffusion) / alpha(time, diffusion))


def matched_time(sigma_nm: Times, diffusion: DiffusionSettings, *, sigma_data_nm: float) -> Times:
    """The t at which x_t is as noisy as x + σε: the inverse of `matched_sigma_nm`."""
    integral = torch.log1p((sigma_nm / sigma_data_nm) ** 2)
    slope = diffusion.beta_max - diffusion.beta_min
    # The root of ½ slope t² + β_min t = integral in the form that holds for slope → 0.
    return 2 * integral / (diffusion.beta_min + torch.sqrt(diffusion.beta_min**2 + 2 * slope * integral))


def score(
    denoise: Denoise, x_t: Positions, time: Times, diffusion: DiffusionSettings, *, sigma_data_nm: float
) -> Positions:
    """s_θ(x_t, t) = (√α_t D(y; σ)/σ_d − x_t)/σ_t² with y = σ_d x_t/√α_t; x_t is dimensionless and centred."""
    root = torch.sqrt(alpha(time, diffusion))[:, None, None]
    sigma = matched_sigma_nm(time, diffusion, sigma_data_nm=sigma_data_nm)
    clean = denoise(sigma_data_nm * x_t / root, sigma) / sigma_data_nm
    return (root * clean - x_t) / sigma_squared(time, diffusion)[:, None, None]


def vp_noise(
    clean_nm: Positions, diffusion: DiffusionSettings, *, sigma_data_nm: float, generator: torch.Generator
) -> Noised:
    """Centred conformers at times uniform in [t_min, 1], one in each of equal strata, as y = x + σε.

    Draws t and ε from ``generator``.
    """
    n = len(clean_nm)
    strata = torch.randperm(n, generator=generator, device=generator.device)
    uniform = (strata + torch.rand(n, generator=generator, device=generator.device)) / n
    time = diffusion.time_min + (1.0 - diffusion.time_min) * uniform
    sigma = matched_sigma_nm(time, diffusion, sigma_data_nm=sigma_data_nm)
    noise = centred_noise(tuple(clean_nm.shape), generator=generator)
    return noised(clean_nm, sigma, noise, superpose=False)


def dsm_loss(
    batch: Noised, denoised_nm: Positions, diffusion: DiffusionSettings, *, sigma_data_nm: float
) -> Float[Tensor, " batch"]:
    """λ(t) ‖s_θ(x_t, t) + ε/σ_t‖² / 3(N − 1) per conformer, with λ = 1 or σ_t² (``diffusion.dsm_weight``).

    From s_θ + ε/σ_t = √α_t (D − x)/(σ_d σ_t²). Reference: Vincent 2011 (Neural Comput. 23, 1661).
    """
    total = batch.sigma_nm**2 + sigma_data_nm**2
    share_data, share_noise = sigma_data_nm**2 / total, batch.sigma_nm**2 / total  # α_t and σ_t²
    factor = torch.sqrt(share_data) / (sigma_data_nm * share_noise)
    residual = factor[:, None, None] * (denoised_nm - batch.target_nm)
    weight = share_noise if diffusion.dsm_weight == "variance" else torch.ones_like(share_noise)
    return weight * residual.square().sum(dim=(-1, -2)) / (3 * (denoised_nm.shape[1] - 1))


def vp_sigma_nm(
    steps: int, diffusion: DiffusionSettings, *, sigma_data_nm: float, rho: float
) -> Float[Tensor, " levels"]:
    """Descending noise of a sampler at times from 1 to t_min, ending with 0 (``steps`` + 1 levels).

    t_i = (1 + i/(n−1) (t_min^{1/ρ} − 1))^ρ, the bend of EDM's levels (`karras_sigma`) in t. Even times, ρ = 1, leave
    too few steps for low noise: of 50, 13 lie below the data's spread, and 28 or more with ρ = 3.
    """
    ramp = torch.linspace(0.0, 1.0, steps, dtype=torch.float64)
    time = (1.0 + ramp * (diffusion.time_min ** (1 / rho) - 1.0)) ** rho
    levels = matched_sigma_nm(time, diffusion, sigma_data_nm=sigma_data_nm)
    return torch.cat([levels, torch.zeros(1, dtype=torch.float64)])
