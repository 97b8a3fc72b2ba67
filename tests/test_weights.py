"""Boltzmann weights against closed forms and the properties that define them."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ancdiff.config import TemperSettings
from ancdiff.errors import InputError, StageError
from ancdiff.molecules import ENERGY_COLUMNS
from ancdiff.units import thermal_energy_kj_mol
from ancdiff.weights import WEIGHT_COLUMNS, effective_sample_size, log_weights, pooled_weights, temper

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
