"""Importance weights of sampling paths, against Gaussians whose densities are known with their constants."""

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor

from ancdiff.config import DiffusionSettings, SampleSettings
from ancdiff.diffusion.levels import noise_levels
from ancdiff.diffusion.noise import karras_sigma, start_noise
from ancdiff.diffusion.paths import (
    Posteriors,
    _Kernel,
    _Posterior,
    elastic_posteriors,
    isotropic_posteriors,
    path_log_density,
    sample_paths,
)
from ancdiff.sample import draw_conformers, draw_with_path_density, path_posteriors
from ancdiff.testing import GaussianCloud
from ancdiff.weigh import log_densities, spread_evenly

SPREAD = 0.2
LEVELS = karras_sigma(40, sigma_min_nm=2e-3, sigma_max_nm=1.5, rho=7.0)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


ETAS = pytest.mark.parametrize("eta", [1.0, 1.7])


def exact_posteriors(cloud: GaussianCloud, atoms: int) -> Posteriors:
    return isotropic_posteriors(LEVELS, cloud.spread_nm, atoms=atoms)


def start(n: int, atoms: int, seed: int) -> Tensor:
    return start_noise(
        (n, atoms, 3),
        sigma_max_nm=float(LEVELS[0]),
        data_spread_nm=SPREAD,
        generator=seeded(seed),
    ).double()


class WrongCloud(GaussianCloud):
    """A denoiser with errors of a network: a share of the posterior's spread, by where it is; not of any density."""

    def denoise(self, noisy_nm: Tensor, sigma_nm: Tensor) -> Tensor:
        total = torch.sqrt(self.spread_nm**2 + sigma_nm**2)[:, None, None]
        size = sigma_nm[:, None, None] * self.spread_nm / total
        wrong = torch.tanh(noisy_nm.roll(1, dims=-1) / total) - 0.5 * noisy_nm / total
        return super().denoise(noisy_nm, sigma_nm) + 0.12 * size * wrong


class Dumbbells:
    """Two atoms at a distance of b ± s, in any direction, and the denoiser of that density by quadrature over it."""

    distance_nm, spread_nm = 0.15, 0.003

    def draw(self, n: int, *, generator: torch.Generator) -> Tensor:
        u = torch.nn.functional.normalize(torch.randn((n, 3), generator=generator, dtype=torch.float64), dim=-1)
        half = 0.5 * (self.distance_nm + self.spread_nm * torch.randn((n, 1), generator=generator, dtype=torch.float64))
        return torch.stack([half * u, -half * u], dim=1)

    def radial(self, r: Tensor) -> Tensor:
        """Density of the distance."""
        scaled = (r - self.distance_nm) / self.spread_nm
        return torch.exp(-0.5 * scaled**2) / (self.spread_nm * math.sqrt(2 * math.pi))

    def log_density(self, x: Tensor) -> Tensor:
        """Per nm³ of the subspace, whose coordinate is the bond vector over √2."""
        r = (x[:, 0] - x[:, 1]).norm(dim=-1)
        return torch.log(self.radial(r) / (4 * math.pi * r**2)) + 1.5 * math.log(2)

    def denoise(self, noisy_nm: Tensor, sigma_nm: Tensor) -> Tensor:
        """E[x_0 | x]: of the bond vector v = r û given w = v + √2 σ ε, ∫ p(r) e^{−(r² + |w|²)/4σ²} r i₁/i₀ …"""
        w = noisy_nm[:, 0] - noisy_nm[:, 1]
        size = w.norm(dim=-1, keepdim=True)
        r = self.distance_nm + self.spread_nm * torch.linspace(-6, 6, 201, dtype=torch.float64)
        k = r * size / (2 * sigma_nm[:, None] ** 2)
        # ∫ e^{k cos θ} = 2 sinh(k)/k, and ⟨cos θ⟩ = coth k − 1/k
        log_sinh = k + torch.log1p(-torch.exp(-2 * k)) - torch.log(k)
        log = torch.log(self.radial(r) + 1e-300) - r**2 / (4 * sigma_nm[:, None] ** 2) + log_sinh
        weight = torch.softmax(log, dim=-1)
        mean = (weight * r * (1 / torch.tanh(k) - 1 / k)).sum(dim=-1, keepdim=True) * w / size
        return 0.5 * torch.stack([mean, -mean], dim=1)


