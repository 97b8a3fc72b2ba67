"""Systems of particles: laws with known moments, potentials with known minima, tempering against quadrature."""

from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose

from ancdiff.artifacts import read_molecule, write_topology
from ancdiff.config import ExactSettings, PointsSettings, SystemSettings, TemperingSettings, parse_config
from ancdiff.dataset.features import molecule_features
from ancdiff.errors import ConfigError, StageError
from ancdiff.exact_systems import PARTICLES
from ancdiff.forcefield.exact import ExactScorer
from ancdiff.particles import REDUCED_ENERGY_KJ_MOL, molecule_of_settings, particle_molecule
from ancdiff.particles.data import exact_data, point_data
from ancdiff.particles.laws import draw_clouds
from ancdiff.particles.potentials import exact_of_pair, potential_of
from ancdiff.particles.tempering import chosen_by_shares, parallel_tempering

SHORT = TemperingSettings(walkers=32, equilibration_steps=200, steps=800, steps_per_frame=20, hotter_factors=(1.6,))


def potential(name: str, **parameters: float):
    return potential_of(ExactSettings(potential=name, parameters=parameters))  # type: ignore[arg-type]


# ---------------------------------------------------------------------------------------------- the molecule


def test_every_particle_is_told_the_same_thing() -> None:
    features = molecule_features(particle_molecule("cloud", "mixture", 7))
    for name in ("atom_type", "residue_type", "atom_name", "residue_of_atom"):
        assert len(np.unique(getattr(features, name))) == 1, name
    assert len(np.unique(features.residue_position, axis=0)) == 1
    assert len(np.unique(features.bond_distance[~np.eye(7, dtype=bool)])) == 1
    assert len(features.torsions) == len(features.stereocentres) == 0


@pytest.mark.parametrize("kind", ["mixture", "torus", *PARTICLES])
def test_particles_come_back_from_a_pdb_file(kind: str, tmp_path: Path) -> None:
    molecule = particle_molecule("cloud", kind, 55)
    write_topology(tmp_path / "cloud" / "topology.pdb", molecule, np.random.default_rng(0).normal(size=(55, 3)))
    found = read_molecule(tmp_path / "cloud" / "topology.pdb")
    assert (found.atom_names, found.elements, found.residue_names) == (
        molecule.atom_names,
        molecule.elements,
        molecule.residue_names,
    )
    assert len(found.bonds) == len(found.stereocentres) == 0


def test_systems_of_one_model_are_told_apart() -> None:
    kinds = {name: molecule_features(particle_molecule("x", name, n)).atom_type[0] for name, n in PARTICLES.items()}
    assert len(set(kinds.values())) == len(kinds)


# ---------------------------------------------------------------------------------------------- laws


def test_the_mixture_has_its_two_gaussians() -> None:
    means = ((-3.0, 0.0, 0.0), (3.0, 1.0, 0.0))
    settings = PointsSettings(law="mixture", n_points=50, n_clouds=400, means=means)
    points = draw_clouds(settings, 400, np.random.default_rng(0)).reshape(-1, 3)
    right = points[:, 0] > 0
    # 20,000 points: standard errors 0.0035 of the share, 0.01 of a mean, 0.01 of a standard deviation.
    assert right.mean() == pytest.approx(0.5, abs=0.015)
    assert_allclose(points[right].mean(axis=0), means[1], atol=0.04)
    assert_allclose(points[~right].mean(axis=0), means[0], atol=0.04)
    assert_allclose(points[right].std(axis=0), 1.0, atol=0.04)


def test_points_of_one_cloud_are_independent() -> None:
    settings = PointsSettings(law="mixture", n_points=2, means=((-5.0, 0.0, 0.0), (5.0, 0.0, 0.0)))
    sides = draw_clouds(settings, 4000, np.random.default_rng(1))[:, :, 0] > 0
    assert np.mean(sides[:, 0] == sides[:, 1]) == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("law", ["sphere", "helix", "torus"])
