"""Log-densities by the probability-flow ODE, against densities that are known with their constants."""

import math
from functools import partial

import pytest
import torch
from torch import Tensor

from ancdiff.config import DenoiserSettings
from ancdiff.denoiser.graph import molecule_graph
from ancdiff.denoiser.network import Denoiser
from ancdiff.diffusion import likelihood
from ancdiff.diffusion.likelihood import (
    exact_trace,
    flow,
    hutchinson_trace,
    log_normal_density,
    no_trace,
    round_trip_error_nm,
    subspace_basis,
)
from ancdiff.diffusion.noise import centre, centred_noise, karras_sigma
from ancdiff.testing import GaussianCloud, alanine_dipeptide

LOW, HIGH = 1e-3, 30.0

# The flows here start from N(0, σ_max²) alone: what comes out then has a density in closed form.
log_density = partial(likelihood.log_density, data_spread_nm=0.0)
density_step_error = partial(likelihood.density_step_error, data_spread_nm=0.0)
sample_with_log_density = partial(likelihood.sample_with_log_density, data_spread_nm=0.0)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rising(levels: int, low: float = LOW, high: float = HIGH) -> Tensor:
    return karras_sigma(levels, sigma_min_nm=low, sigma_max_nm=high, rho=7.0)[:-1].flip(0)


class StiffCloud:
    """A Gaussian in the subspace whose principal axes are turned and 100-fold apart, as bonds and torsions are."""

    def __init__(self, n_atoms: int, *, seed: int = 0) -> None:
        self.n_atoms, self.dimension = n_atoms, 3 * (n_atoms - 1)
        basis = subspace_basis(n_atoms, dtype=torch.float64, device=torch.device("cpu"))
        turn = torch.linalg.qr(torch.randn(self.dimension, self.dimension, generator=seeded(seed)).double())[0]
        full = torch.einsum("am,cd->mdac", basis, torch.eye(3).double()).reshape(self.dimension, -1)
        self.axes = (turn @ full).reshape(self.dimension, n_atoms, 3)
        self.variance = torch.logspace(math.log10(0.003), math.log10(0.3), self.dimension, dtype=torch.float64) ** 2

    def along(self, x: Tensor) -> Tensor:
        return torch.einsum("kac,bac->bk", self.axes, x)

    def denoise(self, noisy_nm: Tensor, sigma_nm: Tensor) -> Tensor:
        shrunk = self.along(noisy_nm) * self.variance / (self.variance + sigma_nm[:, None] ** 2)
        return torch.einsum("bk,kac->bac", shrunk, self.axes)

    def draw(self, n: int, seed: int) -> Tensor:
        z = torch.randn(n, self.dimension, generator=seeded(seed), dtype=torch.float64)
        return torch.einsum("bk,kac->bac", z * self.variance.sqrt(), self.axes)

    def sampled_log_density(self, x: Tensor, low: float, high: float) -> Tensor:
        """Of the Gaussian that the ODE makes at σ_min of N(0, σ_max²): variances σ_max² (s² + σ_min²)/(s² + σ_max²)."""
        variance = high**2 * (self.variance + low**2) / (self.variance + high**2)
        return (-(self.along(x) ** 2) / (2 * variance) - 0.5 * torch.log(2 * math.pi * variance)).sum(dim=1)


def test_the_basis_spans_the_subspace_and_nothing_else() -> None:
    basis = subspace_basis(7, dtype=torch.float64, device=torch.device("cpu"))
    assert torch.allclose(basis.T @ basis, torch.eye(6).double(), atol=1e-14)
    assert torch.allclose(basis @ basis.T, torch.eye(7).double() - 1 / 7, atol=1e-14)


@pytest.mark.parametrize("n_atoms", [2, 7])
def test_a_gaussian_with_its_constant(n_atoms: int) -> None:
    """With σ_max far above the spread the model's density is the Gaussian's own, in dimension 3(N − 1), not 3N."""
    cloud = GaussianCloud(n_atoms, spread_nm=0.2)
    x = cloud.draw(5, generator=seeded(1))
    found = log_density(cloud.denoise, x, rising(41), trace=exact_trace(), order=4)
    # Left over: σ_min (d/2 · (0.001/0.2)² = 2e-4 nats at d = 18), σ_max (d/2 · (0.2/30)²), and the steps.
    assert torch.allclose(found.nats, cloud.log_density(x), atol=5e-3)
    assert (found.standard_error == 0).all()


@pytest.mark.parametrize(("order", "levels", "bound"), [(4, 21, 5e-3), (2, 41, 0.2)])
def test_stiff_and_soft_modes_together(order: int, levels: int, bound: float) -> None:
    """The exact density of the ODE's own samples, prior included, so that the steps' error is all that is left."""
    cloud = StiffCloud(6)
    x = cloud.draw(8, seed=1)
    found = log_density(cloud.denoise, x, rising(levels, 6e-4, 0.5), trace=exact_trace(), order=order)
    assert (found.nats - cloud.sampled_log_density(x, 6e-4, 0.5)).abs().max() < bound


