"""Dynamics against known answers: harmonic energies, exact exchange probabilities, rigid bonds, repeatable segments."""

import numpy as np
import openmm
import pytest

from ancdiff.config import ForcefieldSettings
from ancdiff.errors import StageError
from ancdiff.forcefield.build import build_peptide
from ancdiff.forcefield.dynamics import (
    Engine,
    ExchangeSegment,
    Thermostat,
    Walkers,
    exchange_pairs,
    run_exchange,
    run_langevin,
)
from ancdiff.forcefield.system import create_system
from ancdiff.units import thermal_energy_kj_mol

OSCILLATORS = 20
LADDER = (300.0, 380.0, 480.0)
THERMOSTAT = Thermostat(timestep_fs=4.0, friction_per_ps=5.0, platform="Reference")
FORCE_CONSTANT_KJ_MOL_NM2 = 5000.0


def harmonic_system() -> openmm.System:
    """Independent three-dimensional oscillators: <potential energy> = 3/2 kT each, <x²> = kT/k."""
    system = openmm.System()
    force = openmm.CustomExternalForce("0.5*k*(x^2+y^2+z^2)")
    force.addGlobalParameter("k", FORCE_CONSTANT_KJ_MOL_NM2)
    for i in range(OSCILLATORS):
        system.addParticle(12.0)
        force.addParticle(i)
    system.addForce(force)
    return system


def exchange_run(seed: int, exchanges: int, walkers: Walkers | None = None) -> ExchangeSegment:
    engine = Engine(harmonic_system(), THERMOSTAT, seed=seed)
    if walkers is None:
        points = [engine.thermalise(np.zeros((OSCILLATORS, 3)), kelvin, seed + 1) for kelvin in LADDER]
        walkers = Walkers(np.array([p for p, _ in points]), np.array([v for _, v in points]))
    return run_exchange(
        engine,
        walkers,
        THERMOSTAT,
        LADDER,
        exchange_interval_ps=0.2,
        exchanges=exchanges,
        exchanges_per_frame=1,
        rng=np.random.default_rng(seed),
    )


def test_langevin_frames_have_the_boltzmann_spread() -> None:
    engine = Engine(harmonic_system(), THERMOSTAT, seed=11)
    frames = run_langevin(
        engine,
        np.zeros((OSCILLATORS, 3)),
        THERMOSTAT,
        temperature_kelvin=350.0,
        equilibration_ps=2.0,
        length_ps=120.0,
        frame_interval_ps=0.4,
        velocity_seed=12,
    )
    assert frames.shape == (300, OSCILLATORS, 3)
    expected = thermal_energy_kj_mol(350.0) / FORCE_CONSTANT_KJ_MOL_NM2
    # 18,000 coordinates, correlated over about two frames: 2 % is more than two standard errors.
    assert np.mean(frames**2) == pytest.approx(expected, rel=0.04)


def test_the_lowest_walker_of_an_exchange_keeps_its_own_temperature() -> None:
    segment = exchange_run(seed=5, exchanges=500)
    variance = np.mean(segment.frames_nm[20:] ** 2)
    assert variance == pytest.approx(thermal_energy_kj_mol(LADDER[0]) / FORCE_CONSTANT_KJ_MOL_NM2, rel=0.05)
    # The next temperature would be 27 % above; without swaps the test would say nothing about them.
    assert (segment.taken[:2] > 20).all()
    assert (segment.tried[:2] == 250).all()
    assert segment.tried[2] == 0


def test_swaps_are_taken_with_the_metropolis_probability() -> None:
    rng = np.random.default_rng(0)
    cold, hot = 300.0, 400.0
    energies = np.array([-10.0, -4.0])
    beta_difference = 1 / thermal_energy_kj_mol(cold) - 1 / thermal_energy_kj_mol(hot)
    expected = np.exp(beta_difference * (energies[0] - energies[1]))
    draws = 4000
    taken = sum(int(exchange_pairs(energies, (cold, hot), 0, rng)[1][0]) for _ in range(draws))
    assert expected == pytest.approx(0.548, abs=0.001)
    assert taken / draws == pytest.approx(expected, abs=4 * np.sqrt(expected * (1 - expected) / draws))
    # The colder walker with the higher energy is always handed over.
    order, outcome = exchange_pairs(energies[::-1], (cold, hot), 0, rng)
    assert order.tolist() == [1, 0]
    assert outcome.tolist() == [1, -1]


