"""Noise, samplers, superposition and model energies against a Gaussian whose every answer is known."""

import math
from dataclasses import replace

import pytest
import torch

from ancdiff.config import DiffusionSettings, SampleSettings
from ancdiff.diffusion.energy import (
    denoising_loss,
    likelihood_energy,
    noised,
    paper_energy,
    shared_noise,
    training_noise,
)
from ancdiff.diffusion.noise import (
    TrainingLevels,
    centre,
    centred_noise,
    karras_sigma,
    start_noise,
    stratified_log_uniform_sigma,
)
from ancdiff.diffusion.samplers import dpmpp_2m, heun, stochastic
from ancdiff.diffusion.superpose import lay_upon_first, superpose
from ancdiff.testing import GaussianCloud, random_rotation

CLOUD = GaussianCloud(5, spread_nm=0.2)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_noise_lies_in_the_subspace_of_zero_centre_of_mass() -> None:
    noise = centred_noise((4000, 5, 3), generator=seeded(), dtype=torch.float64)
    assert noise.mean(dim=1).abs().max() < 1e-14
    # E‖ε‖² is the dimension 3(N − 1) = 12, not 3N = 15; its standard error here is √(2·12/4000) = 0.08.
    assert noise.square().sum(dim=(1, 2)).mean().item() == pytest.approx(12, abs=0.3)


WIDE = TrainingLevels(sigma_min_nm=1e-9, sigma_max_nm=1e9, median_nm=0.1, log_width=1.4, uniform_share=0.0)


def test_training_noise_is_lognormal() -> None:
    log_sigma = torch.log(WIDE.draw(4096, generator=seeded()))
    assert log_sigma.mean().item() == pytest.approx(math.log(0.1), abs=0.01)  # stratified: far below 1.4/√4096
    assert log_sigma.std().item() == pytest.approx(1.4, rel=0.02)
    assert torch.isfinite(log_sigma).all()


def test_training_noise_has_its_share_of_uniform_levels_and_stays_in_its_bounds() -> None:
    """P(σ < 0.01): of 0.4 log-uniform on [1e-3, 1] a third, of 0.6 log-normal (Φ(a) − Φ(b))/(Φ(c) − Φ(b))."""
    levels = replace(WIDE, sigma_min_nm=1e-3, sigma_max_nm=1.0, uniform_share=0.4)
    sigma = levels.draw(20_000, generator=seeded())
    assert sigma.min() >= 1e-3
    assert sigma.max() <= 1.0

    def below(s: float) -> float:
        return 0.5 * math.erfc(-math.log(s / 0.1) / 1.4 / math.sqrt(2))

    expected = 0.4 / 3 + 0.6 * (below(0.01) - below(1e-3)) / (below(1.0) - below(1e-3))
    assert (sigma < 0.01).double().mean().item() == pytest.approx(expected, abs=0.01)  # standard error 0.002


def test_stratified_levels_lie_one_in_each_stratum() -> None:
    sigma = stratified_log_uniform_sigma(10, sigma_min_nm=0.01, sigma_max_nm=1.0, generator=seeded())
    strata = torch.log(sigma / 0.01) / math.log(100) * 10
    assert strata.floor().tolist() == list(range(10))


def test_karras_levels_start_at_the_top_and_end_at_zero() -> None:
    sigma = karras_sigma(20, sigma_min_nm=0.001, sigma_max_nm=2.0, rho=7.0)
    assert len(sigma) == 21
    assert sigma[0].item() == pytest.approx(2.0)
    assert sigma[-2].item() == pytest.approx(0.001)
    assert sigma[-1].item() == 0.0
    assert (sigma.diff() < 0).all()


@pytest.mark.parametrize("solver", ["heun", "dpmpp_2m", "stochastic", "dpmpp_2m_sde"])
def test_samplers_recover_the_moments_of_a_gaussian(solver: str) -> None:
    generator = seeded(3)
    # Fresh noise makes the steps of the stochastic samplers longer: they need more of them.
    steps = 160 if solver in ("stochastic", "dpmpp_2m_sde") else 40
    sigma = karras_sigma(steps, sigma_min_nm=1e-3, sigma_max_nm=20.0, rho=7.0)
    start = 20.0 * centred_noise((6000, 5, 3), generator=generator, dtype=torch.float64)
    if solver == "stochastic":
        samples = stochastic(CLOUD.denoise, start, sigma, churn=10.0, generator=generator)
    elif solver == "dpmpp_2m_sde":
        samples = dpmpp_2m(CLOUD.denoise, start, sigma, eta=1.0, generator=generator)
    else:
        samples = {"heun": heun, "dpmpp_2m": dpmpp_2m}[solver](CLOUD.denoise, start, sigma)
    assert samples.mean(dim=1).abs().max() < 1e-12
    variance = samples.square().sum(dim=(1, 2)).mean().item() / CLOUD.dimension
    # Standard error of the variance: √(2/72000) = 0.5 %; the solvers' own error at 40 steps is below 1 %.
    assert variance == pytest.approx(CLOUD.spread_nm**2, rel=0.025)
    assert samples.mean(dim=0).abs().max() < 5 * CLOUD.spread_nm / math.sqrt(6000)


