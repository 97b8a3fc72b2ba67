"""The variance-preserving process: the variance-exploding one in other coordinates, and the note's loss."""

import math

import pytest
import torch
from torch import Tensor

from ancdiff.config import DiffusionSettings, SampleSettings, parse_config
from ancdiff.diffusion.energy import denoising_loss
from ancdiff.diffusion.levels import noise_levels
from ancdiff.diffusion.noise import centre, centred_noise, start_noise
from ancdiff.diffusion.samplers import dpmpp_2m, heun
from ancdiff.diffusion.variance_preserving import (
    alpha,
    dsm_loss,
    matched_sigma_nm,
    matched_time,
    score,
    sigma_squared,
    vp_noise,
    vp_sigma_nm,
)
from ancdiff.errors import ConfigError
from ancdiff.sample import draw_conformers
from ancdiff.testing import GaussianCloud

VP = DiffusionSettings(process="vp", superpose=False)
CLOUD = GaussianCloud(5, spread_nm=0.2)
SIGMA_DATA_NM = 0.15  # on purpose not the cloud's own spread


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def times(n: int = 7) -> Tensor:
    return torch.linspace(VP.time_min, 1.0, n, dtype=torch.float64)


def test_the_variance_is_preserved() -> None:
    t = times()
    torch.testing.assert_close(alpha(t, VP) + sigma_squared(t, VP), torch.ones_like(t), atol=1e-14, rtol=0)
    # ∫β = 0.1 + 19.9/2 at t = 1
    assert float(alpha(t, VP)[-1]) == pytest.approx(math.exp(-10.05))
    assert float(sigma_squared(torch.tensor([1e-9], dtype=torch.float64), VP)) == pytest.approx(1e-10, rel=1e-6)


@pytest.mark.parametrize("beta_max", [20.0, 0.1])
def test_time_and_noise_are_each_others_inverse(beta_max: float) -> None:
    diffusion = DiffusionSettings(process="vp", superpose=False, beta_max=beta_max)
    sigma = matched_sigma_nm(times(), diffusion, sigma_data_nm=SIGMA_DATA_NM)
    assert (sigma.diff() > 0).all()
    torch.testing.assert_close(matched_time(sigma, diffusion, sigma_data_nm=SIGMA_DATA_NM), times())


def test_both_parametrisations_have_the_same_score_at_matched_noise() -> None:
    """s(x_t, t) = (σ_d/√α_t) ∇ ln p_σ(y), and both are the score of the known marginal of x_t."""
    t = times()
    clean = CLOUD.draw(len(t), generator=generator())
    noise = centred_noise(tuple(clean.shape), generator=generator(1), dtype=torch.float64)
    root, spread = torch.sqrt(alpha(t, VP)), torch.sqrt(sigma_squared(t, VP))
    x_t = root[:, None, None] * clean / SIGMA_DATA_NM + spread[:, None, None] * noise
    preserving = score(CLOUD.denoise, x_t, t, VP, sigma_data_nm=SIGMA_DATA_NM)
    # the marginal of x_t is Gaussian with variance α s²/σ_d² + σ_t² in each coordinate
    variance = alpha(t, VP) * (CLOUD.spread_nm / SIGMA_DATA_NM) ** 2 + sigma_squared(t, VP)
    torch.testing.assert_close(preserving, -x_t / variance[:, None, None])
    # the same from the variance-exploding side, by autograd of its log-density
    sigma = matched_sigma_nm(t, VP, sigma_data_nm=SIGMA_DATA_NM)
    y = (SIGMA_DATA_NM * x_t / root[:, None, None]).requires_grad_()
    log_density = -y.square().sum(dim=(-1, -2)) / (2 * (CLOUD.spread_nm**2 + sigma**2))
    (exploding,) = torch.autograd.grad(log_density.sum(), y)
    torch.testing.assert_close(preserving, (SIGMA_DATA_NM / root)[:, None, None] * exploding)


def test_the_loss_is_the_notes_to_the_letter() -> None:
    """‖s_θ(x_t, t) + ε/σ_t‖² from x_t = √α_t x_0 + σ_t ε itself, against the form that the training uses."""

    def denoise(noisy_nm: Tensor, sigma_nm: Tensor) -> Tensor:
        return centre(torch.tanh(noisy_nm / (1 + sigma_nm[:, None, None])))  # any function that centres

    clean = CLOUD.draw(6, generator=generator(2))
    batch = vp_noise(clean.float(), VP, sigma_data_nm=SIGMA_DATA_NM, generator=generator(3))
    t = matched_time(batch.sigma_nm.double(), VP, sigma_data_nm=SIGMA_DATA_NM)
    assert ((t >= VP.time_min * 0.999) & (t <= 1.0001)).all()
    root, spread = torch.sqrt(alpha(t, VP))[:, None, None], torch.sqrt(sigma_squared(t, VP))[:, None, None]
    x_0 = batch.target_nm.double() / SIGMA_DATA_NM
    noise = (batch.noisy_nm.double() - batch.target_nm.double()) / batch.sigma_nm.double()[:, None, None]
    x_t = root * x_0 + spread * noise
    residual = score(denoise, x_t, t, VP, sigma_data_nm=SIGMA_DATA_NM) + noise / spread
    expected = residual.square().sum(dim=(-1, -2)) / 12
    found = dsm_loss(batch, denoise(batch.noisy_nm, batch.sigma_nm), VP, sigma_data_nm=SIGMA_DATA_NM)
    torch.testing.assert_close(found.double(), expected, rtol=2e-3, atol=0)  # float32 in the noise
    weighted = dsm_loss(
        batch,
        denoise(batch.noisy_nm, batch.sigma_nm),
        DiffusionSettings(process="vp", superpose=False, dsm_weight="variance"),
        sigma_data_nm=SIGMA_DATA_NM,
    )
    torch.testing.assert_close(weighted.double(), expected * spread[:, 0, 0] ** 2, rtol=2e-3, atol=0)