def test_an_elastic_network_finds_the_posterior_of_a_gaussian() -> None:
    """Its springs stay without effect where all directions have the same variance."""
    cloud = GaussianCloud(6, spread_nm=SPREAD)
    clean = cloud.draw(400, generator=seeded(1))
    found = elastic_posteriors(cloud.denoise, clean, LEVELS, generator=seeded(2))
    # 400 conformers of 15 coordinates: 2 % of statistical error, and the scale is interpolated
    assert found.spread_nm == pytest.approx(SPREAD, rel=0.03)
    assert found.scale[-1] == 0
    spring = found.scale[:-1] * found.stiffness.max()
    assert (spring < 0.3 * (1 / LEVELS[:-1] ** 2 + 1 / SPREAD**2)).all()
    # The mean variance lies between that of no springs and, by Jensen's inequality, that of springs of the mean.
    floor = 1 / LEVELS[:-1] ** 2 + 1 / found.spread_nm**2
    exact = LEVELS[:-1] ** 2 * SPREAD**2 / (SPREAD**2 + LEVELS[:-1] ** 2)
    for variance in (1 / floor, 1 / (floor + found.scale[:-1] * found.stiffness.sum() / cloud.dimension)):
        assert torch.allclose(variance, exact, rtol=0.12)


def test_an_elastic_network_takes_most_of_the_scatter_away() -> None:
    """A stiff bond in two soft directions; the denoiser is exact, so that all scatter comes from the kernels."""
    bond = Dumbbells()
    x = bond.draw(300, generator=seeded(3))
    elastic = elastic_posteriors(bond.denoise, x[:64], LEVELS, generator=seeded(4))
    known: dict[str, Any] = {"eta": 1.0, "data_spread_nm": SPREAD, "paths": 1}

    def errors(posteriors: Posteriors) -> Tensor:
        found = path_log_density(bond.denoise, x, posteriors, **known, generator=seeded(5))
        return found - bond.log_density(x)

    scatter = errors(elastic).var()
    without = errors(replace(elastic, scale=torch.zeros_like(elastic.scale))).var()
    assert float(scatter) < 0.5 * float(without)
    # E_q[ω | x] is the density of the samples, here the right one but for the steps
    assert abs(float(torch.exp(errors(elastic)).mean()) - 1) < 5 * math.sqrt(math.expm1(float(scatter)) / 300)


@ETAS
def test_with_right_kernels_every_path_knows_the_density(eta: float) -> None:
    """Of an isotropic Gaussian the way back is Gaussian at every step: log ω has no scatter at all."""
    cloud = GaussianCloud(5, spread_nm=SPREAD)
    x, log_omega = sample_paths(
        cloud.denoise,
        start(300, 5, 3),
        exact_posteriors(cloud, 5),
        eta=eta,
        data_spread_nm=SPREAD,
        generator=seeded(4),
    )
    assert torch.allclose(log_omega, cloud.log_density(x), atol=1e-8)
    assert x.mean(dim=1).abs().max() < 1e-12
    # ... and samples have the spread of the data: 300 · 12 coordinates, 1.2 % of their standard deviation
    assert float(x.square().sum() / (300 * 12)) ** 0.5 == pytest.approx(SPREAD, rel=0.05)
    y = cloud.draw(20, generator=seeded(5))
    found = path_log_density(
        cloud.denoise, y, exact_posteriors(cloud, 5), eta=eta, data_spread_nm=SPREAD, paths=2, generator=seeded(6)
    )
    assert torch.allclose(found, cloud.log_density(y), atol=1e-8)


@ETAS
def test_weights_are_right_where_the_denoiser_and_the_posteriors_are_wrong(eta: float) -> None:
    """E_p[f/ω] = ∫ f = 1 and E_p[f x²/ω] = d s² for a normalised Gaussian f, whatever draws the paths."""
    cloud, wrong = GaussianCloud(4, spread_nm=SPREAD), WrongCloud(4, spread_nm=SPREAD)
    n = 8_000
    stiffness = 20.0 * (1 - torch.eye(4, dtype=torch.float64))
    springs = torch.where(LEVELS > 0, 0.3, 0.0)
    x, log_omega = sample_paths(
        wrong.denoise,
        start(n, 4, 7),
        replace(exact_posteriors(cloud, 4), spread_nm=0.95 * SPREAD, scale=springs, stiffness=stiffness),
        eta=eta,
        data_spread_nm=SPREAD,
        generator=seeded(8),
    )
    weight = torch.exp(cloud.log_density(x) - log_omega)
    effective = float(weight.sum().square() / weight.square().sum())
    assert 0.05 * n < effective < 0.9 * n  # it does err, and weights do scatter
    assert float(weight.mean()) == pytest.approx(1.0, abs=5 * math.sqrt(1 / effective - 1 / n))
    squared = x.square().sum(dim=(-1, -2)) / (cloud.dimension * SPREAD**2)
    unweighted, weighted = float(squared.mean()), float((weight * squared).mean() / weight.mean())
    assert abs(unweighted - 1) > 0.03
    assert weighted == pytest.approx(1.0, abs=5 * math.sqrt(2 / cloud.dimension / effective))


