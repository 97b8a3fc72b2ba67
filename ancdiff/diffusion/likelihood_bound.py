"""A bound on the log-likelihood of states, in nats and with its zero."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from ancdiff.diffusion import Denoise
from ancdiff.diffusion.noise import state_noise, stratified_log_uniform_sigma


def smoothed_nll_bound(
    denoise: Denoise,
    clean_nm: Float[Tensor, "batch atoms channels"],
    *,
    sigma_data_nm: float,
    sigma_min_nm: float,
    sigma_max_nm: float,
    levels: int,
    generator: torch.Generator,
) -> Float[Tensor, " batch"]:
    """Upper bound, in nats, on −ln p(z + σ_min ε) of each clean state z, averaged over its noise; one Monte-Carlo draw.

    With d = 3(N − 1) + (channels − 3) N, ln R = ln(σ_max/σ_min) and Gaussian q = N(0, (σ_max² + σ_data²) 1) at the end,

        −ln p ≤ E[−ln q(z + σ_max ε)] − d ln R + ∫ E‖ε − ε_θ‖² d ln σ,   ε_θ = (z_σ − D_θ(z_σ; σ))/σ ,

    since dh(p_σ)/d ln σ = d − E‖ε − ε*‖² for the entropy of data under Gaussian noise (the I-MMSE relation), which the
    model's error bounds from above. Exact for the exact denoiser, but for q. Draws from ``generator``.

    References: Kingma et al. 2021 (arXiv 2107.00630), eq. 17; Guo, Shamai, Verdú, IEEE Trans. IT 51, 1261 (2005).
    """
    batch, atoms, channels = clean_nm.shape
    d, log_ratio = 3 * (atoms - 1) + (channels - 3) * atoms, math.log(sigma_max_nm / sigma_min_nm)
    sigmas = stratified_log_uniform_sigma(
        levels, sigma_min_nm=sigma_min_nm, sigma_max_nm=sigma_max_nm, generator=generator
    )
    error = clean_nm.new_zeros(batch)
    for sigma in sigmas:
        noisy = clean_nm + sigma * state_noise(tuple(clean_nm.shape), generator=generator, dtype=clean_nm.dtype)
        denoised = denoise(noisy, sigma.expand(batch).to(clean_nm.dtype))
        # The states are what is compared: their distance in units of σ is that of the noises.
        error += (denoised - clean_nm).square().sum(dim=(-1, -2)) / sigma**2 / levels
    variance = sigma_max_nm**2 + sigma_data_nm**2
    square = clean_nm.square().sum(dim=(-1, -2)) + d * sigma_max_nm**2
    end = 0.5 * d * math.log(2 * math.pi * variance) + square / (2 * variance)
    return end - d * log_ratio + log_ratio * error
