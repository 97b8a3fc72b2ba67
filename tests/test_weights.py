"""Boltzmann weights against closed forms and the properties that define them."""

from random import Random

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ancdiff.config import TemperSettings
from ancdiff.errors import InputError, StageError
from ancdiff.molecules import ENERGY_COLUMNS
from ancdiff.units import thermal_energy_kj_mol
from ancdiff.weights import (
    WEIGHT_COLUMNS,
    effective_sample_size,
    fit_pareto_tail,
    free_energy_difference,
    importance_weights,
    log_weights,
    logsumexp,
    pareto_k_limit,
    pareto_smoothed,
    pooled_weights,
    temper,
    truncated,
    weighted_mean,
)

energies = hnp.arrays(np.float64, st.integers(1, 30), elements=st.floats(-500, 500))
kelvins = st.floats(100, 2000)


@settings(deadline=None, max_examples=50)
@given(energies, kelvins)
def test_weights_are_normalised_and_ordered_as_boltzmann(energy: np.ndarray, kelvin: float) -> None:
    log_weight = log_weights(energy, kelvin)
    assert np.exp(log_weight).sum() == pytest.approx(1, abs=1e-12)
    # every ratio of weights is exp(−ΔE / kT)
    ratios = log_weight - log_weight[0]
    np.testing.assert_allclose(ratios, -(energy - energy[0]) / thermal_energy_kj_mol(kelvin), atol=1e-9)


@settings(deadline=None, max_examples=50)
@given(energies, kelvins, st.floats(-1e5, 1e5), st.randoms(use_true_random=False))
def test_shift_and_permutation(energy: np.ndarray, kelvin: float, shift: float, random) -> None:
    reference = log_weights(energy, kelvin)
    # a shift of 1e5 kJ/mol costs digits: rounding 1e5 × 2⁻⁵² / kT(100 K) is below 1e-9
    np.testing.assert_allclose(log_weights(energy + shift, kelvin), reference, atol=1e-8)
    order = random.sample(range(len(energy)), len(energy))
    np.testing.assert_allclose(log_weights(energy[order], kelvin), reference[order], atol=1e-12)


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 200), st.floats(-1e6, 1e6), kelvins)
def test_equal_energies_are_uniform(n: int, energy: float, kelvin: float) -> None:
    log_weight = log_weights(np.full(n, energy), kelvin)
    np.testing.assert_allclose(log_weight, -np.log(n), atol=1e-9)
    assert effective_sample_size(log_weight) == pytest.approx(n)


@settings(deadline=None, max_examples=50)
@given(energies, kelvins, kelvins)
def test_ess_grows_with_temperature_within_its_bounds(energy: np.ndarray, one: float, other: float) -> None:
    cold, hot = (effective_sample_size(log_weights(energy, t)) for t in sorted((one, other)))
    assert 1 - 1e-9 <= cold <= hot * (1 + 1e-9) <= len(energy) * (1 + 2e-9)


def test_two_levels_in_closed_form() -> None:
    kelvin, gap_kt = 300.0, 1.0
    log_weight = log_weights(np.array([0.0, gap_kt * thermal_energy_kj_mol(kelvin)]), kelvin)
    p = 1 / (1 + np.exp(-gap_kt))
    np.testing.assert_allclose(np.exp(log_weight), [p, 1 - p], rtol=1e-12)
    assert effective_sample_size(log_weight) == pytest.approx(1 / (p**2 + (1 - p) ** 2))
    # unnormalised weights have the same effective sample size
    assert effective_sample_size(log_weight + 700) == pytest.approx(1 / (p**2 + (1 - p) ** 2))


def test_failed_conformers_get_no_weight_and_change_nothing_else() -> None:
    energy = np.array([1.0, np.nan, 3.0, -np.inf, np.inf, -1e9])
    usable = np.array([True, True, True, True, True, False])
    log_weight = log_weights(energy, 300.0, usable=usable)
    np.testing.assert_array_equal(np.isneginf(log_weight), [False, True, False, True, True, True])
    np.testing.assert_array_equal(log_weight[[0, 2]], log_weights(np.array([1.0, 3.0]), 300.0))
    assert effective_sample_size(log_weight) == effective_sample_size(log_weight[[0, 2]])


def test_one_conformer_has_all_the_weight() -> None:
    assert log_weights(np.array([-123.0]), 300.0).tolist() == [0.0]
    assert temper(np.array([-123.0]), 300.0, TemperSettings()) == 300.0