def test_a_kernels_density_is_that_of_its_draws() -> None:
    """Covariance floor + share C in the subspace, and the normal density in a basis of it."""
    atoms, n = 4, 40_000
    stiffness = torch.tensor([[0.0, 9.0, 1.0, 1.0], [9.0, 0.0, 9.0, 1.0], [1.0, 9.0, 0.0, 4.0], [1.0, 1.0, 4.0, 0.0]])
    posteriors = Posteriors(torch.tensor([0.3]), torch.tensor([5.0]), stiffness, SPREAD)
    shape = torch.randn((1, atoms, 3), generator=seeded(1), dtype=torch.float64)
    denoised = (shape - shape.mean(dim=1, keepdim=True)).expand(n, atoms, 3)
    known = _Posterior.of(posteriors, 0, denoised)
    assert known is not None
    kernel = _Kernel(kept=0.6, plain=0.004, share=0.5)
    x = denoised + 0.1
    drawn, log_density = kernel.draw(x, denoised, known, seeded(2))
    centring = np.kron(np.eye(atoms) - 1 / atoms, np.eye(3))
    within = centring @ (0.004 * np.eye(12) + 0.5 * np.linalg.inv(known.precision[0].numpy())) @ centring
    off = (drawn - denoised - 0.6 * (x - denoised)).flatten(1).numpy()
    assert off.T @ off / n == pytest.approx(within, abs=6 * np.abs(within).max() / math.sqrt(n))
    values, vectors = np.linalg.eigh(within)
    normal = scipy.stats.multivariate_normal(cov=np.diag(values[3:]))
    assert log_density.numpy() == pytest.approx(normal.logpdf(off @ vectors[:, 3:]))
    assert kernel.log_density(drawn, x, denoised, known).numpy() == pytest.approx(log_density.numpy())