def test_exchange_leaves_both_energy_distributions_as_they_are() -> None:
    """Exact energies of 30 harmonic degrees of freedom, Gamma(15, kT), stay so under many swaps."""
    rng = np.random.default_rng(1)
    ladder = (300.0, 360.0)
    scale = np.array([thermal_energy_kj_mol(t) for t in ladder])
    energies = rng.gamma(15.0, scale, size=(20_000, 2))
    after = np.array([pair[exchange_pairs(pair, ladder, 0, rng)[0]] for pair in energies])
    swapped = np.mean(after[:, 0] != energies[:, 0])
    assert 0.3 < swapped < 0.7
    standard_error = np.sqrt(15.0) * scale / np.sqrt(len(energies))
    assert (np.abs(after.mean(axis=0) - 15.0 * scale) < 4 * standard_error).all()


def test_pairs_alternate_and_never_overlap() -> None:
    rng = np.random.default_rng(2)
    falling = np.array([5.0, 4.0, 3.0, 2.0])  # every tried swap is taken
    ladder = (300.0, 350.0, 400.0, 450.0)
    assert exchange_pairs(falling, ladder, 0, rng)[0].tolist() == [1, 0, 3, 2]
    assert exchange_pairs(falling, ladder, 1, rng)[0].tolist() == [0, 2, 1, 3]


def test_a_segment_is_a_function_of_its_start_and_seed() -> None:
    first, again, other = exchange_run(3, 20), exchange_run(3, 20), exchange_run(4, 20)
    np.testing.assert_array_equal(first.frames_nm, again.frames_nm)
    assert not np.array_equal(first.frames_nm, other.frames_nm)
    # Going on from the same walkers with the same seed gives the same frames as well, in a new Context.
    one, two = exchange_run(6, 5, first.walkers), exchange_run(6, 5, again.walkers)
    np.testing.assert_array_equal(one.frames_nm, two.frames_nm)


def test_bonds_to_hydrogen_stay_rigid_and_others_move() -> None:
    peptide = build_peptide("one", "ACE-ALA-NME", ForcefieldSettings())
    system = create_system(peptide.topology, ForcefieldSettings(), constrain_hydrogens=True, hydrogen_mass_amu=3.0)
    thermostat = Thermostat(4.0, 1.0, "Reference")
    frames = run_langevin(
        Engine(system, thermostat, seed=1),
        peptide.positions_nm,
        thermostat,
        temperature_kelvin=300.0,
        equilibration_ps=1.0,
        length_ps=2.0,
        frame_interval_ps=0.1,
        velocity_seed=2,
    )
    a, b = peptide.molecule.bonds.T
    lengths = np.linalg.norm(frames[:, a] - frames[:, b], axis=-1)
    to_hydrogen = np.array(
        ["H" in (peptide.molecule.elements[i], peptide.molecule.elements[j]) for i, j in zip(a, b, strict=True)]
    )
    assert lengths[:, to_hydrogen].std(axis=0).max() < 1e-6
    assert lengths[:, ~to_hydrogen].std(axis=0).min() > 1e-4


def test_a_trajectory_that_blows_up_is_a_stage_error() -> None:
    thermostat = Thermostat(timestep_fs=200.0, friction_per_ps=1.0, platform="Reference")
    engine = Engine(harmonic_system(), thermostat, seed=1)
    start = np.full((OSCILLATORS, 3), 0.1)
    with pytest.raises(StageError, match=r"blew up.*\n.*200\.0 fs\n.*timestep_fs"):
        engine.advance(start, np.zeros_like(start), temperature_kelvin=300.0, steps=5000)