@pytest.mark.parametrize("energy", [np.array([np.nan, np.nan]), np.array([])])
def test_no_energy_at_all_stops_with_the_place(energy: np.ndarray) -> None:
    with pytest.raises(StageError, match="system ala"):
        log_weights(energy, 300.0, where="system ala")
    with pytest.raises(ValueError, match="at least one"):
        effective_sample_size(np.array([-np.inf]))


@settings(deadline=None, max_examples=50)
@given(energies, st.floats(0.05, 0.95))
def test_temper_finds_the_lowest_temperature_that_reaches_the_target(energy: np.ndarray, fraction: float) -> None:
    settings = TemperSettings(target_ess_fraction=fraction, max_kelvin=2000.0)
    kelvin = temper(energy, 300.0, settings)
    assert 300.0 <= kelvin <= 2000.0
    target = fraction * len(energy)
    reached = effective_sample_size(log_weights(energy, kelvin))
    if kelvin < 2000.0:
        assert reached >= target * (1 - 1e-9)
    if kelvin > 300.0:
        assert effective_sample_size(log_weights(energy, kelvin * (1 - 1e-6))) < target * (1 + 1e-9)


def test_temper_in_closed_form() -> None:
    # Two conformers, ESS = 2·0.8 ⇔ p² + (1−p)² = 1/1.6 ⇔ p = ¾ ⇔ gap = kT ln 3.
    kelvin = 750.0
    energy = np.array([0.0, np.log(3) * thermal_energy_kj_mol(kelvin)])
    settings = TemperSettings(target_ess_fraction=0.8)
    assert temper(energy, 300.0, settings) == pytest.approx(kelvin, rel=1e-9)
    assert temper(energy, 900.0, settings) == 900.0  # never below the base
    assert temper(energy, 300.0, settings.model_copy(update={"max_kelvin": 500.0})) == 500.0  # capped
    assert temper(energy, 300.0, settings.model_copy(update={"max_kelvin": 200.0})) == 300.0
    # failed conformers do not count in the target
    padded = np.array([energy[0], np.nan, energy[1], np.nan])
    assert temper(padded, 300.0, settings) == pytest.approx(kelvin, rel=1e-9)


def energy_table(energy: list[float], status: list[str]) -> pd.DataFrame:
    n = len(energy)
    table = pd.DataFrame({name: np.zeros(n) for name in ENERGY_COLUMNS})
    return table.assign(conformer=range(n), energy_kj_mol=energy, status=status)


def test_pool_of_two_ensembles() -> None:
    tables = {
        "training": energy_table([0.0, 5.0], ["ok", "ok"]),
        "pretrain": energy_table([2.0, -1e6, 1.0], ["ok", "clash", "ok"]),
    }
    pool = pooled_weights("ala", tables, temperature_kelvin=300.0)
    assert list(pool.columns) == list(WEIGHT_COLUMNS)
    assert pool["source"].tolist() == ["training"] * 2 + ["pretrain"] * 3
    assert pool["conformer"].tolist() == [0, 1, 0, 1, 2]
    assert pool["temperature_kelvin"].unique().tolist() == [300.0]
    expected = log_weights(np.array([0.0, 5.0, 2.0, 1.0]), 300.0)
    np.testing.assert_allclose(pool["log_weight"].to_numpy()[[0, 1, 2, 4]], expected, rtol=1e-12)
    assert pool["log_weight"][3] == -np.inf
    assert np.isnan(pool["energy_kj_mol"][3])
    np.testing.assert_allclose(pool["ess"], effective_sample_size(expected))
    hot = pooled_weights(
        "ala", tables, temperature_kelvin=300.0, temper_settings=TemperSettings(target_ess_fraction=0.9)
    )
    assert hot["temperature_kelvin"][0] > 300.0
    assert hot["ess"][0] == pytest.approx(0.9 * 4)


def test_a_pool_without_energies_or_with_a_broken_table_names_the_system() -> None:
    failed = {"pretrain": energy_table([1.0, np.nan], ["nan", "ok"])}
    with pytest.raises(StageError, match="system leu, ensembles: pretrain"):
        pooled_weights("leu", failed, temperature_kelvin=300.0)
    with pytest.raises(StageError, match="system leu"):
        pooled_weights("leu", {}, temperature_kelvin=300.0)
    with pytest.raises(InputError, match="lacks status"):
        pooled_weights("leu", {"training": failed["pretrain"].drop(columns="status")}, temperature_kelvin=300.0)


