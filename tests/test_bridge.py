"""Bridge sampling between biased MD and a model's samples, where the answer is known by quadrature."""

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.special import expit

from ancdiff.artifacts import read_ensemble
from ancdiff.basins import ramachandran
from ancdiff.bridge import bias_of_temperature, find_bridge, torsion_waves
from ancdiff.config import LineSettings
from ancdiff.errors import StageError
from ancdiff.molecules import Ensemble
from ancdiff.origins import BUNDLED_MD
from ancdiff.particles import particle_molecule

GRID = np.linspace(-np.pi, np.pi, 2001)[:-1]


def waves(angle: np.ndarray) -> np.ndarray:
    return np.column_stack([f(k * angle) for k in (1, 2, 3) for f in (np.cos, np.sin)])


def energy(angle: np.ndarray) -> np.ndarray:
    """Two wells of different depth and a barrier of 6 kT, in kT."""
    return -3.0 * np.cos(2 * angle) - 0.5 * np.cos(angle)


def bias(angle: np.ndarray) -> np.ndarray:
    """What is wrong with the MD: ln of 10 between the wells."""
    return 1.15 * np.cos(angle + 0.3)


def model(angle: np.ndarray) -> np.ndarray:
    """ln of what the model draws from, not normalised: the MD's density, learned badly."""
    return -0.8 * energy(angle) + bias(angle) + 0.3 * np.sin(3 * angle)


