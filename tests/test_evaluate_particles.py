"""Metrics of particles on ensembles with known answers: exact draws score their floor, spoiled ones do not."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from ancdiff.config import Config, DenoiserSettings, EvaluateSettings, StageConfig, SystemSettings
from ancdiff.denoiser.network import Denoiser
from ancdiff.evaluate.comparison import table
from ancdiff.evaluate.equivariance import equivariance_error
from ancdiff.evaluate.measure import Energies, EnsembleData
from ancdiff.evaluate.particles import measure_particles
from ancdiff.evaluate.resampling import Sampling, independent
from ancdiff.evaluate.shapes import descriptors, nearest, superpose_clouds
from ancdiff.molecules import Ensemble
from ancdiff.particles import molecule_of_settings
from ancdiff.particles.laws import draw_clouds
from ancdiff.particles.potentials import exact_of_pair, potential_of

SETTINGS = EvaluateSettings(bootstrap_repeats=40, floor_draws=4, shape_conformers=24, shape_candidates=1)


def turned(cloud: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The same cloud properly turned, shifted and permuted."""
    q, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    q[:, 0] *= np.linalg.det(q)
    return (cloud @ q + rng.normal(size=3))[rng.permutation(len(cloud))]


# ---------------------------------------------------------------------------------------------- shapes


@pytest.mark.parametrize("points", [2, 3, 8, 20])
def test_a_turned_and_permuted_cloud_is_found_again(points: int) -> None:
    rng = np.random.default_rng(points)
    for _ in range(10):
        cloud = rng.normal(size=(points, 3))
        found = superpose_clouds(turned(cloud, rng), cloud, rng)
        assert found.rmsd < 1e-6
        assert found.chamfer < 1e-6


def test_a_mirror_image_is_not_the_same_shape() -> None:
    rng = np.random.default_rng(1)
    helix = np.array([[np.cos(t), np.sin(t), 0.4 * t] for t in np.linspace(0, 9, 14)])
    assert superpose_clouds(turned(helix, rng), helix, rng).rmsd < 1e-6
    assert superpose_clouds(helix * [1, 1, -1], helix, rng).rmsd > 0.1


def test_known_distances() -> None:
    rng = np.random.default_rng(2)
    pair = np.array([[-0.5, 0, 0], [0.5, 0, 0]])
    longer = superpose_clouds(pair, 1.4 * pair, rng)  # each end moves 0.2
    assert longer.rmsd == pytest.approx(0.2)
    assert longer.chamfer == pytest.approx(0.2)


def test_the_nearest_of_many_is_found() -> None:
    rng = np.random.default_rng(3)
    among = rng.normal(size=(50, 9, 3))
    asked = np.stack([turned(among[k], rng) for k in (4, 17)]) + 0.01 * rng.normal(size=(2, 9, 3))
    chamfer, rmsd = nearest(asked, among, 3, rng)
    assert (rmsd < 0.03).all()
    assert (chamfer <= rmsd * 1.5).all()
    assert_allclose(descriptors(asked[:1]), descriptors(turned(asked[0], rng)[None]), atol=1e-12)


# ---------------------------------------------------------------------------------------------- equivariance


def ensemble_of(system: SystemSettings, positions: np.ndarray) -> Ensemble:
    return Ensemble(molecule_of_settings("x", system), positions.astype(np.float32))


POINTS = SystemSettings.model_validate({"points": {"law": "mixture", "n_points": 9}})


def test_the_network_is_equivariant_to_turns_shifts_and_permutations_of_particles() -> None:
    torch.manual_seed(0)
    denoiser = Denoiser(DenoiserSettings(features=32, pair_features=16, layers=3), sigma_data_nm=0.15)
    clouds = 0.1 * np.random.default_rng(0).normal(size=(10, 9, 3))
    ensemble = ensemble_of(POINTS, clouds)
    generator = torch.Generator().manual_seed(1)
    assert equivariance_error(denoiser, ensemble, torch.float64, generator) < 1e-12
    assert equivariance_error(denoiser, ensemble, torch.float32, generator) < 1e-5
    assert next(denoiser.parameters()).dtype == torch.float32


class Broken(Denoiser):
    """Adds a push that neither turns nor swaps with its input."""

    push = torch.zeros(9, 3)

    def blocks(self, graphs, noisy_nm, sigma_nm):  # type: ignore[no-untyped-def]
        (clean,) = super().blocks(graphs, noisy_nm, sigma_nm)
        return [clean + self.push.to(clean.dtype)]


@pytest.mark.parametrize("kind", ["a fixed direction", "the first particle"])
def test_a_broken_model_is_caught(kind: str) -> None:
    torch.manual_seed(0)
    broken = Broken(DenoiserSettings(features=8, pair_features=8, layers=1), sigma_data_nm=0.15)
    broken.push = torch.zeros(9, 3)
    broken.push[0 if kind == "the first particle" else slice(None), 2] = 1e-3
    ensemble = ensemble_of(POINTS, 0.1 * np.random.default_rng(0).normal(size=(10, 9, 3)))
    assert equivariance_error(broken, ensemble, torch.float64, torch.Generator().manual_seed(1)) > 1e-4


# ---------------------------------------------------------------------------------------------- a whole system