def test_points_lie_on_their_shape(law: str) -> None:
    settings = PointsSettings(law=law, n_points=40, radius=2.0, jitter=0.0)  # type: ignore[arg-type]
    x, y, z = draw_clouds(settings, 100, np.random.default_rng(2)).reshape(-1, 3).T
    out = np.hypot(x, y)
    if law == "sphere":
        assert_allclose(np.sqrt(out**2 + z**2), 2.0, atol=1e-12)
        assert np.mean(z**2) == pytest.approx(4 / 3, rel=0.05)  # uniform: a third of R² along each axis
    elif law == "helix":
        assert_allclose(out, 2.0, atol=1e-12)
        turn = np.arctan2(y, x) / (2 * np.pi)
        assert_allclose((z / settings.pitch - turn + 0.5) % 1.0, 0.5, atol=1e-9)  # right-handed
        assert 0 <= z.min() < 0.1 * z.max() <= settings.pitch * settings.turns
    else:
        assert_allclose((out - 2.0) ** 2 + z**2, settings.tube_radius**2, atol=1e-12)
        # the outer half of the surface is larger: ⟨cos θ⟩ = r/2R, whereas 0 for θ uniform
        assert np.mean((out - 2.0) / settings.tube_radius) == pytest.approx(0.7 / 4, abs=0.03)


def test_data_and_held_out_clouds_differ_and_stay(tmp_path: Path) -> None:
    settings = PointsSettings(law="helix", n_points=6, n_clouds=90)
    one, same, other = (point_data(settings, np.random.default_rng(s)) for s in (1, 1, 2))
    assert_allclose(one.positions_nm, same.positions_nm)
    assert not np.allclose(one.positions_nm, other.positions_nm)
    assert_allclose(one.positions_nm.mean(axis=1), 0.0, atol=1e-7)
    assert one.table["replica"].nunique() == 40


# ---------------------------------------------------------------------------------------------- potentials


def test_known_energies() -> None:
    pair = np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 4.0]])
    assert potential("double_well").energy(pair) == pytest.approx(0.0)  # at d₀
    # The two minima of −4x² + 0.9x⁴ lie at x² = 4/1.8, at −4²/(4·0.9); the tilt adds a x.
    x = np.sqrt(4 / 1.8)
    for sign in (-1, 1):
        at = pair * (1 + sign * x / 4)
        assert potential("double_well").energy(at) == pytest.approx(-16 / 3.6 + sign * 0.8 * x)
        assert potential("double_well", a=0.0).energy(at) == pytest.approx(-16 / 3.6)
    # Two particles at r_m: −ε and the confinement ½ k · 2 · (r_m/2)².
    lj = potential("lj13")
    far = np.zeros((13, 3))
    far[:, 0] = 1e3 * np.arange(13)  # no interaction but confinement
    confinement = 0.5 * np.sum((far - far.mean(axis=0)) ** 2)
    assert lj.energy(far) == pytest.approx(confinement, rel=1e-12)


def test_the_icosahedron_is_the_known_minimum_of_lj13() -> None:
    golden = (1 + 5**0.5) / 2
    corners = [(0, s, t * golden) for s in (-1, 1) for t in (-1, 1)]
    shell = np.array([np.roll(c, k) for c in corners for k in range(3)], dtype=np.float64)
    positions = np.concatenate([np.zeros((1, 3)), shell / np.linalg.norm(shell[0])])
    lj = potential("lj13", oscillator=1e-9)
    lowest = min(float(lj.energy(scale * positions)) for scale in np.linspace(0.9, 1.0, 400))
    assert lowest == pytest.approx(2 * -44.326801, abs=0.01)  # Cambridge Cluster Database, −44.326801 ε