def test_heun_converges_with_second_order() -> None:
    """The exact ODE solution for a Gaussian is x·√(s²/(s² + σ²)): the error falls 4 × when the steps double."""
    start = centred_noise((8, 5, 3), generator=seeded(), dtype=torch.float64) * 2.0
    exact = start * math.sqrt(0.2**2 / (0.2**2 + 2.0**2))
    errors = []
    for steps in (40, 80):
        sigma = karras_sigma(steps, sigma_min_nm=1e-4, sigma_max_nm=2.0, rho=7.0)
        errors.append((heun(CLOUD.denoise, start, sigma) - exact).abs().max().item())
    assert 3.0 < errors[0] / errors[1] < 5.5


def test_noise_undoes_an_error_that_a_deterministic_solver_keeps() -> None:
    """A denoiser that is wrong at high noise alone: with noise in each step the samples forget it."""

    def wrong(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        factor = torch.where(sigma > 0.5, 0.5, 1.0)[:, None, None]
        return CLOUD.denoise(x, sigma) * factor

    sigma = karras_sigma(40, sigma_min_nm=1e-3, sigma_max_nm=5.0, rho=7.0)
    start = 5.0 * centred_noise((4000, 5, 3), generator=seeded(4), dtype=torch.float64)
    errors = []
    for eta in (0.0, 1.0):
        samples = dpmpp_2m(wrong, start, sigma, eta=eta, generator=seeded(5))
        variance = samples.square().sum(dim=(1, 2)).mean().item() / CLOUD.dimension
        errors.append(abs(variance / CLOUD.spread_nm**2 - 1))
    # The solvers' own error of a Gaussian's variance is 1 to 2 % at 40 steps, its standard error 0.6 %.
    assert errors[0] > 0.05
    assert errors[1] < 0.03


def test_a_stochastic_solver_asks_for_its_generator() -> None:
    with pytest.raises(ValueError, match="needs a generator"):
        dpmpp_2m(
            CLOUD.denoise, torch.zeros(1, 5, 3), karras_sigma(4, sigma_min_nm=0.1, sigma_max_nm=1.0, rho=7.0), eta=1.0
        )


def test_evaluations_per_sampler() -> None:
    calls = 0

    def counting(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return CLOUD.denoise(x, sigma)

    sigma = karras_sigma(20, sigma_min_nm=1e-3, sigma_max_nm=2.0, rho=7.0)
    start = centred_noise((2, 5, 3), generator=seeded(), dtype=torch.float64)
    heun(counting, start, sigma)
    assert calls == 39
    calls = 0
    dpmpp_2m(counting, start, sigma)
    assert calls == 20


def test_superposition_undoes_a_rotation_and_never_mirrors() -> None:
    x = centred_noise((6, 7, 3), generator=seeded(), dtype=torch.float64)
    rotation = random_rotation(generator=seeded(1))
    assert (superpose(x @ rotation.T, x) - x).abs().max() < 1e-12
    mirrored = superpose(-x, x)
    assert (mirrored - x).square().sum(dim=(1, 2)).min() > 0.1  # a reflection would bring it to zero


def test_likelihood_energy_is_the_negative_log_density_up_to_a_constant() -> None:
    """For the exact denoiser the energy of a Gaussian differs from −log p by a constant only.

    E_θ(x) + log p(x) must be the same for all x; the slope of E_θ on −log p is 1 as σ runs over all scales.
    """
    x = CLOUD.draw(6, generator=seeded(1)) * torch.linspace(0.3, 1.8, 6, dtype=torch.float64)[:, None, None]
    low, high = 1e-4, 50.0
    shared = shared_noise(40_000, 5, sigma_min_nm=low, sigma_max_nm=high, generator=seeded(2))
    energy = likelihood_energy(CLOUD.denoise, x, shared, sigma_min_nm=low, sigma_max_nm=high, superpose=False)
    expected = -CLOUD.log_density(x)
    difference = (energy - energy[0]) - (expected - expected[0])
    # Monte-Carlo error of 40,000 shared levels, seen over seeds: below 0.2 nats on differences up to 20.
    assert expected.max() - expected.min() > 8
    assert difference.abs().max() < 0.35


def test_shared_noise_makes_differences_sharper_than_fresh_noise() -> None:
    x = CLOUD.draw(2, generator=seeded(1))
    shared_differences, fresh_differences = [], []
    for seed in range(100):
        first, second = (
            shared_noise(16, 5, sigma_min_nm=1e-3, sigma_max_nm=2.0, generator=seeded(1000 * k + seed)) for k in (0, 1)
        )
        a, b = (
            likelihood_energy(CLOUD.denoise, x, n, sigma_min_nm=1e-3, sigma_max_nm=2.0, superpose=False)
            for n in (first, second)
        )
        shared_differences.append((a[0] - a[1]).item())
        fresh_differences.append((a[0] - b[1]).item())
    assert torch.tensor(shared_differences).std() < 0.7 * torch.tensor(fresh_differences).std()


def test_paper_energy_is_the_scaled_mean_of_noise_prediction_errors() -> None:
    x = CLOUD.draw(3, generator=seeded(1))
    shared = shared_noise(8, 5, sigma_min_nm=0.01, sigma_max_nm=1.0, generator=seeded(2))
    energy = paper_energy(CLOUD.denoise, x, shared, scale=5000.0, superpose=False)
    by_hand = torch.zeros(3, dtype=torch.float64)
    for sigma, noise in zip(shared.sigma_nm, shared.noise, strict=True):
        noisy = x + sigma * noise
        predicted = (noisy - CLOUD.denoise(noisy, sigma.expand(3).double())) / sigma
        by_hand += (predicted - noise).square().sum(dim=(1, 2)) / CLOUD.dimension / 8
    assert torch.allclose(energy, 5000.0 * by_hand, rtol=1e-5)


def test_the_exact_denoiser_has_the_known_loss() -> None:
    """E‖D − x‖² = d s²σ²/(s² + σ²), so EDM's weight makes the loss of the exact denoiser 1 at σ_data = s."""
    x = CLOUD.draw(20_000, generator=seeded(1), dtype=torch.float32)
    batch = training_noise(x, WIDE, superpose=False, generator=seeded(2))
    loss = denoising_loss(batch, CLOUD.denoise(batch.noisy_nm, batch.sigma_nm), sigma_data_nm=CLOUD.spread_nm)
    assert loss.mean().item() == pytest.approx(1.0, abs=0.015)  # standard error √(2/12/20000) = 0.003


def test_superposed_target_does_not_see_a_turn_of_the_noisy_input() -> None:
    x = centre(torch.randn(4, 6, 3, generator=seeded(), dtype=torch.float64))
    rotation = random_rotation(generator=seeded(1))
    turn = (x @ rotation.T - x) / 0.5  # noise that turns the conformer as a whole
    sigma = torch.full((4,), 0.5, dtype=torch.float64)
    for turned, (low, high) in ((True, (0.0, 1e-20)), (False, (0.1, math.inf))):
        batch = noised(x, sigma, turn, superpose=turned)
        error = batch.error(batch.noisy_nm)
        assert error.min() >= low
        assert error.max() < high


def test_energies_of_turned_conformers_agree_when_they_are_laid_upon_each_other() -> None:
    """E_θ does not change with orientation; estimated with the same noise for all it does, unless superposed."""
    x = CLOUD.draw(1, generator=seeded(1))
    turns = torch.stack([random_rotation(generator=seeded(i)) for i in range(6)])
    turned = x @ turns
    shared = shared_noise(8, 5, sigma_min_nm=0.01, sigma_max_nm=0.4, generator=seeded(2))

    def spread(conformers: torch.Tensor) -> float:
        options = {"sigma_min_nm": 0.01, "sigma_max_nm": 0.4, "superpose": False}
        return float(likelihood_energy(CLOUD.denoise, conformers, shared, **options).std())

    assert spread(lay_upon_first(turned)) < 1e-9
    assert spread(turned) > 0.1


@pytest.mark.parametrize("spread_nm", [0.003, 0.01, 0.05, 0.17])
def test_the_default_solver_keeps_widths_from_a_bond_to_a_molecule(spread_nm: float) -> None:
    """Coordinates of any spread, of a whole molecule's noise levels: standard deviations within 6 %."""
    sample, diffusion = SampleSettings(), DiffusionSettings()
    sigma_data_nm = 0.173
    cloud = GaussianCloud(5, spread_nm=spread_nm)
    sigma = karras_sigma(
        sample.steps,
        sigma_min_nm=diffusion.sigma_min * sigma_data_nm,
        sigma_max_nm=diffusion.sigma_max * sigma_data_nm,
        rho=sample.rho,
    )
    generator = seeded(6)
    start = float(sigma[0]) * centred_noise((4000, 5, 3), generator=generator, dtype=torch.float64)
    drawn = dpmpp_2m(cloud.denoise, start, sigma, eta=sample.eta, generator=generator)
    spread = math.sqrt(drawn.square().sum(dim=(1, 2)).mean().item() / cloud.dimension)
    assert spread == pytest.approx(spread_nm, rel=0.06)  # standard error 0.3 %


def test_a_start_with_the_data_s_spread_ends_with_it() -> None:
    """From σ_max ε a deterministic sampler ends narrower by σ_max / √(σ_max² + σ_data²), 5 % at three spreads."""
    cloud = GaussianCloud(5, spread_nm=0.2)
    sigma = karras_sigma(40, sigma_min_nm=0.001, sigma_max_nm=0.6, rho=7.0)

    def drawn_spread(data_spread_nm: float) -> float:
        start = start_noise((4000, 5, 3), sigma_max_nm=0.6, data_spread_nm=data_spread_nm, generator=seeded(8))
        x = heun(cloud.denoise, start.double(), sigma)
        return math.sqrt(x.square().sum(dim=(1, 2)).mean().item() / cloud.dimension)

    assert drawn_spread(0.2) == pytest.approx(0.2, rel=0.01)  # standard error 0.3 %
    assert drawn_spread(0.0) == pytest.approx(0.2 * 3 / math.sqrt(10), rel=0.01)
