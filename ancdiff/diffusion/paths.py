"""Sampling step by step with Gaussian kernels, and importance weights of whole paths: exact without any trace.

Levels fall, σ_T > … > σ_1 > σ_0 = 0. Given x_0, neighbours x_t = x_0 + σ_t ε_t shall have noise of correlation
c_t = (σ_{t−1}/σ_t)^{η²}. With D in the place of x_0 this gives a kernel for each direction, x standing for x_t, y for
x_{t−1} and D_t(x) = D(x; σ_t), in the subspace of zero centre of mass, of dimension d = 3(N − 1):

    p(y | x) = N(D_t(x) + c_t σ_{t−1}/σ_t (x − D_t(x)),  σ_{t−1}² (1 − c_t²) + (1 − c_t σ_{t−1}/σ_t)² C_t(x))
    q(x | y) = N(D_{t−1}(y) + c_t σ_t/σ_{t−1} (y − D_{t−1}(y)),  σ_t² (1 − c_t²) + (1 − c_t σ_t/σ_{t−1})² C_{t−1}(y))

and q(x_1 | x_0) = N(x_0, σ_1²). At η = 1 q is the plain noising x_t = x_{t−1} + √(σ_t² − σ_{t−1}²) ε, and p the way
back of denoising diffusion; a larger η renews the noise more often, which undoes errors of earlier steps and makes each
step a coarser one. Sampling starts from p(x_T) = N(0, σ_T² + σ_data²). The ratio of the two measures of a path,

    log ω = log p(x_T) + Σ_t log p(x_{t−1} | x_t) − Σ_t log q(x_t | x_{t−1}),

has E_q[ω | x_0] = p(x_0), the density of the samples, and for any unnormalised density f of x_0

    E_p[f(x_0)/ω] = ∫ f(x_0) q(x_1, …, x_T | x_0) = ∫ f(x_0),

since q is normalised. So weights f/ω reweight samples to f without bias, whatever the denoiser, the steps, η and the
covariances are: what these get wrong lowers the effective sample size and nothing else.

C_t(x) stands for the covariance of x_0 given x_t, σ_t² ∂D_t/∂x: bonds are known long before torsions are. With one
variance for all directions log ω has the scatter of an estimate of the divergence of the flow by one random vector a
step, 2 Σ_t (ln σ_t/σ_{t−1})² ‖∂D/∂x − mean‖². An elastic network of the denoised conformer takes most of it away.

References: Sohl-Dickstein et al. 2015 (arXiv 1503.03585), section 2.4; Bao et al. 2022 (arXiv 2206.07309), section 3
(covariances); Doucet et al. 2022 (arXiv 2208.07698); Atilgan et al. 2001, Biophys. J. 80, 505 (elastic network).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ancdiff.diffusion import Denoise
from ancdiff.diffusion.likelihood import log_normal_density
from ancdiff.diffusion.noise import centre, centred_noise

Positions = Float[Tensor, "batch atoms 3"]
PerConformer = Float[Tensor, " batch"]
Matrices = Float[Tensor, "batch coordinates coordinates"]
Levels = Float[Tensor, " levels"]

_MEASURED = 32  # levels at which posteriors are measured; their scale is smooth in between
_STIFFEST_NM = 1e-4  # no pair of atoms is taken to be stiffer than this spread of its distance
_LN_SCALES = (-30.0, 15.0)  # between these α is looked for
_BISECTIONS = 40


@dataclass(frozen=True, eq=False)
class Posteriors:
    """Covariances of clean conformers given noisy ones, at falling levels: C_t = (1/σ_t² + 1/s² + α_t K(D_t))⁻¹, nm².

    K = Σ_{i<j} k_ij u_ij u_ijᵀ is the elastic network of the denoised conformer, with unit vectors u_ij between atoms.
    """

    sigma_nm: Levels
    scale: Levels  # α
    stiffness: Float[Tensor, "atoms atoms"]  # k, nm⁻², 0 on the diagonal
    spread_nm: float  # s of all coordinates

    def as_dict(self) -> dict[str, Any]:
        """Numbers and lists of them, which JSON keeps to the last digit."""
        tensors = {"sigma_nm": self.sigma_nm, "scale": self.scale, "stiffness": self.stiffness}
        return {name: tensor.double().tolist() for name, tensor in tensors.items()} | {"spread_nm": self.spread_nm}

    @classmethod
    def from_dict(cls, numbers: Mapping[str, Any]) -> "Posteriors":
        """Those of `as_dict`.

        Raises:
            KeyError, TypeError, ValueError: the numbers are not those of posteriors.
        """
        names = ("sigma_nm", "scale", "stiffness")
        sigma_nm, scale, stiffness = (torch.tensor(numbers[name], dtype=torch.float64) for name in names)
        levels, atoms = sigma_nm.numel(), len(stiffness)
        if sigma_nm.shape != (levels,) or scale.shape != (levels,) or stiffness.shape != (atoms, atoms):
            raise ValueError("one scale for each level, and one stiffness for each pair of atoms")
        return cls(sigma_nm, scale, stiffness, spread_nm=float(numbers["spread_nm"]))


def isotropic_posteriors(sigma_nm: Levels, spread_nm: float, *, atoms: int) -> Posteriors:
    """Those of an isotropic Gaussian, σ² s²/(σ² + s²) in every direction."""
    return Posteriors(sigma_nm, torch.zeros_like(sigma_nm), sigma_nm.new_zeros(atoms, atoms), spread_nm)


def elastic_posteriors(
    denoise: Denoise, clean_nm: Positions, sigma_nm: Levels, *, generator: torch.Generator
) -> Posteriors:
    """Posteriors for conformers like these, a few of which are enough: any give unbiased weights.

    k_ij is one over the variance of the distance of i and j, and α_t makes the mean of tr C_t that of the denoiser's
    squared error E‖x_0 − D(x_0 + σ_t ε)‖². Between levels at which it is measured ln α is linear in ln σ. Draws from
    ``generator``.
    """
    clean = clean_nm.double()
    conformers, atoms = clean.shape[:2]
    distances = torch.cdist(clean, clean)
    stiffness = 1.0 / distances.var(dim=0, correction=0).clamp(min=_STIFFEST_NM**2)
    stiffness.fill_diagonal_(0.0)
    spread = math.sqrt(float(clean.square().sum()) / (conformers * 3 * (atoms - 1)))
    noisy = sigma_nm[sigma_nm > 0].double().cpu()
    chosen = torch.unique(torch.linspace(0, len(noisy) - 1, min(_MEASURED, len(noisy))).round().long())
    scales = []
    for sigma in noisy[chosen].tolist():
        noise = centred_noise(tuple(clean_nm.shape), generator=generator, dtype=clean_nm.dtype)
        denoised = _at(denoise, clean_nm + sigma * noise, sigma)
        error = float((clean_nm - denoised).double().square().sum(dim=(-1, -2)).mean())
        stiff = torch.linalg.eigvalsh(_network(denoised.double(), stiffness))[:, 3:]  # without translations
        scales.append(_ln_scale(error, stiff, 1.0 / sigma**2 + 1.0 / spread**2))
    scale = np.exp(np.interp(-noisy.log().numpy(), -noisy[chosen].log().numpy(), scales))
    ended = np.append(scale, np.zeros(len(sigma_nm) - len(noisy)))
    return Posteriors(sigma_nm, torch.as_tensor(ended), stiffness, spread)


def _ln_scale(error_nm2: float, stiff: Float[Tensor, "conformers modes"], floor: float) -> float:
    """ln α at which the mean of Σ 1/(floor + α κ) over modes is an error, or the nearest to it."""
    low, high = _LN_SCALES
    for _ in range(_BISECTIONS):
        middle = 0.5 * (low + high)
        trace = float((1.0 / (floor + math.exp(middle) * stiff)).sum(dim=1).mean())
        low, high = (middle, high) if trace > error_nm2 else (low, middle)
    return 0.5 * (low + high)


def _network(x_nm: Float[Tensor, "batch atoms 3"], stiffness: Float[Tensor, "atoms atoms"]) -> Matrices:
    """Σ_{i<j} k_ij u_ij u_ijᵀ of conformers, as matrices of all coordinates."""
    between = x_nm[:, :, None] - x_nm[:, None]
    u = between / (between.norm(dim=-1, keepdim=True) + _STIFFEST_NM)
    blocks = -stiffness[..., None, None] * u[..., :, None] * u[..., None, :]
    atoms = torch.arange(x_nm.shape[1], device=x_nm.device)
    blocks[:, atoms, atoms] = -blocks.sum(dim=2)
    return blocks.transpose(2, 3).reshape(len(x_nm), 3 * len(atoms), 3 * len(atoms))


def sample_paths(
    denoise: Denoise,
    start_nm: Positions,
    posteriors: Posteriors,
    *,
    eta: float,
    data_spread_nm: float,
    generator: torch.Generator,
) -> tuple[Positions, PerConformer]:
    """Samples from a start √(σ_T² + σ_data²) ε through the posteriors' levels, and log ω of each path, nats.

    Draws from ``generator``.
    """
    levels = posteriors.sigma_nm.tolist()
    x, log_omega = start_nm, log_normal_density(start_nm, math.hypot(levels[0], data_spread_nm))
    denoised = _at(denoise, x, levels[0])
    known = _Posterior.of(posteriors, 0, denoised)
    for step in range(len(levels) - 1):
        below, log_p = _Kernel.down(levels, step, eta).draw(x, denoised, known, generator)
        denoised = _at(denoise, below, levels[step + 1])
        known = _Posterior.of(posteriors, step + 1, denoised)
        log_omega += log_p - _Kernel.up(levels, step, eta).log_density(x, below, denoised, known)
        x = below
    return x, log_omega


def path_log_density(
    denoise: Denoise,
    positions_nm: Positions,
    posteriors: Posteriors,
    *,
    eta: float,
    data_spread_nm: float,
    paths: int,
    generator: torch.Generator,
) -> PerConformer:
    """log of the mean of ω over paths that noise given conformers: log p(x_0) from below, nats.

    Its mean rises to log p with the number of paths (Burda et al. 2016, arXiv 1509.00519, theorem 1). Draws from
    ``generator``.
    """
    levels = posteriors.sigma_nm.tolist()
    found = []
    for _ in range(paths):
        x, denoised, known = positions_nm, positions_nm, None
        log_omega = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        for step in reversed(range(len(levels) - 1)):
            above, log_q = _Kernel.up(levels, step, eta).draw(x, denoised, known, generator)
            denoised = _at(denoise, above, levels[step])
            known = _Posterior.of(posteriors, step, denoised)
            log_omega += _Kernel.down(levels, step, eta).log_density(x, above, denoised, known) - log_q
            x = above
        found.append(log_omega + log_normal_density(x, math.hypot(levels[0], data_spread_nm)))
    return torch.logsumexp(torch.stack(found), dim=0) - math.log(paths)


@dataclass(frozen=True, eq=False)
class _Posterior:
    """P = C⁻¹ of conformers at one level, in double precision; translations have variance 1/``floor``."""

    precision: Matrices
    factor: Matrices  # lower triangular
    floor: float

    @classmethod
    def of(cls, posteriors: Posteriors, level: int, denoised: Positions) -> "_Posterior | None":
        """That of D(x; σ); None where there is no noise."""
        sigma = float(posteriors.sigma_nm[level])
        if sigma == 0:
            return None
        floor = 1.0 / sigma**2 + 1.0 / posteriors.spread_nm**2
        stiffness = posteriors.stiffness.to(denoised.device, torch.float64)
        precision = float(posteriors.scale[level]) * _network(denoised.double(), stiffness)
        precision.diagonal(dim1=1, dim2=2).add_(floor)
        return cls(precision, torch.linalg.cholesky(precision), floor)

    def log_determinant(self) -> PerConformer:
        """ln det P in the subspace."""
        return _log_determinant(self.factor) - 3 * math.log(self.floor)


@dataclass(frozen=True)
class _Kernel:
    """N(D + kept (x − D), plain + share C(D)) of a step from one level, of that C, to the next.

    Its covariance is (plain P + share) P⁻¹ with P = C⁻¹: no inverse is needed, neither for a draw nor for a density.
    """

    kept: float
    plain: float
    share: float

    @classmethod
    def down(cls, levels: Sequence[float], step: int, eta: float) -> "_Kernel":
        """p of the step from σ_t to σ_{t−1}."""
        sigma, below = levels[step : step + 2]
        c = (below / sigma) ** (eta**2)
        kept = c * below / sigma
        return cls(kept, below**2 * (1 - c**2), (1 - kept) ** 2)

    @classmethod
    def up(cls, levels: Sequence[float], step: int, eta: float) -> "_Kernel":
        """q of the way back, from σ_{t−1} to σ_t."""
        sigma, below = levels[step : step + 2]
        if below == 0:
            return cls(1.0, sigma**2, 0.0)
        c = (below / sigma) ** (eta**2)
        kept = c * sigma / below
        share = (1 - kept) ** 2 if eta != 1 else 0.0  # at 1 plain noise, which rounding would hide
        return cls(kept, sigma**2 * (1 - c**2), share)

    def draw(
        self, x: Positions, denoised: Positions, known: _Posterior | None, generator: torch.Generator
    ) -> tuple[Positions, PerConformer]:
        """The next conformers, and the log of the density they were drawn from. Draws from ``generator``."""
        noise = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
        off = math.sqrt(self.plain) * noise
        if known is not None and self.share > 0:
            more = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device).double()
            soft = torch.linalg.solve_triangular(known.factor.mT, more.flatten(1)[..., None], upper=True)
            off = off + math.sqrt(self.share) * soft.reshape(x.shape).to(x.dtype)
        off = centre(off)  # both covariances map the subspace to itself
        return self._mean(x, denoised) + off, self._log_normal(off, known)

    def log_density(
        self, drawn: Positions, x: Positions, denoised: Positions, known: _Posterior | None
    ) -> PerConformer:
        """log of the density of drawing these from ``x``, nats."""
        return self._log_normal(drawn - self._mean(x, denoised), known)

    def _mean(self, x: Positions, denoised: Positions) -> Positions:
        return denoised + self.kept * (x - denoised)

    def _log_normal(self, off: Positions, known: _Posterior | None) -> PerConformer:
        """log N(off; 0, (plain P + share) P⁻¹) in the subspace."""
        if known is None or self.share == 0:
            return log_normal_density(off, math.sqrt(self.plain))
        mixed = self.plain * known.precision
        mixed.diagonal(dim1=1, dim2=2).add_(self.share)
        factor = torch.linalg.cholesky(mixed)
        flat = off.double().flatten(1)[..., None]
        white = torch.linalg.solve_triangular(factor, torch.cat([flat, known.precision @ flat], dim=2), upper=False)
        square = white.prod(dim=2).sum(dim=1)
        logs = _log_determinant(factor) - 3 * math.log(self.plain * known.floor + self.share)
        dimension = off[0].numel() - 3
        return -0.5 * (square + logs - known.log_determinant() + dimension * math.log(2 * math.pi))


def _log_determinant(factor: Matrices) -> PerConformer:
    """ln det L Lᵀ."""
    return 2 * factor.diagonal(dim1=1, dim2=2).log().sum(dim=1)


def _at(denoise: Denoise, x: Positions, sigma: float) -> Positions:
    """D(x; σ), and x where there is no noise."""
    if sigma == 0:
        return x
    with torch.no_grad():
        return denoise(x, torch.full((len(x),), sigma, dtype=x.dtype, device=x.device))