def test_samples_come_with_the_density_that_they_are_drawn_from() -> None:
    cloud = StiffCloud(5)
    start = 0.5 * centred_noise((400, 5, 3), generator=seeded(2), dtype=torch.float64)
    x, density = sample_with_log_density(
        cloud.denoise, start, rising(21, 6e-4, 0.5).flip(0), trace=exact_trace(), order=4
    )
    assert torch.allclose(density.nats, cloud.sampled_log_density(x, 6e-4, 0.5), atol=2e-2)
    # and they are: each mode has the variance that the density claims, to √(2/400) = 7 %, three of these
    variance = 0.25 * (cloud.variance + 6e-4**2) / (cloud.variance + 0.25)
    assert ((cloud.along(x).square().mean(dim=0) / variance) - 1).abs().max() < 0.25
    # E[log p] of a Gaussian is −d/2 (1 + ln 2π) − ½ Σ ln s²; standard error √(d/2/400)
    entropy = 0.5 * cloud.dimension * (1 + math.log(2 * math.pi)) + 0.5 * torch.log(variance).sum()
    assert density.nats.mean().item() == pytest.approx(-entropy.item(), abs=4 * math.sqrt(cloud.dimension / 2 / 400))


def mixture_denoise(spread_nm: float, centre_nm: Tensor, share: float):
    """The exact denoiser of two isotropic Gaussians about ±c in the subspace, of shares p and 1 − p."""

    def denoise(y: Tensor, sigma: Tensor) -> Tensor:
        variance = spread_nm**2 + sigma[:, None, None] ** 2
        tilt = 2 * (y * centre_nm).sum(dim=(-1, -2)) / variance[:, 0, 0] + math.log(share / (1 - share))
        mean = torch.tanh(tilt / 2)[:, None, None] * centre_nm
        return mean + spread_nm**2 / variance * (y - mean)

    return denoise


def test_a_gaussian_mixture() -> None:
    """Between and inside two basins: the log-density of a mixture of 0.8 and 0.2, to the steps' 0.05 nats."""
    n, spread, share = 4, 0.05, 0.8
    c = centre(torch.randn(n, 3, generator=seeded(3), dtype=torch.float64))
    c = 0.25 * c / c.norm()
    x = torch.stack([s * c for s in (-1.2, -1.0, -0.1, 0.0, 0.3, 1.0)])
    x = x + centre(0.02 * torch.randn(6, n, 3, generator=seeded(4), dtype=torch.float64))
    found = log_density(mixture_denoise(spread, c, share), x, rising(61, 1e-3, 10.0), trace=exact_trace(), order=4)
    d = 3 * (n - 1)
    modes = torch.stack(
        [
            math.log(p) - (x - s * c).square().sum(dim=(-1, -2)) / (2 * spread**2)
            for p, s in ((share, 1), (1 - share, -1))
        ]
    )
    expected = torch.logsumexp(modes, dim=0) - 0.5 * d * math.log(2 * math.pi * spread**2)
    assert expected.max() - expected.min() > 8  # a mountain and a valley
    assert (found.nats - expected).abs().max() < 0.05


def real_denoiser(dtype: torch.dtype = torch.float64):
    torch.manual_seed(5)
    template = alanine_dipeptide()
    denoiser = Denoiser(DenoiserSettings(features=8, pair_features=4, layers=2), sigma_data_nm=0.15)
    denoise = denoiser.to(dtype).requires_grad_(False).on(molecule_graph(template.molecule).to(dtype))
    noise = torch.randn(3, template.molecule.n_atoms, 3, generator=seeded(6), dtype=torch.float64)
    return denoise, centre(torch.as_tensor(template.positions_nm).double() + 0.02 * noise).to(dtype)


def test_the_exact_trace_of_a_network_is_that_of_its_jacobian() -> None:
    """Against the whole 3N × 3N Jacobian, projected; and whatever the number worked out at once."""
    denoise, x = real_denoiser()
    sigma = 0.1
    found = exact_trace()(denoise, x, sigma)
    n = x.shape[1]
    projector = torch.eye(3 * n).double() - torch.kron(torch.full((n, n), 1 / n), torch.eye(3)).double()
    for k in range(len(x)):
        level = torch.tensor([sigma], dtype=torch.float64)
        jacobian = torch.autograd.functional.jacobian(lambda y, s=level: denoise(y, s), x[k : k + 1])
        expected = torch.trace(projector @ jacobian.reshape(3 * n, 3 * n) @ projector)
        assert found[k, 0].item() == pytest.approx(expected.item(), rel=1e-10)
    assert torch.allclose(exact_trace(at_once=7)(denoise, x, sigma), found, rtol=1e-12)


