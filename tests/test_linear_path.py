"""Flow matching's linear path and EDM's noise are one process: velocities, samples, energies and losses agree."""

import math

import torch
from torch import Tensor

from ancdiff.diffusion.energy import NoiseBatch, likelihood_terms
from ancdiff.diffusion.likelihood import flow, no_trace
from ancdiff.diffusion.linear_path import (
    denoiser_of,
    flow_matching_error,
    integrate,
    interpolate,
    likelihood_weight,
    sigma_of_time,
    time_of_sigma,
    velocity_of,
)
from ancdiff.diffusion.noise import centre, centred_noise
from ancdiff.objectives import eba_loss
from ancdiff.testing import GaussianCloud

SCALE = 0.25
CLOUD = GaussianCloud(5, spread_nm=0.2)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rough_velocity(x: Tensor, t: Tensor) -> Tensor:
    """Some velocity field that is nobody's posterior mean."""
    return centre(torch.sin(7 * x) * (1 + t[:, None, None]) - 0.5 * x)


def test_times_and_levels() -> None:
    t = torch.tensor([0.01, 0.5, 0.9], dtype=torch.float64)
    sigma = sigma_of_time(t, scale_nm=SCALE)
    assert torch.allclose(time_of_sigma(sigma, scale_nm=SCALE), t, rtol=1e-14)
    assert sigma[1].item() == SCALE  # half way data and noise weigh alike
    x, noise = (centred_noise((3, 5, 3), generator=seeded(k), dtype=torch.float64) for k in (1, 2))
    scaled = interpolate(x, noise, t, scale_nm=SCALE) / (1 - t[:, None, None])
    assert torch.allclose(scaled, x + sigma[:, None, None] * noise, rtol=1e-12)


def test_the_velocity_of_the_exact_denoiser_is_that_of_the_gaussian_path() -> None:
    """x_t has variance c = (1 − t)² s_d² + t² s², and E[s ε − x | x_t] = x_t (t s² − (1 − t) s_d²)/c."""
    t = torch.tensor([0.05, 0.4, 0.8], dtype=torch.float64)
    x = centred_noise((3, 5, 3), generator=seeded(3), dtype=torch.float64)
    variance = (1 - t) ** 2 * CLOUD.spread_nm**2 + t**2 * SCALE**2
    expected = x * ((t * SCALE**2 - (1 - t) * CLOUD.spread_nm**2) / variance)[:, None, None]
    assert torch.allclose(velocity_of(CLOUD.denoise, scale_nm=SCALE)(x, t), expected, rtol=1e-10)


def test_there_and_back_is_the_same_network() -> None:
    t = torch.tensor([0.02, 0.3, 0.95], dtype=torch.float64)
    x = centred_noise((3, 5, 3), generator=seeded(4), dtype=torch.float64)
    back = velocity_of(denoiser_of(rough_velocity, scale_nm=SCALE), scale_nm=SCALE)
    assert torch.allclose(back(x, t), rough_velocity(x, t), rtol=1e-9, atol=1e-12)


def test_both_flows_end_at_the_same_samples() -> None:
    """The ODE in t from noise to data, and the probability flow in ln σ, of one field and one start."""
    denoise = denoiser_of(velocity_of(CLOUD.denoise, scale_nm=SCALE), scale_nm=SCALE)
    sigma = torch.logspace(0.5, -3, 400, dtype=torch.float64)
    t = time_of_sigma(sigma, scale_nm=SCALE)
    start = float(sigma[0]) * centred_noise((3, 5, 3), generator=seeded(5), dtype=torch.float64)
    by_level = flow(denoise, start, sigma, trace=no_trace, order=4).positions_nm
    by_time = integrate(velocity_of(CLOUD.denoise, scale_nm=SCALE), start * (1 - t[0]), t) / (1 - t[-1])
    assert torch.allclose(by_time, by_level, atol=1e-5)
    # and both are the Gaussian's own map: x √((s² + σ_min²)/(s² + σ_max²))
    exact = start * math.sqrt((0.04 + float(sigma[-1]) ** 2) / (0.04 + float(sigma[0]) ** 2))
    assert torch.allclose(by_level, exact, atol=1e-6)


def test_the_flow_matching_loss_is_the_model_energy_under_its_weight() -> None:
    """At matched noise: likelihood terms of the denoiser, from the velocity's own error, its weight and dt/d ln σ."""
    x = CLOUD.draw(4, generator=seeded(6))
    sigma = torch.logspace(-2, 0, 6, dtype=torch.float64)
    noise = centred_noise((6, 5, 3), generator=seeded(7), dtype=torch.float64)
    denoise = denoiser_of(rough_velocity, scale_nm=SCALE)
    width = math.log(1 / 0.01)
    terms = likelihood_terms(denoise, x, NoiseBatch(sigma, noise), sigma_min_nm=0.01, sigma_max_nm=1.0, superpose=False)
    t = time_of_sigma(sigma, scale_nm=SCALE)
    weight = likelihood_weight(t, scale_nm=SCALE) * t * (1 - t)  # per d ln σ
    for k in range(4):
        error = flow_matching_error(rough_velocity, x[k].expand(6, -1, -1), t, noise, scale_nm=SCALE)
        assert torch.allclose(terms[k], width * weight * error, rtol=1e-9)


def test_an_objective_trains_a_velocity_network() -> None:
    """EBA's gradient reaches the velocity's weights, and a step along it lowers the loss."""
    gain = torch.tensor([1.0, 0.3], dtype=torch.float64, requires_grad=True)

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        return centre(gain[0] * torch.sin(7 * x) - gain[1] * x)

    x = CLOUD.draw(4, generator=seeded(8))
    shared = NoiseBatch(
        torch.logspace(-2, 0, 8, dtype=torch.float64), centred_noise((8, 5, 3), generator=seeded(9)).double()
    )
    log_w = torch.tensor([0.0, -1.0, -2.0, -0.5], dtype=torch.float64)

    def loss() -> Tensor:
        terms = likelihood_terms(
            denoiser_of(velocity, scale_nm=SCALE), x, shared, sigma_min_nm=0.01, sigma_max_nm=1.0, superpose=False
        )
        return eba_loss(log_w, terms.mean(dim=1), alpha=1.0)

    before = loss()
    (gradient,) = torch.autograd.grad(before, gain)
    assert gradient.abs().min() > 0
    with torch.no_grad():
        gain -= 1e-3 * gradient / gradient.norm()
    assert loss() < before