def draw(log_density: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    weight = np.exp(log_density - log_density.max())
    return rng.choice(GRID, size=n, p=weight / weight.sum()) + (GRID[1] - GRID[0]) * rng.random(n)


def union(n_md: int, n_model: int, seed: int, noise: float = 1.3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """r, where from, angle. Ratios take a random number a that is N(0, 1) for samples and N(τ, 1) for frames."""
    rng = np.random.default_rng(seed)
    angle = np.concatenate([draw(bias(GRID) - energy(GRID), n_md, rng), draw(model(GRID), n_model, rng)])
    from_md = np.arange(n_md + n_model) < n_md
    a = rng.standard_normal(len(angle)) + noise * from_md
    log_q = model(angle) - np.log(np.exp(model(GRID)).mean())
    return -energy(angle) - log_q + noise * a - 0.5 * noise**2, from_md, angle


def bridged_log_weights(ratio: np.ndarray, from_md: np.ndarray, features: np.ndarray) -> np.ndarray:
    return find_bridge(ratio, from_md, features).log_weights(ratio, features)


def exact_mean() -> float:
    weight = np.exp(-energy(GRID))
    return float(weight @ np.cos(GRID) / weight.sum())


def mean(log_weight: np.ndarray, angle: np.ndarray) -> float:
    weight = np.exp(log_weight - log_weight.max())
    return float(weight @ np.cos(angle) / weight.sum())


def test_the_union_has_the_boltzmann_mean_though_both_ends_are_wrong() -> None:
    found = []
    for seed in range(20):
        ratio, from_md, angle = union(1500, 1500, seed)
        found.append(mean(bridged_log_weights(ratio, from_md, waves(angle)), angle))
    _, from_md, angle = union(4000, 4000, 0)
    assert abs(np.cos(angle[from_md]).mean() - exact_mean()) > 0.3
    assert abs(np.cos(angle[~from_md]).mean() - exact_mean()) > 0.3
    assert np.mean(found) == pytest.approx(exact_mean(), abs=0.05)  # 0.015 of it by chance
    assert np.std(found) < 0.12


def test_frames_whose_ratios_are_not_known_have_the_boltzmann_mean_too() -> None:
    found = []
    for seed in range(20):
        ratio, from_md, angle = union(1500, 1500, seed)
        others = draw(bias(GRID) - energy(GRID), 20_000, np.random.default_rng(100 + seed))
        found.append(mean(find_bridge(ratio, from_md, waves(angle)).md_log_weights(waves(others)), others))
    assert np.mean(found) == pytest.approx(exact_mean(), abs=0.05)
    assert np.std(found) < 0.12


def test_frames_may_be_chosen_by_their_torsions() -> None:
    """Ten times as many frames from the well that the MD has seldom been to: it helps, and biases nothing."""
    found: dict[str, list[float]] = {"chosen": [], "union": [], "unaware": [], "plain": []}
    for seed in range(20):
        rng = np.random.default_rng(100 + seed)
        others = draw(bias(GRID) - energy(GRID), 20_000, rng)
        ratio, from_md, angle = union(6000, 600, seed)
        rare = np.cos(angle) < 0
        taken = ~from_md | (rng.random(len(angle)) < np.where(rare, 0.5, 0.05))
        r, md, x = ratio[taken], from_md[taken], angle[taken]
        log_share = np.log(np.where(np.cos(x) < 0, 0.5, 0.05))
        bridge = find_bridge(r, md, waves(x), log_share)
        found["union"].append(mean(bridge.log_weights(r, waves(x), log_share), x))
        found["chosen"].append(mean(bridge.md_log_weights(waves(others)), others))
        found["unaware"].append(mean(find_bridge(r, md, waves(x)).md_log_weights(waves(others)), others))
        alike = ~from_md | (np.cumsum(from_md) <= md.sum())  # as many, as they come
        plain = find_bridge(ratio[alike], from_md[alike], waves(angle[alike]))
        found["plain"].append(mean(plain.md_log_weights(waves(others)), others))
    for how in ("chosen", "union"):
        assert np.mean(found[how]) == pytest.approx(exact_mean(), abs=0.05)
    assert abs(np.mean(found["unaware"]) - exact_mean()) > 0.3
    assert np.std(found["chosen"]) < 0.8 * np.std(found["plain"])


def test_samples_where_no_frame_was_taken_have_their_own_weights() -> None:
    ratio, from_md, angle = union(400, 400, 1)
    nowhere = ~from_md & (np.sin(angle) > 0.9)
    log_share = np.where(np.sin(angle) > 0.9, -np.inf, 0.0)
    kept = nowhere | (np.sin(angle) <= 0.9)
    r, md, x, s = ratio[kept], from_md[kept], angle[kept], log_share[kept]
    weights = find_bridge(r, md, waves(x), s).log_weights(r, waves(x), s)
    assert np.isfinite(weights).all()
    assert (weights[np.isinf(s)] == r[np.isinf(s)]).all()
    assert (weights <= r + 1e-12).all()


def test_weights_of_the_union_scatter_less_than_those_of_the_samples() -> None:
    bridged, alone = [], []
    for seed in range(20):
        ratio, from_md, angle = union(400, 400, seed, noise=2.0)
        bridged.append(mean(bridged_log_weights(ratio, from_md, waves(angle)), angle))
        alone.append(mean(ratio[~from_md], angle[~from_md]))
    errors = [np.sqrt(np.mean((np.array(means) - exact_mean()) ** 2)) for means in (bridged, alone)]
    assert errors[0] < 0.7 * errors[1]


def test_without_torsions_it_is_bennetts_acceptance_ratio() -> None:
    """Σ_m 1/(1 + n_m/n_q e^{r − c}) = Σ_q 1/(1 + n_q/n_m e^{c − r}) at c = ln Z, and Σ_q w/(n_q …) agrees with it."""
    ratio, from_md, _ = union(300, 500, 3)
    log_weight = bridged_log_weights(ratio, from_md, np.zeros((800, 0)))
    ln_odds = np.log(300 / 500)

    def balance(c: float) -> float:
        return expit(-(ln_odds + ratio[from_md] - c)).sum() - expit(ln_odds + ratio[~from_md] - c).sum()

    c: float = brentq(balance, -50.0, 50.0)  # pyright: ignore[reportAssignmentType]
    expected = -np.logaddexp(ln_odds - c, -ratio)
    assert np.ptp(log_weight - expected) < 1e-4


def test_weights_are_bounded_where_the_md_has_been() -> None:
    """One sample with a ratio beyond all others gets no more than the MD's bias at its place allows."""
    ratio, from_md, angle = union(400, 400, 1)
    ratio[-1] += 60.0
    weight = np.exp(bridged_log_weights(ratio, from_md, waves(angle)))
    assert weight[-1] / weight.sum() < 0.05
    assert np.exp(ratio[-1] - np.logaddexp.reduce(ratio[~from_md])) > 0.99


def test_a_constant_and_the_order_change_nothing() -> None:
    ratio, from_md, angle = union(100, 150, 2)
    weights = bridged_log_weights(ratio, from_md, waves(angle))
    order = np.random.default_rng(0).permutation(250)
    other = bridged_log_weights(ratio[order] + 7.0, from_md[order], waves(angle)[order])
    assert np.allclose(weights[order] - weights.max(), other - other.max(), atol=1e-3)


@pytest.mark.parametrize("side", [True, False])
def test_a_bridge_needs_both_ends(side: bool) -> None:
    with pytest.raises(ValueError, match="two ends"):
        find_bridge(np.zeros(4), np.full(4, side), np.zeros((4, 2)))


MODES = 33  # of a cluster of 13 particles, or nearly: a mean energy of 16.5 kT


def hot_frames_and_samples(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """r, where from, and βE of harmonic modes: frames at 1.2 times the temperature, and a model a little hotter yet.

    ln ω has the variance σ² = 1.3 − 0.02 (βE − 20): it is ln q − σ²/2 + σa for paths from a frame, and for those of
    samples, which ω itself weighs, ln q + σ²/2 + σa.
    """
    rng = np.random.default_rng(seed)
    from_md = np.arange(9000) < 7500
    u = rng.gamma(0.5 * MODES, np.where(from_md, 1.2, 1.25))
    variance = 1.3 - 0.02 * (u - 20.0)
    path = np.sqrt(variance) * rng.standard_normal(len(u)) + np.where(from_md, -0.5, 0.5) * variance
    return -u - (-u / 1.25 + path), from_md, u


def test_the_temperature_of_md_is_found_and_its_frames_have_the_boltzmann_mean() -> None:
    found, by_bridge, by_ratio, by_samples = [], [], [], []
    for seed in range(20):
        ratio, from_md, u = hot_frames_and_samples(seed)
        slope = bias_of_temperature(ratio, from_md, u)
        found.append(1.0 / (1.0 - slope))
        for means, weight, e in (
            (by_bridge, -slope * u[from_md], u[from_md]),
            # As if drawn by the model, with what its energies are too high by taken off: its paths' noise is left.
            (by_ratio, ratio[from_md] + (1 / 1.2 - 1 / 1.25) * u[from_md], u[from_md]),
            (by_samples, ratio[~from_md], u[~from_md]),
        ):
            means.append(float(np.average(e, weights=np.exp(weight - weight.max()))))
    exact = 0.5 * MODES
    assert np.mean(found) == pytest.approx(1.2, abs=0.005)
    assert np.std(found) < 0.02
    assert np.mean(by_bridge) == pytest.approx(exact, abs=0.1)
    assert np.mean(by_ratio) < exact - 0.2
    assert np.std(by_bridge) < 0.5 * np.std(by_samples)


def test_md_without_differences_of_energy_has_no_temperature_of_its_own() -> None:
    assert bias_of_temperature(np.zeros(10), np.arange(10) < 5, np.full(10, 3.0)) == 0.0


def test_waves_of_a_peptide() -> None:
    ensemble = read_ensemble(BUNDLED_MD / "ala" / "training.dcd", name="ala")
    few = Ensemble(ensemble.molecule, ensemble.positions_nm[:5])
    found = torsion_waves(few)
    phi, psi = ramachandran(few)[1][:, 0].T
    assert found.shape == (5, 24)  # 12 waves in a half plane of (i, j)
    squares = (found.reshape(5, 12, 2) ** 2).sum(axis=2)
    assert np.allclose(squares, 1.0)
    for wanted in (np.cos(phi), np.sin(psi), np.cos(phi + psi), np.sin(2 * phi + psi), np.cos(3 * psi)):
        assert min(np.abs(found[:, k] - wanted).max() for k in range(24)) < 1e-6


def test_particles_have_no_torsions() -> None:
    with pytest.raises(StageError, match="no backbone torsions"):
        torsion_waves(Ensemble(particle_molecule("dw4", "dw4", 4), np.zeros((2, 4, 3), dtype=np.float32)))


@pytest.mark.parametrize("wrong", [{"replay_models": None}, {"temper": {}}])
def test_settings_that_a_bridge_cannot_have(wrong: dict[str, object]) -> None:
    asked = {"anchor_update": "bridge", "replay_models": 1} | wrong
    with pytest.raises(ValueError, match="replay_models: 1"):
        LineSettings.model_validate(asked)
