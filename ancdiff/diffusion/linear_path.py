"""The linear path of flow matching, as a second coordinate of one and the same process.

Flow matching interpolates x_t = (1 − t) x + t s ε, t from 0 (data) to 1 (noise of scale s), and learns the velocity
v(x_t, t) = E[s ε − x | x_t]. Divided by 1 − t the path is that of variance-exploding noise, x_t/(1 − t) = x + σ ε with
σ = s t/(1 − t), so that

    v(x_t, t) = (x_t − D(x_t/(1 − t); σ)) / t ,    D(y; σ) = (1 − t) y − t v((1 − t) y, t) ,   t = σ/(s + σ) .

A velocity network therefore is a `Denoise`, and what takes one (samplers, model energies, objectives, log-densities)
serves it as it is.

Reference: Lipman et al. 2023 (arXiv 2210.02747); Albergo and Vanden-Eijnden 2023 (arXiv 2209.15571).
"""

from collections.abc import Callable
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from ancdiff.diffusion import Denoise

Positions = Float[Tensor, "batch atoms 3"]
Times = Float[Tensor, " batch"]
Velocity = Callable[[Positions, Times], Positions]
"""v(x_t, t) in nm, for t between 0 and 1."""


def sigma_of_time(t: Times, *, scale_nm: float) -> Times:
    """σ = s t/(1 − t), nm."""
    return scale_nm * t / (1.0 - t)


def time_of_sigma(sigma_nm: Times, *, scale_nm: float) -> Times:
    """t = σ/(s + σ)."""
    return sigma_nm / (scale_nm + sigma_nm)


def interpolate(clean_nm: Positions, noise: Positions, t: Times, *, scale_nm: float) -> Positions:
    """x_t = (1 − t) x + t s ε."""
    part = t[:, None, None]
    return (1.0 - part) * clean_nm + part * scale_nm * noise


def velocity_of(denoise: Denoise, *, scale_nm: float) -> Velocity:
    """The velocity field of a denoiser."""

    def velocity(x: Positions, t: Times) -> Positions:
        part = t[:, None, None]
        return (x - denoise(x / (1.0 - part), sigma_of_time(t, scale_nm=scale_nm))) / part

    return velocity


def denoiser_of(velocity: Velocity, *, scale_nm: float) -> Denoise:
    """The denoiser of a velocity field, for everything in this package that takes one."""

    def denoise(noisy_nm: Positions, sigma_nm: Times) -> Positions:
        t = time_of_sigma(sigma_nm, scale_nm=scale_nm)
        x = (1.0 - t[:, None, None]) * noisy_nm
        return x - t[:, None, None] * velocity(x, t)

    return denoise


def flow_matching_error(
    velocity: Velocity, clean_nm: Positions, t: Times, noise: Positions, *, scale_nm: float
) -> Float[Tensor, " batch"]:
    """‖v(x_t, t) − (s ε − x)‖², nm²: the loss of flow matching; it is ‖D − x‖²/t² of the same noise."""
    x = interpolate(clean_nm, noise, t, scale_nm=scale_nm)
    return (velocity(x, t) - (scale_nm * noise - clean_nm)).square().sum(dim=(-1, -2))


def likelihood_weight(t: Times, *, scale_nm: float) -> Times:
    """Weight per dt under which the flow-matching error is the model energy in nats, (1 − t)/(s² t).

    From ∫ ‖D − x‖²/σ² d ln σ with ‖D − x‖² = t² ‖v − u‖², σ = s t/(1 − t) and d ln σ/dt = 1/(t (1 − t)).
    """
    return (1.0 - t) / (scale_nm**2 * t)


def integrate(velocity: Velocity, start_nm: Positions, t: Float[Tensor, " times"]) -> Positions:
    """dx/dt = v by Heun's steps through the given times, falling to sample; two evaluations a step."""
    x, times = start_nm, t.double().tolist()
    for now, after in pairwise(times):
        slope = velocity(x, torch.full((len(x),), now, dtype=x.dtype, device=x.device))
        ahead = x + (after - now) * slope
        there = velocity(ahead, torch.full((len(x),), after, dtype=x.dtype, device=x.device))
        x = x + 0.5 * (after - now) * (slope + there)
    return x
