"""Backbone torsions against mdtraj, and the borders of the Ramachandran basins."""

import mdtraj
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_molecules import peptide_topology

from ancdiff.artifacts import molecule_of
from ancdiff.basins import BASIN_CENTRES_DEG, BASINS, assign_basins, dihedrals, ramachandran
from ancdiff.molecules import Ensemble


@settings(deadline=None, max_examples=50)
@given(st.floats(-179.9, 179.9), st.floats(0.2, 3.0), st.integers(0, 2**31))
def test_a_dihedral_of_known_angle_whatever_the_place(angle_deg: float, stretch: float, seed: int) -> None:
    angle = np.radians(angle_deg)
    # looking along b₂ (+z), the last bond is turned clockwise from the first by the angle: IUPAC positive
    points = np.array([[1, 0, 0], [0, 0, 0], [0, 0, stretch], [np.cos(angle), np.sin(angle), stretch]])
    turn = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))[0]
    turn *= np.sign(np.linalg.det(turn))
    moved = points @ turn.T + 3.0
    quadruple = np.array([[0, 1, 2, 3], [3, 2, 1, 0]])
    np.testing.assert_allclose(dihedrals(moved[None], quadruple)[0], angle, atol=1e-9)
    mirrored = moved * np.array([1, 1, -1])
    np.testing.assert_allclose(dihedrals(mirrored[None], quadruple)[0], -angle, atol=1e-9)


def test_ramachandran_angles_are_those_of_mdtraj() -> None:
    top = peptide_topology("ACE", "ALA", "SER", "VAL", "NME")
    positions = np.random.default_rng(1).normal(size=(7, top.n_atoms, 3)).astype(np.float32)
    residues, angles = ramachandran(Ensemble(molecule_of(top, "x"), positions))
    trajectory = mdtraj.Trajectory(positions, top)
    (_, phi), (_, psi) = mdtraj.compute_phi(trajectory), mdtraj.compute_psi(trajectory)
    assert residues == [1, 2, 3]
    # mdtraj works in float32, and random points may lie nearly in line
    np.testing.assert_allclose(np.cos(angles[..., 0] - phi), 1, atol=1e-6)
    np.testing.assert_allclose(np.cos(angles[..., 1] - psi), 1, atol=1e-6)


@pytest.mark.parametrize(
    ("phi_deg", "psi_deg", "basin"),
    [
        (-70, -25, "alpha_r"), (-80, 145, "beta"), (55, 40, "alpha_l"),
        (-60, 49.9, "alpha_r"), (-60, 50.1, "beta"), (-60, -119.9, "alpha_r"), (-60, -120.1, "beta"),
        (-60, 180, "beta"), (-60, -180, "beta"), (0.1, -25, "alpha_l"), (-0.1, -25, "alpha_r"),
        (180, 145, "alpha_l"), (-179.9, 145, "beta"), (0, 0, "alpha_r"),
    ],
)  # fmt: skip
def test_borders_of_the_basins(phi_deg: float, psi_deg: float, basin: str) -> None:
    assert BASINS[assign_basins(np.radians([phi_deg, psi_deg]))] == basin


def test_each_basin_holds_its_centre() -> None:
    centres = np.radians([BASIN_CENTRES_DEG[name] for name in BASINS])
    assert assign_basins(centres).tolist() == [0, 1, 2]


def test_a_chain_with_no_residue_that_has_both_torsions() -> None:
    molecule = molecule_of(peptide_topology("ALA", "ALA"), "x")
    residues, angles = ramachandran(Ensemble(molecule, np.zeros((2, molecule.n_atoms, 3), dtype=np.float32)))
    assert residues == []
    assert angles.shape == (2, 0, 2)