def test_more_paths_raise_the_density_to_that_of_the_samples() -> None:
    """E[ω | x] = p(x) of the model's own samples; the log of the mean of a few lies below, of many it is there."""
    wrong = WrongCloud(4, spread_nm=SPREAD)
    few = wrong.draw(8, generator=seeded(9))
    posteriors = exact_posteriors(wrong, 4)

    def at(paths: int) -> Tensor:
        x = few.repeat_interleave(max(1, 400 // paths), dim=0)
        found = path_log_density(
            wrong.denoise, x, posteriors, eta=1.0, data_spread_nm=SPREAD, paths=paths, generator=seeded(paths)
        )
        return found.reshape(len(few), -1).mean(dim=1)

    one, ten, many = at(1), at(10), at(400)
    assert (one < many).all()
    assert ((many - ten).abs() < 0.6 * (many - one)).all()


def test_the_stage_weighs_given_conformers() -> None:
    """log p, with posteriors measured on 32 of them, and kept: 4 % of error in each cost little."""
    cloud = GaussianCloud(5, spread_nm=0.15)
    x = cloud.draw(60, generator=seeded(1))
    settings = SampleSettings(
        solver="ancestral", steps=60, eta=1.3, log_density="path", log_density_probes=8, batch_size=25
    )
    asked: dict[str, Any] = {"sigma_data_nm": 0.15, "generator": seeded(2)}
    levels = noise_levels(settings, DiffusionSettings(superpose=False), sigma_data_nm=0.15)
    measured = elastic_posteriors(cloud.denoise, x[:32], levels, generator=seeded(3))
    kept = Posteriors.from_dict(json.loads(json.dumps(measured.as_dict())))
    found = log_densities(cloud.denoise, x, settings, kept, **asked)
    assert np.abs(found - cloud.log_density(x).numpy()).max() < 0.3
    assert log_densities(cloud.denoise, x[:0], settings, kept, **asked).shape == (0,)
    # Nothing is lost on the way to the file and back, nor by threads.
    asked |= {"generator": seeded(2), "threads": 2}
    assert (log_densities(cloud.denoise, x, settings, measured, **asked) == found).all()


@pytest.mark.parametrize(
    ("basins", "wanted", "taken"),
    [
        ([0] * 6, 3, [0, 2, 4]),
        ([0] * 6, 9, list(range(6))),
        ([0] * 8 + [1, 2], 4, [0, 4, 8, 9]),  # a rare basin gives all that it has
        ([1, 0, 0, 0, 0, 0, 2, 0], 5, [0, 1, 3, 5, 6]),
        ([0, 1, 2], 2, [1, 2]),  # fewer than there are basins
        ([], 2, []),
    ],
)
def test_rare_basins_give_as_many_frames_as_the_others(basins: list[int], wanted: int, taken: list[int]) -> None:
    assert spread_evenly(np.array(basins, dtype=np.int64), wanted).tolist() == taken


def test_the_stage_draws_the_same_conformers_with_and_without_weights() -> None:
    cloud = GaussianCloud(4, spread_nm=0.15)
    settings = SampleSettings(conformers=10, batch_size=4, steps=12, solver="ancestral", log_density="path", eta=1.0)
    asked: dict[str, Any] = {"sigma_data_nm": 0.15, "title": "test"}
    plain = draw_conformers(cloud.denoise, 4, settings, DiffusionSettings(), **asked, generator=seeded(1))
    asked["generator"] = seeded(1)
    asked["posteriors"] = path_posteriors(cloud.denoise, 4, settings, DiffusionSettings(), **asked)
    drawn, table = draw_with_path_density(cloud.denoise, 4, settings, **asked, paths=1)
    assert (plain == drawn).all()
    assert table["conformer"].tolist() == list(range(10))
    assert table["log_density_nats"].notna().all()
    assert table["standard_error_nats"].isna().all()


def test_threads_take_a_batch_each_and_one_may_be_looked_at() -> None:
    """The same numbers with any number of threads; ``first`` sees the first batch on its way down, and nothing else."""
    cloud = GaussianCloud(4, spread_nm=SPREAD)
    settings = SampleSettings(conformers=10, batch_size=4, steps=12, solver="ancestral", log_density="path")
    seen: list[tuple[int, float]] = []

    def looked_at(x: Tensor, sigma: Tensor) -> Tensor:
        seen.append((len(x), float(sigma[0])))
        return cloud.denoise(x, sigma)

    asked: dict[str, Any] = {"sigma_data_nm": SPREAD, "posteriors": exact_of(settings), "paths": 3}
    alone, table = draw_with_path_density(cloud.denoise, 4, settings, **asked, generator=seeded(1))
    beside, other = draw_with_path_density(
        cloud.denoise, 4, settings, **asked, generator=seeded(1), threads=3, first=looked_at
    )
    assert (alone == beside).all()
    assert table.equals(other)
    assert len(np.unique(alone, axis=0)) == 10  # no batch has another's noise
    assert [n for n, _ in seen] == [4] * 12
    assert (np.diff([sigma for _, sigma in seen]) < 0).all()


def test_several_paths_of_a_sample_weigh_it_as_rightly_and_scatter_less() -> None:
    """E[f/mean ω] = ∫ f = 1 with any number of paths, of which the first drew the sample."""
    cloud, wrong = GaussianCloud(4, spread_nm=SPREAD), WrongCloud(4, spread_nm=SPREAD)
    settings = SampleSettings(
        conformers=4_000, batch_size=4_000, steps=30, solver="ancestral", log_density="path", eta=1.0
    )
    spread = {}
    for paths in (1, 4):
        x, table = draw_with_path_density(
            wrong.denoise,
            4,
            settings,
            sigma_data_nm=SPREAD,
            generator=seeded(1),
            posteriors=exact_of(settings),
            paths=paths,
        )
        log = cloud.log_density(torch.as_tensor(x).double()).numpy() - table["log_density_nats"].to_numpy()
        spread[paths] = log.std()
        effective = np.exp(log).sum() ** 2 / np.exp(2 * log).sum()
        assert np.exp(log).mean() == pytest.approx(1.0, abs=5 * math.sqrt(1 / effective))
    assert spread[4] < 0.85 * spread[1]


def exact_of(settings: SampleSettings) -> Posteriors:
    levels = noise_levels(settings, DiffusionSettings(), sigma_data_nm=SPREAD)
    return isotropic_posteriors(levels, SPREAD, atoms=4)


@pytest.mark.parametrize(
    ("solver", "density", "wanted"),
    [("rk4", "path", "ancestral"), ("ancestral", "exact", "rk4"), ("dpmpp_2m_sde", "path", "ancestral")],
)
def test_a_density_of_another_solver_is_refused(solver: str, density: str, wanted: str) -> None:
    with pytest.raises(ValueError, match=f"'solver: {wanted}'"):
        SampleSettings(solver=solver, log_density=density)  # type: ignore[arg-type]