samples = hnp.arrays(np.float64, st.integers(1, 120), elements=st.floats(-30, 30))


@settings(deadline=None, max_examples=50)
@given(samples, st.floats(-1e3, 1e3), st.randoms(use_true_random=False))
@example(np.array([1.0] * 18 + [3e-15] + [0.0] * 97), 1e3, Random(1))  # a quartile above the cutoff by rounding alone
def test_smoothing_does_not_see_a_shift_or_the_order(log_ratio: np.ndarray, shift: float, random) -> None:
    smoothed, k = pareto_smoothed(log_ratio)
    shifted, shifted_k = pareto_smoothed(log_ratio + shift)
    # of weights that are equal, or that rounding makes equal, any may be the larger one
    np.testing.assert_allclose(np.sort(np.exp(shifted)), np.sort(np.exp(smoothed)), atol=1e-6)
    # the shape is an estimate from differences of weights: rounding of the shift may move it where they are tiny
    assert np.isnan(k) == np.isnan(shifted_k)
    order = np.array(random.sample(range(len(log_ratio)), len(log_ratio)))
    permuted, permuted_k = pareto_smoothed(log_ratio[order])
    np.testing.assert_allclose(np.sort(np.exp(permuted)), np.sort(np.exp(smoothed)), atol=1e-9)
    assert permuted_k == k or np.isnan(k)


@settings(deadline=None, max_examples=50)
@given(samples)
def test_smoothing_keeps_the_order_and_makes_no_weight_larger_than_the_largest(log_ratio: np.ndarray) -> None:
    smoothed, _ = pareto_smoothed(log_ratio)
    assert np.exp(smoothed).sum() == pytest.approx(1.0)
    order = np.argsort(log_ratio - log_ratio.max(), kind="stable")
    assert (np.diff(smoothed[order]) > -1e-6).all()
    assert np.ptp(smoothed) <= np.ptp(log_ratio) + 1e-6


@pytest.mark.parametrize("shape", [0.0, 0.3, 0.6, 0.9])
def test_the_shape_of_known_tails(shape: float) -> None:
    """Weights (1 − u)^{−k} have a Pareto tail of shape k (exponential at 0 after taking logs): found to 0.1."""
    found = []
    for seed in range(20):
        u = np.random.default_rng(seed).random(4000)
        weight = -np.log1p(-u) if shape == 0 else (1 - u) ** -shape
        found.append(pareto_smoothed(np.log(weight))[1])
    assert np.mean(found) == pytest.approx(shape, abs=0.1)  # the prior draws to 0.5 by 10 of 190
    assert np.std(found) < 0.15


def test_the_fit_of_exact_quantiles() -> None:
    p = (np.arange(400) + 0.5) / 400
    k, scale = fit_pareto_tail(2.0 * np.expm1(-0.4 * np.log1p(-p)) / 0.4)
    assert k == pytest.approx(0.4, abs=0.03)
    assert scale == pytest.approx(2.0, rel=0.05)