def test_hutchinson_is_unbiased_and_its_error_is_its_spread() -> None:
    cloud = StiffCloud(4)
    x = cloud.draw(2, seed=1)
    levels = rising(15, 6e-4, 0.5)
    exact = log_density(cloud.denoise, x, levels, trace=exact_trace(), order=4)
    trace = hutchinson_trace(200, generator=seeded(7))
    estimate = log_density(cloud.denoise, x, levels, trace=trace, order=4)
    pulls = (estimate.nats - exact.nats) / estimate.standard_error
    assert pulls.abs().max() < 3.5
    assert 0.0 < estimate.standard_error.max() < 0.3
    few = log_density(cloud.denoise, x, levels, trace=hutchinson_trace(50, generator=seeded(8)), order=4)
    assert (few.standard_error / estimate.standard_error).mean().item() == pytest.approx(2.0, rel=0.2)


def test_hutchinson_is_exact_for_an_isotropic_jacobian() -> None:
    """Rademacher in the subspace has |v|² = d always; a projected Rademacher vector would not."""
    cloud = GaussianCloud(5, spread_nm=0.2)
    x = cloud.draw(2, generator=seeded(1))
    traces = hutchinson_trace(3, generator=seeded(2))(cloud.denoise, x, 0.1)
    assert torch.allclose(traces, torch.full_like(traces, cloud.dimension * 0.8), rtol=1e-12)


def test_float32_is_near_float64() -> None:
    densities = []
    for dtype in (torch.float32, torch.float64):
        denoise, x = real_denoiser(dtype)
        densities.append(log_density(denoise, x, rising(5, 6e-4, 0.5), trace=exact_trace(), order=4).nats)
    assert densities[0].dtype == torch.float64  # sums are kept in double precision
    assert (densities[0] - densities[1]).abs().max() < 0.01


def test_turned_and_shifted_conformers_have_the_same_density() -> None:
    denoise, x = real_denoiser()
    turn = torch.linalg.qr(torch.randn(3, 3, generator=seeded(9)).double())[0]
    turn = turn * torch.sign(torch.linalg.det(turn))
    one, other = (log_density(denoise, y, rising(3, 6e-4, 0.5), trace=exact_trace(), order=4) for y in (x, x @ turn.T))
    assert torch.allclose(one.nats, other.nats, rtol=1e-10)


def test_the_error_of_the_steps_is_stated() -> None:
    cloud = StiffCloud(6)
    x = cloud.draw(4, seed=1)
    for levels, bound in ((11, 1.0), (31, 0.02)):
        sigma = rising(levels, 6e-4, 0.5)
        stated = density_step_error(cloud.denoise, x, sigma, order=4)
        found = log_density(cloud.denoise, x, sigma, trace=exact_trace(), order=4).nats
        real = (found - cloud.sampled_log_density(x, 6e-4, 0.5)).square().mean().sqrt().item()
        assert real < stated < bound
    assert round_trip_error_nm(cloud.denoise, x, rising(41, 6e-4, 0.5), order=4) < 1e-5  # of bonds that spread by 3e-3


def test_a_flow_forward_and_backward_ends_where_it_began() -> None:
    denoise, x = real_denoiser()
    sigma = rising(31, 6e-3, 0.5)
    away = flow(denoise, x, sigma, trace=no_trace, order=4)
    back = flow(denoise, away.positions_nm, sigma.flip(0), trace=no_trace, order=4)
    assert (back.positions_nm - x).abs().max() < 1e-5
    cloud = StiffCloud(4)
    start = cloud.draw(3, seed=2)
    away = flow(cloud.denoise, start, sigma, trace=exact_trace(), order=4)
    back = flow(cloud.denoise, away.positions_nm, sigma.flip(0), trace=exact_trace(), order=4)
    assert (away.integral + back.integral).abs().max() < 1e-2
    assert torch.equal(flow(cloud.denoise, start, sigma, trace=no_trace, order=4).positions_nm, away.positions_nm)


def test_the_prior_and_another_order() -> None:
    x = centred_noise((2, 4, 3), generator=seeded(), dtype=torch.float64)
    gaussian = torch.distributions.Normal(0.0, 0.7)
    basis = subspace_basis(4, dtype=torch.float64, device=torch.device("cpu"))
    expected = gaussian.log_prob(basis.T @ x).sum(dim=(-1, -2))
    assert torch.allclose(log_normal_density(x, 0.7), expected, rtol=1e-6)
    with pytest.raises(ValueError, match="order 2 or 4, not 3"):
        flow(GaussianCloud(4, spread_nm=0.1).denoise, x, rising(5), trace=no_trace, order=3)
