"""Feedback of energies where its answers are known: Gaussians of energies, and a model that always draws too high."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.special import ndtri

from ancdiff.feedback import mean_energy, tilted
from ancdiff.weights import effective_sample_size, logsumexp

ENERGIES = arrays.arrays(np.float64, st.integers(5, 40), elements=st.floats(-50.0, 50.0).map(lambda u: round(u, 6)))


def gaussian(mean: float, spread: float, n: int = 4001) -> np.ndarray:
    """Quantiles of a normal law, in a mixed order."""
    uniform = np.random.default_rng(0).permutation((np.arange(n) + 0.5) / n)
    return mean + spread * ndtri(uniform)


@pytest.mark.parametrize("excess", [0.7, -0.4])
def test_a_gaussian_of_energies_is_shifted_by_the_excess_over_its_variance(excess: float) -> None:
    u = gaussian(-43.0, 4.0)
    moved, slope = tilted(np.zeros(len(u)), u, excess)
    assert slope == pytest.approx(excess / 16.0, rel=0.03)
    assert mean_energy(u, moved) == pytest.approx(mean_energy(u) - excess, abs=1e-6)
    assert logsumexp(moved) == pytest.approx(0.0, abs=1e-12)
    # Of least relative entropy: log-weights are a straight line in the energy.
    assert np.ptp(moved + slope * u) < 1e-9


def test_weights_that_are_not_equal_are_tilted_from_where_they_are() -> None:
    u = gaussian(0.0, 3.0)
    before = -0.1 * u  # e^{−u/10} of a Gaussian: its mean is 0.9 lower
    moved, slope = tilted(before, u, 0.5)
    assert mean_energy(u, before) == pytest.approx(-0.9, abs=0.02)
    assert mean_energy(u, moved) == pytest.approx(mean_energy(u, before) - 0.5, abs=1e-6)
    assert np.ptp(moved - before + slope * u) < 1e-9


@given(ENERGIES, st.floats(-3.0, 3.0), st.floats(-1e3, 1e3))
def test_neither_a_shift_nor_the_order_of_conformers_matters(u: np.ndarray, excess: float, shift: float) -> None:
    moved, slope = tilted(np.zeros(len(u)), u, excess)
    again, same = tilted(np.full(len(u), 2.0), (u + shift)[::-1], excess)
    assert same == pytest.approx(slope, abs=1e-6)
    np.testing.assert_allclose(again[::-1], moved, atol=1e-4)


@given(ENERGIES, st.floats(-1e4, 1e4))
def test_half_of_the_effective_conformers_stay(u: np.ndarray, excess: float) -> None:
    moved, slope = tilted(np.zeros(len(u)), u, excess)
    assert effective_sample_size(moved) >= 0.5 * len(u) * (1 - 1e-9)
    assert slope * excess >= 0
    assert abs(slope) <= 1.0


def test_energies_that_are_alike_are_left_alone() -> None:
    moved, slope = tilted(np.array([0.0, -1.0, -2.0]), np.full(3, 7.0), 1.0)
    assert slope == 0.0
    np.testing.assert_allclose(moved - moved[0], [0.0, -1.0, -2.0])


def test_one_overlap_does_not_make_a_mean() -> None:
    u = gaussian(0.0, 1.0)
    broken = u.copy()
    broken[:5] = 1e6
    assert broken.mean() > 1000
    assert mean_energy(broken) == pytest.approx(mean_energy(u), abs=0.05)
    # A conformer without weight does not count, wherever it is.
    weight = np.where(broken > 1e5, -700.0, 0.0)
    assert mean_energy(broken, weight) == pytest.approx(mean_energy(u[5:]), abs=0.01)


def test_a_mean_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="needs conformers"):
        mean_energy(np.zeros(0))


@pytest.mark.parametrize(("feedback", "left"), [(True, 0.0), (False, 0.8)])
def test_rounds_of_a_model_that_draws_too_high_end_at_the_pool(feedback: bool, left: float) -> None:
    """The model draws what it has learned with variances 5 % too wide: 0.8 kT of 16 in the mean."""
    pool = np.random.default_rng(1).gamma(16.0, 1.0, 20_000)  # energies of 32 vibrations
    learned, drawn = np.zeros(len(pool)), 1.05 * pool
    for _ in range(4):
        excess = mean_energy(drawn) - mean_energy(pool, learned) if feedback else 0.0
        learned, _ = tilted(np.zeros(len(pool)), pool, excess)
        chosen = np.random.default_rng(2).choice(len(pool), 20_000, p=np.exp(learned))
        drawn = 1.05 * pool[chosen]
    assert mean_energy(drawn) - mean_energy(pool) == pytest.approx(left, abs=0.1)