@pytest.mark.parametrize("name", list(PARTICLES))
def test_forces_are_the_gradient_and_openmm_agrees(name: str) -> None:
    settings = ExactSettings(potential=name, length_nm=0.07)  # type: ignore[arg-type]
    form = potential_of(settings)
    scorer = ExactScorer(particle_molecule("x", name, form.n_particles), settings)
    x = form.starts(3, np.random.default_rng(0))
    energy, force = form.energy_and_force(x)
    assert energy.shape == (3,)
    assert_allclose(energy, [form.energy(one) for one in x], rtol=1e-12)
    step = np.zeros_like(x)
    step[:, 1, 2] = 1e-5
    numeric = -(form.energy(x + step) - form.energy(x - step)) / 2e-5
    assert_allclose(force[:, 1, 2], numeric, rtol=1e-6, atol=1e-6)
    assert_allclose(force.sum(axis=1), 0.0, atol=1e-9)
    for k in range(3):
        positions_nm = 0.07 * x[k]
        assert scorer.energy_kj_mol(positions_nm) == pytest.approx(REDUCED_ENERGY_KJ_MOL * energy[k], rel=1e-10)
        assert_allclose(
            scorer.forces_kj_mol_nm(positions_nm), REDUCED_ENERGY_KJ_MOL / 0.07 * force[k], rtol=1e-9, atol=1e-8
        )


def test_wells_count_the_long_pairs() -> None:
    dw4 = potential("dw4")
    x = np.array([[0.0, 0, 0], [2, 0, 0], [0, 2, 0], [0, 0, 9]])
    assert dw4.well_names == tuple(f"long{k}" for k in range(7))
    assert dw4.wells(x) == 3
    assert potential("double_well").well_names == ("short", "long")
    assert potential("lj13").well_names == ("all",)


def test_quadrature_against_a_finer_rule_and_the_boltzmann_ratio() -> None:
    from scipy.integrate import quad

    form = potential("double_well")

    def density(d: float) -> float:
        return d**2 * float(np.exp(-form.pair(np.array([d**2]))[0][0] / 1.5))

    short, long = quad(density, 1e-9, 4.0)[0], quad(density, 4.0, 9.0)[0]
    exact = exact_of_pair(form, 1.5)
    assert exact is not None
    assert exact.populations[0] == pytest.approx(short / (short + long), abs=1e-6)
    assert exact_of_pair(potential("dw4")) is None


# ---------------------------------------------------------------------------------------------- tempering


def test_tempering_has_the_exact_populations_and_energies() -> None:
    form = potential("double_well")
    exact = exact_of_pair(form, 1.5)
    made = parallel_tempering(form, SHORT, np.random.default_rng(3), temperature=1.5)
    assert exact is not None
    for values, truth in (
        ((form.wells(made.frames) == 0).mean(axis=1), exact.populations[0]),
        (made.energies.mean(axis=1), exact.mean_energy),
    ):
        error = values.std(ddof=1) / np.sqrt(len(values))
        assert abs(values.mean() - truth) < 4 * error
        assert error < 0.05 * max(1.0, abs(truth))  # the test can fail: the error bars are small
    assert_allclose(made.energies, form.energy(made.frames), atol=1e-9)
    assert_allclose(made.frames.mean(axis=2), 0.0, atol=1e-9)


def test_tempering_of_many_particles_obeys_the_virial_theorem() -> None:
    """⟨Σ x·∂U/∂x⟩ = 3(N − 1) kT for centred coordinates: a known answer where there is no quadrature."""
    form = potential("dw4")
    made = parallel_tempering(form, SHORT, np.random.default_rng(4), temperature=1.3)
    virial = -np.sum(made.frames * form.energy_and_force(made.frames)[1], axis=(-1, -2)).mean(axis=1)
    error = virial.std(ddof=1) / np.sqrt(len(virial))
    assert abs(virial.mean() - 9 * 1.3) < 4 * error
    assert error < 1.6