def gaussian_samples(spread: float, n: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x from N(0, spread²), the energy of N(0, 1) at 300 K in kJ/mol, and the log-density that x was drawn from."""
    x = spread * np.random.default_rng(seed).normal(size=n)
    log_p = -(x**2) / (2 * spread**2) - np.log(spread * np.sqrt(2 * np.pi))
    return x, 0.5 * x**2 * thermal_energy_kj_mol(300.0), log_p


def test_a_wider_proposal_is_put_right_with_its_error() -> None:
    """From N(0, 1.5²) to N(0, 1): weights exp(−x²/2 + x²/4.5) are bounded, so k < 0, ESS is √(…) in closed form."""
    x, energy, log_p = gaussian_samples(1.5, 4000, 0)
    found = importance_weights(energy, log_p, 300.0)
    assert found.status == "ok"
    assert found.pareto_k < 0.2
    # ESS/n = (E w)²/E w² = √((2 − 1/s²) / s²) for s = 1.5
    assert found.ess / 4000 == pytest.approx(np.sqrt((2 - 1 / 2.25) / 2.25), abs=0.03)
    variance = weighted_mean(found.log_weight, x**2, repeats=300, rng=np.random.default_rng(1))
    assert variance.low < 1.0 < variance.high
    assert variance.high - variance.low == pytest.approx(4 * np.sqrt(2 / found.ess), rel=0.4)
    # F(|x| < 1) − F(|x| > 1) of a standard normal, kT
    inner = np.abs(x) < 1
    difference = free_energy_difference(found.log_weight, inner, ~inner, repeats=300, rng=np.random.default_rng(2))
    assert difference.low < -np.log(0.6827 / 0.3173) < difference.high
    assert difference.high - difference.low < 0.3


def test_bootstrap_intervals_hold_the_truth_as_often_as_they_say() -> None:
    held = 0
    for seed in range(60):
        x, energy, log_p = gaussian_samples(1.3, 300, seed)
        weights = importance_weights(energy, log_p, 300.0).log_weight
        estimate = weighted_mean(weights, x**2, repeats=200, rng=np.random.default_rng(seed))
        held += estimate.low < 1.0 < estimate.high
    assert held >= 48  # 95 % of 60 is 57; the interval of a skewed quantity is a little short


@pytest.mark.parametrize(("spread", "status"), [(1.2, "ok"), (0.4, "heavy_tail")])
def test_a_proposal_that_misses_the_tails_is_refused(spread: float, status: str) -> None:
    """From N(0, s²) with s < 1 weights have a tail of shape k = 1 − s²; at s = 0.4 they have no variance."""
    _, energy, log_p = gaussian_samples(spread, 3000, 3)
    found = importance_weights(energy, log_p, 300.0)
    assert found.status == status
    if status != "ok":
        assert found.pareto_k == pytest.approx(1 - spread**2, abs=0.25)


def test_the_limit_of_k() -> None:
    assert pareto_k_limit(400) == pytest.approx(1 - 1 / np.log10(400))
    assert pareto_k_limit(10_000) == 0.7


def test_failed_conformers_have_no_weight_and_few_are_refused() -> None:
    _, energy, log_p = gaussian_samples(1.2, 400, 4)
    energy[::7], log_p[3] = np.nan, np.nan
    found = importance_weights(energy, log_p, 300.0)
    assert np.isneginf(found.log_weight[::7]).all()
    assert np.isneginf(found.log_weight[3])
    kept = np.isfinite(energy) & np.isfinite(log_p)
    np.testing.assert_array_equal(
        found.log_weight[kept], importance_weights(energy[kept], log_p[kept], 300.0).log_weight
    )
    assert importance_weights(energy[:20], log_p[:20], 300.0).status == "few_conformers"
    nothing = importance_weights(np.full(30, np.nan), log_p[:30], 300.0)
    assert nothing.status == "few_conformers"
    assert np.isneginf(nothing.log_weight).all()


def test_one_weight_above_all_others_is_an_infinite_tail() -> None:
    log_ratio = np.zeros(400)
    log_ratio[7] = 20.0
    smoothed, k = pareto_smoothed(log_ratio)
    assert k == np.inf
    assert np.exp(smoothed[7]) == pytest.approx(1.0, abs=1e-5)


def test_equal_weights_are_left_as_they_are() -> None:
    smoothed, k = pareto_smoothed(np.full(100, 3.0))
    np.testing.assert_allclose(np.exp(smoothed), 0.01)
    assert k == -np.inf


def test_a_state_without_weight_is_infinitely_high() -> None:
    log_weight, none = np.zeros(50), np.zeros(50, dtype=bool)
    estimate = free_energy_difference(log_weight, none, ~none, repeats=20, rng=np.random.default_rng(0))
    assert estimate.value == np.inf
    assert np.isnan(estimate.low)


def test_a_hot_proposal_is_smoothed_without_a_bias_and_truncated_with_one() -> None:
    """Energies of 33 vibrations at 1.2 times the temperature, whose log-densities scatter by a nat."""
    rng = np.random.default_rng(5)
    energy = 1.2 * rng.gamma(16.5, 1.0, 40_000)
    scatter = rng.normal(size=len(energy))
    ratio = -(1 - 1 / 1.2) * energy + scatter - 0.5
    smoothed, k = pareto_smoothed(ratio)
    assert k < 0.7
    assert np.exp(smoothed) @ energy == pytest.approx(16.5, abs=0.1)
    cut = truncated(ratio)
    assert np.exp(cut - logsumexp(cut)) @ energy > 16.6
    assert (cut.min(), cut.max()) == tuple(np.quantile(ratio, [0.01, 0.99]))