def test_both_losses_are_least_at_the_same_denoiser() -> None:
    """Of the denoisers D(y) = c y s²/(s² + σ²) the exact one, c = 1, has the least loss in either form."""
    clean = CLOUD.draw(4000, generator=generator(4), dtype=torch.float32)
    batch = vp_noise(clean, VP, sigma_data_nm=SIGMA_DATA_NM, generator=generator(5))
    exact = CLOUD.denoise(batch.noisy_nm, batch.sigma_nm)

    def losses(c: float) -> tuple[float, float]:
        weighted = DiffusionSettings(process="vp", superpose=False, dsm_weight="variance")
        preserving = dsm_loss(batch, c * exact, weighted, sigma_data_nm=SIGMA_DATA_NM).mean()
        return float(preserving), float(denoising_loss(batch, c * exact, sigma_data_nm=SIGMA_DATA_NM).mean())

    at = {c: losses(c) for c in (0.9, 1.0, 1.1)}
    for k in (0, 1):
        assert at[1.0][k] < min(at[0.9][k], at[1.1][k])


def test_sampling_over_its_times_gives_the_density() -> None:
    """The exact denoiser through draw_conformers: variance of the cloud, within sampling error."""
    sample = SampleSettings(conformers=2000, steps=40, solver="heun", batch_size=1000)
    drawn = draw_conformers(CLOUD.denoise, 5, sample, VP, sigma_data_nm=SIGMA_DATA_NM, generator=generator(6))
    # 2,000 × 12 degrees of freedom: the standard deviation is known to 0.5 %; Heun's error is below that.
    spread = math.sqrt(float((drawn**2).sum()) / (2000 * 12))
    assert spread == pytest.approx(CLOUD.spread_nm, rel=0.02)


def test_levels_of_both_processes_fall_to_zero() -> None:
    for diffusion in (VP, DiffusionSettings()):
        levels = noise_levels(SampleSettings(steps=9), diffusion, sigma_data_nm=SIGMA_DATA_NM)
        assert len(levels) == 10
        assert levels[-1] == 0
        assert (levels.diff() < 0).all()
    start = vp_sigma_nm(9, VP, sigma_data_nm=SIGMA_DATA_NM, rho=7.0)[0]
    assert float(start) == pytest.approx(SIGMA_DATA_NM * math.sqrt(math.exp(10.05) - 1))


def test_the_probability_flow_is_one_curve() -> None:
    """Heun over times and over EDM's levels end at the same conformer where both are fine enough."""
    start = centred_noise((3, 5, 3), generator=generator(7), dtype=torch.float64)
    levels = vp_sigma_nm(400, VP, sigma_data_nm=SIGMA_DATA_NM, rho=1.0)
    ended = heun(CLOUD.denoise, float(levels[0]) * start, levels)
    # the exact end of the flow from σ to 0: x s/√(s² + σ²)
    expected = float(levels[0]) * start * CLOUD.spread_nm / math.sqrt(CLOUD.spread_nm**2 + float(levels[0]) ** 2)
    torch.testing.assert_close(ended, expected, rtol=2e-3, atol=1e-5)


@pytest.mark.parametrize("rho", [3.0, 7.0])
def test_bent_times_keep_a_width_that_even_times_miss(rho: float) -> None:
    """Fifty steps of the multistep solver, coordinates as narrow as a third of the unit: variance within 2 %."""
    unit_nm = 3 * CLOUD.spread_nm

    def variance(bend: float) -> float:
        levels = vp_sigma_nm(50, VP, sigma_data_nm=unit_nm, rho=bend)
        start = start_noise(
            (1000, 5, 3), sigma_max_nm=float(levels[0]), data_spread_nm=CLOUD.spread_nm, generator=generator(9)
        ).double()
        drawn = dpmpp_2m(CLOUD.denoise, start, levels)
        # Deterministic and linear: each sample is the start times a factor, so that nothing is left to chance.
        return float((drawn.square().sum() / start.square().sum()) * (1 + (float(levels[0]) / CLOUD.spread_nm) ** 2))

    assert variance(rho) == pytest.approx(1.0, abs=0.02)
    assert variance(1.0) > 1.05


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ({"process": "vp"}, "set superpose: false"),
        ({"process": "ve"}, "diffusion.process"),
        ({"process": "vp", "superpose": False, "beta_max": 0.05}, "'beta_max' must not be below 'beta_min'"),
    ],
)
def test_impossible_processes_are_refused(raw: dict, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config({"diffusion": raw})
    assert said in str(caught.value)
