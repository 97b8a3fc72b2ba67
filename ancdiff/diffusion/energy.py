"""The denoising error of a conformer: the training loss, and the model's own energy in nats."""

import torch
from jaxtyping import Float
from torch import Tensor

from ancdiff.diffusion import Denoise
from ancdiff.diffusion.noise import centred_noise, lognormal_sigma, stratified_log_uniform_sigma
from ancdiff.diffusion.superpose import superpose as superpose_on


def denoising_error(
    denoise: Denoise,
    clean_nm: Float[Tensor, "batch atoms 3"],
    sigma_nm: Float[Tensor, " batch"],
    noise: Float[Tensor, "batch atoms 3"],
    *,
    superpose: bool,
) -> Float[Tensor, " batch"]:
    """‖D(x + σε; σ) − R x‖², in nm², summed over atoms.

    R superposes x on x + σε where ``superpose`` (as AlphaFold 3 does in training), else R = 1. The turn that the noise
    gives to a conformer as a whole says nothing about its shape; taking it out of the target leaves a cleaner signal.
    """
    noisy = clean_nm + sigma_nm[:, None, None] * noise
    target = superpose_on(clean_nm, noisy) if superpose else clean_nm
    return (denoise(noisy, sigma_nm) - target).square().sum(dim=(-1, -2))


def denoising_loss(
    denoise: Denoise,
    clean_nm: Float[Tensor, "batch atoms 3"],
    *,
    sigma_data_nm: float,
    median_nm: float,
    log_width: float,
    superpose: bool,
    generator: torch.Generator,
) -> Float[Tensor, " batch"]:
    """EDM loss per conformer, λ(σ) ‖D(x + σε; σ) − R x‖² / 3(N − 1) with λ = (σ² + σ_d²)/(σ σ_d)².

    ``clean_nm`` is centred. Draws σ and ε from ``generator``. Reference: Karras et al. 2022 (arXiv 2206.00364), table 1.
    """
    batch, atoms, _ = clean_nm.shape
    sigma = lognormal_sigma(batch, median_nm=median_nm, log_width=log_width, generator=generator)
    noise = centred_noise((batch, atoms, 3), generator=generator)
    weight = (sigma**2 + sigma_data_nm**2) / (sigma * sigma_data_nm) ** 2
    error = denoising_error(denoise, clean_nm, sigma, noise, superpose=superpose)
    return weight * error / (3 * (atoms - 1))


def likelihood_energy(
    denoise: Denoise,
    clean_nm: Float[Tensor, "conformers atoms 3"],
    *,
    levels: int,
    sigma_min_nm: float,
    sigma_max_nm: float,
    superpose: bool,
    generator: torch.Generator,
) -> Float[Tensor, " conformers"]:
    """Model energy in nats, E_θ(x) = ∫ E_ε ‖D_θ(x + σε; σ) − x‖² / σ² d ln σ, so that −log p_θ(x) ≤ E_θ(x) + const.

    The integral runs over [σ_min, σ_max] and is estimated at ``levels`` stratified noise levels. Levels and noise are
    shared by all conformers: differences of E_θ are what counts, and what the conformers share cancels in them.
    Draws from ``generator``. Reference: Kingma et al. 2021 (arXiv 2107.00630), eq. 17, for variance-exploding noise.
    """
    conformers, atoms, _ = clean_nm.shape
    sigma = stratified_log_uniform_sigma(
        levels, sigma_min_nm=sigma_min_nm, sigma_max_nm=sigma_max_nm, generator=generator
    )
    noise = centred_noise((levels, atoms, 3), generator=generator)
    error = denoising_error(
        denoise,
        clean_nm.repeat_interleave(levels, dim=0),
        sigma.repeat(conformers),
        noise.repeat(conformers, 1, 1),
        superpose=superpose,
    ).reshape(conformers, levels)
    log_range = torch.log(torch.tensor(sigma_max_nm / sigma_min_nm)).item()
    return log_range * (error / sigma**2).mean(dim=1)