def value(measured: object, metric: str, ensemble: str, against: str = "", basin: str = "") -> tuple[float, float]:
    rows = measured[  # type: ignore[index]
        (measured["metric"] == metric)  # type: ignore[index]
        & (measured["ensemble"] == ensemble)  # type: ignore[index]
        & (measured["against"] == against)  # type: ignore[index]
        & (measured["basin"] == basin)  # type: ignore[index]
    ]
    assert len(rows) == 1, (metric, ensemble, against, basin)
    return float(rows["value"].iloc[0]), float(rows["floor"].iloc[0])


def stage(system: SystemSettings, kelvin: float) -> StageConfig:
    """The sections that `evaluate` is handed of this one system."""
    sections = {"systems": {"x": system}, "forcefield": {"temperature_kelvin": kelvin}, "evaluate": SETTINGS}
    return StageConfig(Config.model_validate(sections).model_dump(mode="json", include=set(sections)))


def reference_like(name: str, system: SystemSettings, positions: np.ndarray, u: np.ndarray | None) -> EnsembleData:
    n = len(positions)
    sampling = Sampling(np.arange(n) // 10, np.arange(n) // 10 % 2) if name == "reference" else independent(n)
    energies = None if u is None else Energies(u, sampling, 0)
    return EnsembleData(name, ensemble_of(system, positions), sampling, 0, energies)


def test_clouds_of_the_law_score_their_floor_and_others_do_not() -> None:
    rng = np.random.default_rng(5)
    assert POINTS.points is not None

    def clouds(n: int) -> np.ndarray:
        return 0.1 * draw_clouds(POINTS.points, n, rng)  # type: ignore[arg-type]

    data = [
        reference_like("reference", POINTS, clouds(400), None),
        reference_like("pretrain", POINTS, clouds(300), None),
        reference_like("eba_round1", POINTS, 1.25 * clouds(300), None),
    ]
    measured = table(measure_particles("x", data, stage(POINTS, 300.0), {}))
    for metric in ("chamfer_nm", "shape_rmsd_nm", "pair_distance_w1_nm"):
        good, floor = value(measured, metric, "pretrain", "reference")
        bad, _ = value(measured, metric, "eba_round1", "reference")
        itself, _ = value(measured, metric, "reference", "reference")
        assert itself == floor > 0
        assert bad > 1.15 * floor, metric
        assert good < (3 * floor if metric == "pair_distance_w1_nm" else 1.12 * floor), metric
    assert "energy_w1_kt" not in set(measured["metric"])
    assert "population" not in set(measured["metric"])


def test_exact_draws_of_the_double_well_have_its_populations_and_energies() -> None:
    system = SystemSettings.model_validate({"exact": {"potential": "double_well", "length_nm": 0.05}})
    assert system.exact is not None
    form = potential_of(system.exact)
    exact = exact_of_pair(form)
    assert exact is not None
    rng = np.random.default_rng(6)

    def draws(n: int, tilt: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
        d = np.linspace(0.01, 9.0, 20_000)
        density = d**2 * np.exp(-form.pair(d**2)[0] - tilt * (d > 4))
        chosen = rng.choice(d, size=n, p=density / density.sum())
        x = np.zeros((n, 2, 3))
        x[:, 1] = chosen[:, None] * np.array([0.6, 0.0, 0.8])
        return 0.05 * x, form.pair(chosen**2)[0]

    data = [
        reference_like("reference", system, *draws(800)),
        reference_like("pretrain", system, *draws(800)),
        reference_like("eba_round1", system, *draws(800, tilt=0.7)),
    ]
    measured = table(measure_particles("x", data, stage(system, 300.0), {}))
    good, floor = value(measured, "population_distance", "pretrain", "exact")
    assert floor == pytest.approx(np.sqrt(exact.populations[0] * exact.populations[1] / 800))
    assert good < 4 * floor
    # e^{0.7} times less of the long well: P_long = 0.187 instead of 0.318
    shifted = exact.populations[1] * np.exp(-0.7)
    missed = exact.populations[1] - shifted / (shifted + exact.populations[0])
    assert value(measured, "population_distance", "eba_round1", "exact")[0] == pytest.approx(missed, abs=0.045)
    difference, _ = value(measured, "free_energy_difference_kt", "eba_round1", "exact", "short-long")
    size, _ = value(measured, "free_energy_difference_error_kt", "eba_round1", "exact")
    assert size == pytest.approx(abs(difference))
    assert difference == pytest.approx(-0.7, abs=0.3)
    assert abs(value(measured, "mean_energy_kt", "pretrain", "exact")[0]) < 4 * exact.energy_spread / np.sqrt(800)
    assert value(measured, "energy_w1_kt", "pretrain", "reference")[0] < 0.25
    assert value(measured, "population", "reference", basin="short")[0] == pytest.approx(0.68, abs=0.05)


def test_another_temperature_has_other_exact_populations() -> None:
    system = SystemSettings.model_validate({"exact": {"potential": "double_well"}})
    assert system.exact is not None
    rng = np.random.default_rng(7)
    data = [reference_like("reference", system, 0.3 * rng.normal(size=(40, 2, 3)), None)]
    cold, hot = (
        value(
            table(measure_particles("x", data, stage(system, kelvin), {})),
            "population_distance", "reference", "exact",
        )[0]
        for kelvin in (300.0, 600.0)
    )  # fmt: skip
    assert cold != hot
