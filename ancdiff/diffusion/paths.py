"""Sampling step by step with Gaussian kernels, and importance weights of whole paths: exact without any trace.

Levels fall, σ_T > … > σ_1 > σ_0 = 0. Given x_0, neighbours x_t = x_0 + σ_t ε_t shall have noise of correlation
c_t = (σ_{t−1}/σ_t)^{η²}. With D in the place of x_0 this gives a kernel for each direction, x standing for x_t, y for
x_{t−1} and D_t(x) = D(x; σ_t), in the subspace of zero centre of mass, of dimension d = 3(N − 1):

    p(y | x) = N(D_t(x) + c_t σ_{t−1}/σ_t (x − D_t(x)),  σ_{t−1}² (1 − c_t²) + (1 − c_t σ_{t−1}/σ_t)² v_t)
    q(x | y) = N(D_{t−1}(y) + c_t σ_t/σ_{t−1} (y − D_{t−1}(y)),  σ_t² (1 − c_t²) + (1 − c_t σ_t/σ_{t−1})² v_{t−1})

and q(x_1 | x_0) = N(x_0, σ_1²). At η = 1 q is the plain noising x_t = x_{t−1} + √(σ_t² − σ_{t−1}²) ε, and p the way
back of denoising diffusion; a larger η renews the noise more often, which undoes errors of earlier steps and makes each
step a coarser one. With v_t the mean variance of a coordinate of x_0 given x_t the variances are the best isotropic
ones (Bao et al. 2022, arXiv 2201.06503, theorem 1). Sampling starts from p(x_T) = N(0, σ_T² + σ_data²). The ratio of
the two measures of a path,

    log ω = log p(x_T) + Σ_t log p(x_{t−1} | x_t) − Σ_t log q(x_t | x_{t−1}),

has E_q[ω | x_0] = p(x_0), the density of the samples, and for any unnormalised density f of x_0

    E_p[f(x_0)/ω] = ∫ f(x_0) q(x_1, …, x_T | x_0) = ∫ f(x_0),

since q is normalised. So weights f/ω reweight samples to f without bias, whatever the denoiser, the steps, η and the
variances are: what these get wrong lowers the effective sample size and nothing else.

References: Sohl-Dickstein et al. 2015 (arXiv 1503.03585), section 2.4; Doucet et al. 2022 (arXiv 2208.07698).
"""

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ancdiff.diffusion import Denoise
from ancdiff.diffusion.likelihood import log_normal_density
from ancdiff.diffusion.noise import centred_noise

Positions = Float[Tensor, "batch atoms 3"]
PerConformer = Float[Tensor, " batch"]
Levels = Float[Tensor, " levels"]

_MEASURED = 32  # levels at which the posterior variance is measured; it is smooth in between


def posterior_variances(
    denoise: Denoise, clean_nm: Positions, sigma_nm: Levels, *, generator: torch.Generator
) -> Levels:
    """v(σ) = E‖x_0 − D(x_0 + σ ε; σ)‖²/d, nm², at falling levels; 0 at σ = 0. Draws from ``generator``.

    Some conformers are enough: any v gives unbiased weights. Between levels at which it is measured ln(v/σ²) is linear
    in ln σ.
    """
    noisy = sigma_nm[sigma_nm > 0].double().cpu()
    chosen = torch.unique(torch.linspace(0, len(noisy) - 1, min(_MEASURED, len(noisy))).round().long())
    dimension = 3 * (clean_nm.shape[1] - 1)
    shares = []
    for sigma in noisy[chosen].tolist():
        noise = centred_noise(tuple(clean_nm.shape), generator=generator, dtype=clean_nm.dtype)
        error = clean_nm - _at(denoise, clean_nm + sigma * noise, sigma)
        shares.append(float(error.double().square().sum(dim=(-1, -2)).mean()) / (dimension * sigma**2))
    logs = np.interp(-noisy.log().numpy(), -noisy[chosen].log().numpy(), np.log(shares))
    variances = noisy.square() * torch.as_tensor(logs).exp()
    return torch.cat([variances, variances.new_zeros(len(sigma_nm) - len(noisy))])


