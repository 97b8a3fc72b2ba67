"""Importance weights of sampling paths, against Gaussians whose densities are known with their constants."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ancdiff.config import DiffusionSettings, LineSettings, SampleSettings
from ancdiff.diffusion.noise import karras_sigma, start_noise
from ancdiff.diffusion.paths import path_log_density, posterior_variances, sample_paths
from ancdiff.pool import pool_energies
from ancdiff.sample import draw_conformers, draw_with_path_density, path_variances
from ancdiff.testing import GaussianCloud

SPREAD = 0.2
LEVELS = karras_sigma(40, sigma_min_nm=2e-3, sigma_max_nm=1.5, rho=7.0)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


ETAS = pytest.mark.parametrize("eta", [1.0, 1.7])


def exact_variances(cloud: GaussianCloud) -> Tensor:
    return LEVELS.square() * cloud.spread_nm**2 / (cloud.spread_nm**2 + LEVELS.square())


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


def test_the_posterior_variance_of_a_gaussian() -> None:
    cloud = GaussianCloud(6, spread_nm=SPREAD)
    found = posterior_variances(cloud.denoise, cloud.draw(400, generator=seeded(1)), LEVELS, generator=seeded(2))
    assert found[-1] == 0
    # 400 conformers of 15 coordinates: 2 % of statistical error, and the variance is interpolated
    assert torch.allclose(found[:-1], exact_variances(cloud)[:-1], rtol=0.12)


@ETAS
def test_with_right_kernels_every_path_knows_the_density(eta: float) -> None:
    """Of an isotropic Gaussian the way back is Gaussian at every step: log ω has no scatter at all."""
    cloud = GaussianCloud(5, spread_nm=SPREAD)
    x, log_omega = sample_paths(
        cloud.denoise,
        start(300, 5, 3),
        LEVELS,
        exact_variances(cloud),
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
        cloud.denoise, y, LEVELS, exact_variances(cloud), eta=eta, data_spread_nm=SPREAD, paths=2, generator=seeded(6)
    )
    assert torch.allclose(found, cloud.log_density(y), atol=1e-8)


@ETAS
def test_weights_are_right_where_the_denoiser_and_the_variances_are_wrong(eta: float) -> None:
    """E_p[f/ω] = ∫ f = 1 and E_p[f x²/ω] = d s² for a normalised Gaussian f, whatever draws the paths."""
    cloud, wrong = GaussianCloud(4, spread_nm=SPREAD), WrongCloud(4, spread_nm=SPREAD)
    n = 8_000
    x, log_omega = sample_paths(
        wrong.denoise,
        start(n, 4, 7),
        LEVELS,
        0.9 * exact_variances(cloud),
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


def test_more_paths_raise_the_density_to_that_of_the_samples() -> None:
    """E[ω | x] = p(x) of the model's own samples; the log of the mean of a few lies below, of many it is there."""
    wrong = WrongCloud(4, spread_nm=SPREAD)
    few = wrong.draw(8, generator=seeded(9))
    variances = exact_variances(wrong)

    def at(paths: int) -> Tensor:
        x = few.repeat_interleave(max(1, 400 // paths), dim=0)
        found = path_log_density(
            wrong.denoise, x, LEVELS, variances, eta=1.0, data_spread_nm=SPREAD, paths=paths, generator=seeded(paths)
        )
        return found.reshape(len(few), -1).mean(dim=1)

    one, ten, many = at(1), at(10), at(400)
    assert (one < many).all()
    assert ((many - ten).abs() < 0.6 * (many - one)).all()


def test_the_energies_of_a_pool_by_paths() -> None:
    """−log p of conformers, with variances measured on 32 of them: 4 % of error in each cost little."""
    cloud = GaussianCloud(5, spread_nm=0.15)
    x = cloud.draw(60, generator=seeded(1))
    align = LineSettings(anchor_energy="path", anchor_flow_steps=60, anchor_probes=8, anchor_eta=1.3)
    found = pool_energies(cloud.denoise, x, align, DiffusionSettings(superpose=False), 0.15, seed=2)
    assert np.abs(found + cloud.log_density(x).numpy()).max() < 0.3


def test_the_stage_draws_the_same_conformers_with_and_without_weights() -> None:
    cloud = GaussianCloud(4, spread_nm=0.15)
    settings = SampleSettings(conformers=10, batch_size=4, steps=12, solver="ancestral", log_density="path", eta=1.0)
    asked: dict[str, Any] = {"sigma_data_nm": 0.15, "title": "test"}
    plain = draw_conformers(cloud.denoise, 4, settings, DiffusionSettings(), **asked, generator=seeded(1))
    asked["generator"] = seeded(1)
    variances = path_variances(cloud.denoise, 4, settings, DiffusionSettings(), **asked)
    drawn, table = draw_with_path_density(cloud.denoise, 4, settings, DiffusionSettings(), **asked, variances=variances)
    assert (plain == drawn).all()
    assert table["conformer"].tolist() == list(range(10))
    assert table["log_density_nats"].notna().all()
    assert table["standard_error_nats"].isna().all()


@pytest.mark.parametrize(
    ("solver", "density", "wanted"),
    [("rk4", "path", "ancestral"), ("ancestral", "exact", "rk4"), ("dpmpp_2m_sde", "path", "ancestral")],
)
def test_a_density_of_another_solver_is_refused(solver: str, density: str, wanted: str) -> None:
    with pytest.raises(ValueError, match=f"'solver: {wanted}'"):
        SampleSettings(solver=solver, log_density=density)  # type: ignore[arg-type]