def test_shares_are_kept_and_too_few_frames_are_told() -> None:
    wells = np.array([0] * 50 + [1] * 20)
    chosen = chosen_by_shares(wells, (1.0, 3.0), 20, ("short", "long"), np.random.default_rng(0), where="x")
    assert np.bincount(wells[chosen]).tolist() == [5, 15]
    assert len(set(chosen)) == 20
    assert (np.diff(chosen) > 0).all()
    with pytest.raises(StageError, match="well 'long' has 20 frames, 30 are wanted"):
        chosen_by_shares(wells, (1.0, 3.0), 40, ("short", "long"), np.random.default_rng(0), where="x")


def test_training_data_have_their_shares_and_the_reference_is_checked() -> None:
    settings = ExactSettings(potential="double_well", training_shares=(0.25, 0.75), training_frames=400, length_nm=0.05)
    made = exact_data(settings, SHORT, "training", np.random.default_rng(5), temperature_kelvin=300.0, system="dw")
    assert made.notes["training_populations"] == [0.25, 0.75]
    distance = np.linalg.norm(made.positions_nm[:, 0] - made.positions_nm[:, 1], axis=-1)
    assert np.mean(distance < 4 * 0.05) == pytest.approx(0.25)
    many = settings.model_copy(update={"training_shares": (), "training_frames": 10**6})
    with pytest.raises(StageError, match="are wanted for the training data"):  # not quietly fewer
        exact_data(many, SHORT, "training", np.random.default_rng(5), temperature_kelvin=300.0, system="dw")
    # Far too short to equilibrate: all walkers start beyond d₀, and few have crossed.
    hasty = TemperingSettings(walkers=64, equilibration_steps=1, steps=20, steps_per_frame=1, hotter_factors=(1.1,))
    with pytest.raises(StageError, match="standard errors from"):
        exact_data(settings, hasty, "reference", np.random.default_rng(6), temperature_kelvin=300.0, system="dw")


# ---------------------------------------------------------------------------------------------- configuration


@pytest.mark.parametrize(
    ("system", "said"),
    [
        ({"points": {"law": "mixture"}, "sequence": "ACE-ALA-NME"}, "one of the five, not sequence, points"),
        ({"points": {"law": "mixtur"}}, "points.law"),
        ({"points": {"law": "sphere", "turns": 3.0}}, "law 'sphere' has no turns; it has: jitter, radius"),
        ({"points": {"law": "mixture", "means": [[0.0, 0.0, 0.0]]}}, "points.means"),
        ({"points": {"law": "torus", "tube_radius": 3.0}}, "'tube_radius' must be below 'radius'"),
        ({"points": {"law": "mixture", "n_point": 3}}, "n_point: unknown key; did you mean 'n_points'?"),
        ({"exact": {"potential": "lj14"}}, "exact.potential"),
        ({"exact": {"potential": "lj13", "parameters": {"a": 1.0}}}, "no parameter a; it has: epsilon, r_m"),
        ({"exact": {"potential": "dw4", "parameters": {"c": -0.9}}}, "c of 'dw4' must be above 0"),
        ({"exact": {"potential": "dw4", "training_shares": [0.5, 0.5]}}, "give 7 shares"),
        ({"exact": {"potential": "lj13"}, "training": ["x.dcd"]}, "they go with 'topology'"),
        ({"exact": {"potential": "lj13"}, "reference_ns": 1.0}, "go with 'sequence'"),
    ],
)  # fmt: skip
def test_impossible_systems_are_refused_by_name(system: dict, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config({"systems": {"x": system}})
    assert said in str(caught.value)


def test_settings_survive_a_round_trip() -> None:
    raw = {"systems": {"a": {"points": {"law": "torus"}}, "b": {"exact": {"potential": "dw4", "parameters": {"a": 1}}}}}
    config = parse_config(raw)
    assert parse_config(config.model_dump(mode="json")) == config
    assert config.systems["b"].exact is not None
    assert potential_of(config.systems["b"].exact).parameters == {"a": 1.0, "b": -4.0, "c": 0.9, "d0": 4.0}


def test_a_peptide_is_no_system_of_particles() -> None:
    with pytest.raises(ValueError, match="not a system of particles"):
        molecule_of_settings("ala", SystemSettings(sequence="ACE-ALA-NME"))