def sample_paths(
    denoise: Denoise,
    start_nm: Positions,
    sigma_nm: Levels,
    variances_nm2: Levels,
    *,
    eta: float,
    data_spread_nm: float,
    generator: torch.Generator,
) -> tuple[Positions, PerConformer]:
    """Samples from a start √(σ_T² + σ_data²) ε through falling levels that end with 0, and log ω of each path, nats.

    Draws from ``generator``.
    """
    levels, variances = sigma_nm.tolist(), variances_nm2.tolist()
    x, log_omega = start_nm, log_normal_density(start_nm, math.hypot(levels[0], data_spread_nm))
    denoised = _at(denoise, x, levels[0])
    for step in pairwise(zip(levels, variances, strict=True)):
        down, up = _kernels(step, eta)
        mean = down.mean(x, denoised)
        below = mean + down.spread * centred_noise(tuple(x.shape), generator=generator, dtype=x.dtype)
        log_omega += log_normal_density(below - mean, down.spread)
        denoised = _at(denoise, below, step[1][0])
        log_omega -= log_normal_density(x - up.mean(below, denoised), up.spread)
        x = below
    return x, log_omega


def path_log_density(
    denoise: Denoise,
    positions_nm: Positions,
    sigma_nm: Levels,
    variances_nm2: Levels,
    *,
    eta: float,
    data_spread_nm: float,
    paths: int,
    generator: torch.Generator,
) -> PerConformer:
    """log of the mean of ω over paths that noise given conformers: log p(x_0) from below, nats.

    Its mean rises to log p with the number of paths (Burda et al. 2016, arXiv 1509.00519, theorem 1). Levels fall and
    end with 0, as for sampling. Draws from ``generator``.
    """
    rising = list(zip(sigma_nm.tolist(), variances_nm2.tolist(), strict=True))[::-1]
    found = []
    for _ in range(paths):
        x, denoised = positions_nm, positions_nm
        log_omega = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        for below, above in pairwise(rising):
            down, up = _kernels((above, below), eta)
            mean = up.mean(x, denoised)
            ahead = mean + up.spread * centred_noise(tuple(x.shape), generator=generator, dtype=x.dtype)
            log_omega -= log_normal_density(ahead - mean, up.spread)
            denoised = _at(denoise, ahead, above[0])
            log_omega += log_normal_density(x - down.mean(ahead, denoised), down.spread)
            x = ahead
        found.append(log_omega + log_normal_density(x, math.hypot(rising[-1][0], data_spread_nm)))
    return torch.logsumexp(torch.stack(found), dim=0) - math.log(paths)


@dataclass(frozen=True)
class _Kernel:
    """N(D + kept (x − D), spread²)."""

    kept: float
    spread: float

    def mean(self, x: Positions, denoised: Positions) -> Positions:
        return denoised + self.kept * (x - denoised)


def _kernels(step: tuple[tuple[float, float], tuple[float, float]], eta: float) -> tuple[_Kernel, _Kernel]:
    """p and q of a step, given as (σ_t, v_t), (σ_{t−1}, v_{t−1})."""
    (sigma, variance), (below, variance_below) = step
    if below == 0:
        return _Kernel(0.0, math.sqrt(variance)), _Kernel(1.0, sigma)
    c = (below / sigma) ** (eta**2)
    down, up = c * below / sigma, c * sigma / below
    return (
        _Kernel(down, math.sqrt(below**2 * (1 - c**2) + (1 - down) ** 2 * variance)),
        _Kernel(up, math.sqrt(sigma**2 * (1 - c**2) + (1 - up) ** 2 * variance_below)),
    )


def _at(denoise: Denoise, x: Positions, sigma: float) -> Positions:
    """D(x; σ), and x where there is no noise."""
    if sigma == 0:
        return x
    with torch.no_grad():
        return denoise(x, torch.full((len(x),), sigma, dtype=x.dtype, device=x.device))
