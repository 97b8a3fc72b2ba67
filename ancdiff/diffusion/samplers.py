"""Samplers: functions of a denoiser, a start and descending noise levels.

Each solves the probability-flow ODE dx/dσ = (x − D(x; σ))/σ, or its stochastic sibling, from σ_max to 0.
"""

import math
from collections.abc import Callable, Iterator
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from ancdiff.diffusion import Denoise
from ancdiff.diffusion.noise import centred_noise

Positions = Float[Tensor, "batch atoms channels"]
"""Three channels, or more where atom types are sampled with the positions."""
Levels = Float[Tensor, " levels"]


def heun(denoise: Denoise, start_nm: Positions, sigma_nm: Levels) -> Positions:
    """Heun's second-order steps; 2·steps − 1 evaluations, deterministic.

    Reference: Karras et al. 2022 (arXiv 2206.00364), algorithm 1.
    """
    x = start_nm
    for sigma, sigma_next in _pairs(sigma_nm):
        x = _heun_step(denoise, x, sigma, sigma_next)
    return x


def stochastic(
    denoise: Denoise,
    start_nm: Positions,
    sigma_nm: Levels,
    *,
    churn: float,
    generator: torch.Generator,
    fresh_noise: Callable[..., Tensor] = centred_noise,
) -> Positions:
    """Heun steps after adding fresh noise, γ = min(S_churn / steps, √2 − 1); 2·steps − 1 evaluations.

    ``fresh_noise`` makes the noise of a state from its shape, as `ancdiff.diffusion.noise.centred_noise` does.
    Draws from ``generator``. Reference: Karras et al. 2022, algorithm 2 (with S_noise = 1 and no bounds on S_t).
    """
    x = start_nm
    gamma = min(churn / (len(sigma_nm) - 1), math.sqrt(2.0) - 1.0)
    for sigma, sigma_next in _pairs(sigma_nm):
        raised = sigma * (1.0 + gamma)
        noise = fresh_noise(tuple(x.shape), generator=generator, dtype=x.dtype)
        x = x + math.sqrt(raised**2 - sigma**2) * noise
        x = _heun_step(denoise, x, raised, sigma_next)
    return x


def dpmpp_2m(
    denoise: Denoise,
    start_nm: Positions,
    sigma_nm: Levels,
    *,
    eta: float = 0.0,
    generator: torch.Generator | None = None,
    fresh_noise: Callable[..., Tensor] = centred_noise,
) -> Positions:
    """DPM-Solver++(2M), multistep in λ = −ln σ; one evaluation a step.

    η = 0 is the probability-flow ODE, deterministic. η > 0 is a stochastic sibling of the same marginals, backwards in
    σ, dx = (1 + η) (x − D)/σ dσ + √(2ησ) dw, in which noise undoes errors of earlier steps: with h = λ' − λ

        x' = (σ'/σ) e^{−ηh} x + (1 − e^{−(1+η)h}) D̂ + σ' √(1 − e^{−2ηh}) ε ,

    D̂ the last two denoised conformers drawn on to the middle of the step. Draws from ``generator`` where η > 0, by
    ``fresh_noise`` as `stochastic` does.

    Raises:
        ValueError: η > 0 without a generator.

    Reference: Lu et al. 2022 (arXiv 2211.01095), algorithm 2, and its SDE form (η = 1); Karras et al. 2022,
    eq. 6 with β = η/σ, for the family of SDEs.
    """
    if eta > 0.0 and generator is None:
        raise ValueError("a stochastic solver (eta > 0) needs a generator")
    x, previous, previous_step = start_nm, None, 0.0
    for sigma, sigma_next in _pairs(sigma_nm):
        denoised = denoise(x, _full(x, sigma))
        if sigma_next == 0.0:
            return denoised
        step = math.log(sigma / sigma_next)
        drawn_on = denoised
        if previous is not None:
            drawn_on = denoised + 0.5 * (step / previous_step) * (denoised - previous)
        x = (sigma_next / sigma) * math.exp(-eta * step) * x - math.expm1(-(1.0 + eta) * step) * drawn_on
        if generator is not None and eta > 0.0:
            noise = fresh_noise(tuple(x.shape), generator=generator, dtype=x.dtype)
            x = x + sigma_next * math.sqrt(-math.expm1(-2.0 * eta * step)) * noise
        previous, previous_step = denoised, step
    return x


def _heun_step(denoise: Denoise, x: Positions, sigma: float, sigma_next: float) -> Positions:
    slope = (x - denoise(x, _full(x, sigma))) / sigma
    ahead = x + (sigma_next - sigma) * slope
    if sigma_next == 0.0:
        return ahead
    slope_ahead = (ahead - denoise(ahead, _full(x, sigma_next))) / sigma_next
    return x + (sigma_next - sigma) * 0.5 * (slope + slope_ahead)


def _pairs(sigma_nm: Levels) -> Iterator[tuple[float, float]]:
    return pairwise(sigma_nm.tolist())


def _full(x: Positions, sigma: float) -> Float[Tensor, " batch"]:
    return torch.full((len(x),), sigma, dtype=x.dtype, device=x.device)
