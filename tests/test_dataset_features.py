"""Molecule features against answers worked out by hand or by matrix powers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ancdiff.dataset.features import (
    ATOM_NAMES,
    ATOM_TYPES,
    MAX_BOND_DISTANCE,
    RESIDUE_TYPES,
    bond_distances,
    molecule_features,
    torsion_paths,
)
from ancdiff.dataset.residues import canonical_residue_name
from ancdiff.molecules import Molecule, natural_stereocentres


def capped_alanine() -> Molecule:
    """ACE-ALA-NME heavy atoms:  CH3–C(=O)–N–CA(–CB)–C(=O)–N–CH3."""
    atom_names = ("CH3", "C", "O", "N", "CA", "CB", "C", "O", "N", "C")
    residue_names = ("ACE", "ALA", "NME")
    residue_of_atom = np.array([0, 0, 0, 1, 1, 1, 1, 1, 2, 2])
    return Molecule(
        name="ala",
        atom_names=atom_names,
        elements=("C", "C", "O", "N", "C", "C", "C", "O", "N", "C"),
        residue_names=residue_names,
        residue_of_atom=residue_of_atom,
        bonds=np.array([[0, 1], [1, 2], [1, 3], [3, 4], [4, 5], [4, 6], [6, 7], [6, 8], [8, 9]]),
        stereocentres=natural_stereocentres(atom_names, residue_names, residue_of_atom),
    )


def test_types_and_places_of_capped_alanine() -> None:
    features = molecule_features(capped_alanine())
    assert [ATOM_TYPES[i] for i in features.atom_type] == list("CCONCCCONC")
    assert [RESIDUE_TYPES[i] for i in features.residue_type] == ["ACE"] * 3 + ["ALA"] * 5 + ["NME"] * 2
    assert [ATOM_NAMES[i] for i in features.atom_name] == ["CH3", "C", "O", "N", "CA", "CB", "C", "O", "N", "C"]
    first, middle, last = features.residue_position[[0, 4, 9]]
    np.testing.assert_allclose(first, [0, 2 / 10, 1, 0], rtol=1e-6)
    np.testing.assert_allclose(middle, [1 / 9, 1 / 9, 0, 0], rtol=1e-6)
    np.testing.assert_allclose(last, [2 / 10, 0, 0, 1], rtol=1e-6)
    np.testing.assert_array_equal(features.stereocentres, [[4, 3, 6, 5]])


def test_graph_of_capped_alanine() -> None:
    features = molecule_features(capped_alanine())
    np.testing.assert_array_equal(features.bond_distance[0], [0, 1, 2, 2, 3, 4, 4, 5, 5, 6])
    np.testing.assert_array_equal(features.bond_distance, features.bond_distance.T)
    rows = {tuple(int(a) for a in row) for row in features.torsions}
    phi, psi, omega = (1, 3, 4, 6), (3, 4, 6, 8), (0, 1, 3, 4)
    assert {phi, psi, omega} <= rows
    # pairs three bonds apart: 0-4 2-4 | 1-5 1-6 | 3-7 3-8 5-7 5-8 | 4-9 7-9, each in both directions
    assert len(features.torsions) == 2 * 10


def test_a_ring_has_one_path_for_each_pair_and_the_same_backwards() -> None:
    ring = np.array([[i, (i + 1) % 6] for i in range(6)])
    paths = torsion_paths(6, ring)
    # opposite atoms are reached both ways round: 3 pairs, 2 directions, one row each
    assert [tuple(row) for row in paths[:, [0, 3]]] == [(0, 3), (1, 4), (2, 5), (3, 0), (4, 1), (5, 2)]
    rows = {tuple(row) for row in paths}
    assert {row[::-1] for row in rows} == rows


def test_rings_of_five_have_no_pair_three_bonds_apart() -> None:
    ring = np.array([[i, (i + 1) % 5] for i in range(5)])
    assert len(torsion_paths(5, ring)) == 0
    assert bond_distances(5, ring).max() == 2


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 9).flatmap(lambda n: st.tuples(st.just(n), st.sets(st.tuples(*[st.integers(0, n - 1)] * 2)))))
def test_distances_are_those_of_matrix_powers_and_torsions_follow_them(graph: tuple[int, set]) -> None:
    n, pairs = graph
    bonds = np.array(sorted({(min(p), max(p)) for p in pairs if p[0] != p[1]}), dtype=np.int64).reshape(-1, 2)
    adjacency = np.zeros((n, n), dtype=np.int64)
    adjacency[bonds[:, 0], bonds[:, 1]] = adjacency[bonds[:, 1], bonds[:, 0]] = 1
    expected = np.full((n, n), MAX_BOND_DISTANCE)
    for steps in reversed(range(MAX_BOND_DISTANCE)):
        expected[np.linalg.matrix_power(adjacency, steps) > 0] = steps
    np.testing.assert_array_equal(bond_distances(n, bonds), expected)
    paths = torsion_paths(n, bonds)
    assert {(int(i), int(j)) for i, j in paths[:, [0, 3]]} == {(int(i), int(j)) for i, j in np.argwhere(expected == 3)}
    assert len({(int(i), int(j)) for i, j in paths[:, [0, 3]]}) == len(paths)
    for i, j, k, last in paths:
        assert adjacency[i, j] == adjacency[j, k] == adjacency[k, last] == 1
    assert {tuple(row[::-1]) for row in paths.tolist()} == {tuple(row) for row in paths.tolist()}


@pytest.mark.parametrize(
    ("name", "standard"),
    [("HIE", "HIS"), ("HSD", "HIS"), ("CYS2", "CYS"), ("CYX", "CYS"), ("LYSH", "LYS"), ("NALA", "ALA"), ("CHIE", "HIS"),
     ("NME", "NME"), ("NMA", "NME"), ("ALA", "ALA"), ("UNK", "UNK"), ("CYSH", "CYS"), (" hid ", "HIS"), ("NLE", "NLE")],
)  # fmt: skip
def test_residue_names_of_other_programs(name: str, standard: str) -> None:
    assert canonical_residue_name(name) == standard


def test_unknown_words_share_the_last_entry() -> None:
    molecule = Molecule("x", ("X1", "CA"), ("Xx", "C"), ("LIG",), np.array([0, 0]), np.array([[0, 1]]))
    features = molecule_features(molecule)
    assert ATOM_TYPES[features.atom_type[0]] == RESIDUE_TYPES[features.residue_type[0]] == "other"
    assert ATOM_NAMES[features.atom_name[0]] == "other"
    assert len(features.torsions) == 0
