"""Exact log-densities of a model's samples, by its probability-flow ODE.

In t = ln σ the ODE is dx/dt = x − D(x; σ), in the subspace of zero centre of mass, of dimension d = 3(N − 1). Along it
(Chen et al. 2018, arXiv 1806.07366; Song et al. 2021, arXiv 2011.13456, appendix D.2)

    d log p/dt = −(d − tr ∂D/∂x),

with the trace over the subspace. Sampling starts from N(0, σ_max² + σ_data²) there, whose density is known, so that
the density of what comes out at σ_min is known too, whatever the denoiser is: no bound, and no assumption that D is a
posterior mean. What is left is the error of the steps and, for Hutchinson's estimate of the trace, its noise.

Log-densities are in nats, of the density per nm^d in the subspace.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from ancdiff.diffusion import Denoise

Positions = Float[Tensor, "batch atoms 3"]
PerProbe = Float[Tensor, "batch probes"]
Levels = Float[Tensor, " levels"]

_DIRECTIONS = 32  # derivatives that go through the network together; memory only
# Pairs of atoms of the conformers beside them. Few conformers and many directions are the cheap way: what does not
# depend on the direction is worked out once for all of a conformer's.
_PAIRS = {"cpu": 4_096, "cuda": 131_072}

Trace = Callable[[Denoise, Positions, float], PerProbe]
"""tr ∂D/∂x at (x, σ), one column for each independent estimate: one where it is exact, none where it is not wanted."""


@dataclass(frozen=True, eq=False)
class Flow:
    """Where a flow ends, and its ∫ (d − tr ∂D/∂x) dt from start to end, one column for each estimate."""

    positions_nm: Positions
    integral: PerProbe


@dataclass(frozen=True, eq=False)
class LogDensity:
    """log p of each conformer, nats, and its standard error from the estimate of the trace (0 where it is exact)."""

    nats: Float[Tensor, " batch"]
    standard_error: Float[Tensor, " batch"]


def subspace_basis(n_atoms: int, *, dtype: torch.dtype, device: torch.device) -> Float[Tensor, "atoms modes"]:
    """Orthonormal columns, each with zero sum (Helmert's): coordinates of the subspace of zero centre of mass.

    Column k is (1, …, 1, −k, 0, …, 0)/√(k(k + 1)) with k ones, k = 1 … N − 1.
    """
    k = torch.arange(1, n_atoms, dtype=torch.float64)
    atom = torch.arange(n_atoms)[:, None]
    columns = torch.where(atom < k, 1.0, torch.where(atom == k, -k, 0.0)) / torch.sqrt(k * (k + 1))
    return columns.to(device=device, dtype=dtype)


def exact_trace(at_once: int = _DIRECTIONS) -> Trace:
    """tr ∂D/∂x = Σ_k b_k · ∂D b_k over an orthonormal basis b of the subspace: 3(N − 1) forward derivatives.

    ``at_once``: derivatives that are worked out together; memory only.
    """

    def trace(denoise: Denoise, x: Positions, sigma: float) -> PerProbe:
        batch, atoms, _ = x.shape
        basis = subspace_basis(atoms, dtype=x.dtype, device=x.device)
        axes = torch.eye(3, dtype=x.dtype, device=x.device)
        tangents = torch.einsum("am,cd->mcad", basis, axes).reshape(-1, 1, atoms, 3).expand(-1, batch, -1, -1)
        return _derivatives(denoise, x, tangents, sigma, at_once).sum(dim=0)[:, None]

    return trace


def hutchinson_trace(probes: int, *, generator: torch.Generator, at_once: int = _DIRECTIONS) -> Trace:
    """tr ∂D/∂x ≈ v · ∂D v with v = Σ_k r_k b_k, r_k = ±1 (Rademacher in the subspace), for each of several probes.

    Unbiased, E[v vᵀ] being the projection to the subspace; with v drawn anew at every evaluation. Exact for a Jacobian
    that is a multiple of that projection. Draws from ``generator``.

    Reference: Hutchinson 1990, Commun. Stat. Simul. Comput. 19, 433; Grathwohl et al. 2019 (arXiv 1810.01367).
    """

    def trace(denoise: Denoise, x: Positions, sigma: float) -> PerProbe:
        batch, atoms, _ = x.shape
        basis = subspace_basis(atoms, dtype=x.dtype, device=x.device)
        shape = (probes, batch, atoms - 1, 3)
        signs = 2 * torch.randint(2, shape, generator=generator, device=generator.device).to(x) - 1
        return _derivatives(denoise, x, basis @ signs, sigma, at_once).T

    return trace


def no_trace(denoise: Denoise, x: Positions, sigma: float) -> PerProbe:
    """Nothing: the flow alone."""
    return x.new_zeros(len(x), 0)


def _derivatives(
    denoise: Denoise, x: Positions, tangents: Float[Tensor, "tangents batch atoms 3"], sigma: float, at_once: int
) -> Float[Tensor, "tangents batch"]:
    """v · ∂D/∂x v of each tangent v; in forward mode, with D itself worked out once for all tangents of a chunk."""
    block = conformers_at_once(x.shape[1], _PAIRS[x.device.type])

    def of_block(part: Positions, directions: Float[Tensor, "tangents part atoms 3"]) -> Float[Tensor, "tangents part"]:
        levels = _full(part, sigma)

        def along(v: Positions) -> Float[Tensor, " part"]:
            derivative = torch.func.jvp(lambda y: denoise(y, levels), (part,), (v,))[1]
            return (derivative * v).sum(dim=(-1, -2))

        return torch.cat([torch.func.vmap(along)(chunk) for chunk in directions.split(at_once)])

    with torch.no_grad():
        blocks = zip(x.split(block), tangents.split(block, dim=1), strict=True)
        return torch.cat([of_block(part, directions) for part, directions in blocks], dim=1)


def conformers_at_once(atoms: int, pairs: int) -> int:
    """How many conformers have so many pairs of atoms between them; at least one."""
    return max(1, pairs // max(1, atoms * (atoms - 1) // 2))


def flow(denoise: Denoise, start_nm: Positions, sigma_nm: Levels, *, trace: Trace, order: int) -> Flow:
    """The probability-flow ODE through the given levels, rising or falling, by fixed steps in t = ln σ.

    ``order`` 4: classical Runge–Kutta steps, the trace by Simpson's rule, at the middle of a step on the cubic through
    its ends; 2: Heun's steps and the trapezoid rule. So a step costs two traces, or one. The last level is above 0.

    Raises:
        ValueError: another order.
    """
    if order not in (2, 4):
        raise ValueError(f"steps are of order 2 or 4, not {order}")

    def slope(x: Positions, sigma: float) -> Positions:
        with torch.no_grad():
            return x - denoise(x, _full(x, sigma))

    dimension = 3 * (start_nm.shape[1] - 1)
    levels = sigma_nm.double().tolist()
    x, first = start_nm, slope(start_nm, levels[0])
    rate = dimension - trace(denoise, x, levels[0])
    integral = torch.zeros_like(rate)
    for sigma, sigma_next in pairwise(levels):
        step, half = math.log(sigma_next / sigma), math.sqrt(sigma * sigma_next)
        if order == 4:
            second = slope(x + 0.5 * step * first, half)
            third = slope(x + 0.5 * step * second, half)
            fourth = slope(x + step * third, sigma_next)
            ahead = x + step / 6 * (first + 2 * second + 2 * third + fourth)
        else:
            ahead = x + 0.5 * step * (first + slope(x + step * first, sigma_next))
        last, last_rate = slope(ahead, sigma_next), dimension - trace(denoise, ahead, sigma_next)
        if order == 4:
            middle = 0.5 * (x + ahead) + 0.125 * step * (first - last)
            middle_rate = dimension - trace(denoise, middle, half)
            integral = integral + step / 6 * (rate + 4 * middle_rate + last_rate)
        else:
            integral = integral + 0.5 * step * (rate + last_rate)
        x, first, rate = ahead, last, last_rate
    return Flow(x, integral)


def log_normal_density(x_nm: Positions, spread_nm: float) -> Float[Tensor, " batch"]:
    """log N(x; 0, s²) in the subspace: −‖x‖²/2s² − (d/2) ln 2πs²."""
    dimension = 3 * (x_nm.shape[1] - 1)
    squared = x_nm.double().square().sum(dim=(-1, -2))
    return -squared / (2 * spread_nm**2) - 0.5 * dimension * math.log(2 * math.pi * spread_nm**2)


def sample_with_log_density(
    denoise: Denoise, start_nm: Positions, sigma_nm: Levels, *, trace: Trace, order: int, data_spread_nm: float
) -> tuple[Positions, LogDensity]:
    """Samples at the last (lowest, positive) level from a start s ε, and the log-density of each.

    log p(x) = log N(x_start; 0, s²) − ∫ from ln σ_max to ln σ_min of (d − tr ∂D/∂x) dt, along the same path, with
    s² = σ_max² + σ_data² (`ancdiff.diffusion.noise.start_noise`).
    """
    ended = flow(denoise, start_nm, sigma_nm, trace=trace, order=order)
    prior = log_normal_density(start_nm, math.hypot(float(sigma_nm[0]), data_spread_nm))
    return ended.positions_nm, _log_density(prior, -ended.integral)


def log_density(
    denoise: Denoise,
    positions_nm: Positions,
    sigma_nm: Levels,
    *,
    trace: Trace,
    order: int,
    data_spread_nm: float,
) -> LogDensity:
    """log p of given centred conformers under the model, by the flow from the first (lowest, positive) level to σ_max.

    log p(x) = log N(x_end; 0, σ_max² + σ_data²) + ∫ from ln σ_min to ln σ_max of (d − tr ∂D/∂x) dt.
    """
    ended = flow(denoise, positions_nm, sigma_nm, trace=trace, order=order)
    prior = log_normal_density(ended.positions_nm, math.hypot(float(sigma_nm[-1]), data_spread_nm))
    return _log_density(prior, ended.integral)


def _log_density(prior: Float[Tensor, " batch"], estimates: PerProbe) -> LogDensity:
    """Mean over the trace's estimates, and the standard error of that mean (NaN where one estimate has noise)."""
    nats = prior + estimates.double().mean(dim=1)
    n = estimates.shape[1]
    if n == 1:
        return LogDensity(nats, torch.zeros_like(nats))
    return LogDensity(nats, estimates.double().std(dim=1) / math.sqrt(n))


def density_step_error(
    denoise: Denoise, positions_nm: Positions, sigma_nm: Levels, *, order: int, data_spread_nm: float
) -> float:
    """RMS error of log-densities from the steps, nats: the difference from every second of the rising levels.

    Half as many steps are worse by about 2^order, so that this is the error of the coarser ones: a bound. With the
    exact trace, or its estimate's noise would be what is seen.
    """
    coarse = torch.cat([sigma_nm[:-1:2], sigma_nm[-1:]])
    fine, half = (
        log_density(denoise, positions_nm, levels, trace=exact_trace(), order=order, data_spread_nm=data_spread_nm).nats
        for levels in (sigma_nm, coarse)
    )
    return float((fine - half).square().mean().sqrt())


def round_trip_error_nm(denoise: Denoise, positions_nm: Positions, sigma_nm: Levels, *, order: int) -> float:
    """RMS over coordinates of where the flow to σ_max and back misses its start, nm; ``sigma_nm`` rises."""
    away = flow(denoise, positions_nm, sigma_nm, trace=no_trace, order=order)
    back = flow(denoise, away.positions_nm, sigma_nm.flip(0), trace=no_trace, order=order)
    return float((back.positions_nm - positions_nm).double().square().mean().sqrt())


def _full(x: Positions, sigma: float) -> Float[Tensor, " batch"]:
    return torch.full((len(x),), sigma, dtype=x.dtype, device=x.device)
