"""Metrics of generated compounds on molecules whose values can be told by hand."""

import math
from pathlib import Path

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import rdDistGeom, rdForceFieldHelpers

from ancdiff.bonds import Values, bond_angles, bond_lengths, bond_orders, stable_atoms
from ancdiff.chemistry import best_rmsd_nm
from ancdiff.compounds import Compounds, compounds_of
from ancdiff.dataset.qm9 import read_compounds
from ancdiff.evaluate import molecules
from ancdiff.evaluate.coverage import coverage_and_matching

H, C, N, O, F = 1, 6, 7, 8, 9  # noqa: E741 (oxygen)


def line(*atoms: tuple[int, float]) -> tuple[np.ndarray, np.ndarray]:
    """Atoms on the x axis at the given places, nm."""
    numbers = np.array([number for number, _ in atoms], dtype=np.uint8)
    positions = np.array([[x, 0.0, 0.0] for _, x in atoms], dtype=np.float32)
    return numbers, positions


def built(smiles: str, seed: int = 7) -> tuple[np.ndarray, np.ndarray]:
    """A relaxed geometry of a molecule with its hydrogens."""
    molecule = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert rdDistGeom.EmbedMolecule(molecule, randomSeed=seed) == 0
    rdForceFieldHelpers.MMFFOptimizeMolecule(molecule, maxIters=2000)
    numbers = np.array([atom.GetAtomicNum() for atom in molecule.GetAtoms()], dtype=np.uint8)
    return numbers, (molecule.GetConformer().GetPositions() / 10).astype(np.float32)


def collected(*members: tuple[np.ndarray, np.ndarray]) -> Compounds:
    return compounds_of((i, *atoms) for i, atoms in enumerate(members))


@pytest.mark.parametrize(
    ("pair", "length_pm", "order"),
    [
        # Typical length plus margin: single 10 pm, double 5 pm, triple 3 pm.
        ((C, C), 122.9, 3),
        ((C, C), 123.1, 2),
        ((C, C), 138.9, 2),
        ((C, C), 139.1, 1),
        ((C, C), 163.9, 1),
        ((C, C), 164.1, 0),
        ((H, C), 118.9, 1),
        ((H, C), 119.1, 0),
        ((N, O), 125.9, 2),
        ((O, N), 126.1, 1),
        ((N, N), 112.9, 3),
        ((C, F), 144.9, 1),
        ((C, F), 100.0, 1),  # no double bond to fluorine, however near
        ((H, H), 83.9, 1),
        ((H, F), 102.1, 0),
    ],
)
def test_bond_orders_by_distance(pair: tuple[int, int], length_pm: float, order: int) -> None:
    orders = bond_orders(*line((pair[0], 0.0), (pair[1], length_pm / 1000)))
    assert orders.tolist() == [[0, order], [order, 0]]


def test_stability_of_hydrogen_cyanide_and_of_what_is_left_without_its_hydrogen() -> None:
    whole = line((H, 0.0), (C, 0.1066), (N, 0.1066 + 0.1153))
    assert stable_atoms(*whole).tolist() == [True, True, True]
    radical = line((C, 0.1066), (N, 0.1066 + 0.1153))
    assert stable_atoms(*radical).tolist() == [False, True]
    assert molecules.stable_atom_counts(collected(radical, whole)).tolist() == [1, 3]


@pytest.mark.parametrize("smiles", ["C", "CCO", "C#N", "C=O", "CC(=O)N", "FC(F)F", "C1CC1", "c1ccoc1"])
def test_sound_molecules_are_stable_and_come_back_as_themselves(smiles: str) -> None:
    compound = collected(built(smiles))
    assert molecules.stable_atom_counts(compound).tolist() == compound.sizes.tolist()
    (found,) = molecules.canonical_smiles(compound)
    assert found is not None
    assert Chem.CanonSmiles(Chem.MolToSmiles(Chem.RemoveHs(Chem.MolFromSmiles(found)))) == Chem.CanonSmiles(smiles)


def test_validity_uniqueness_and_fragments() -> None:
    ethanol, again = built("CCO"), built("CCO", seed=8)
    carbon_with_five = (np.append(built("C")[0], H).astype(np.uint8), np.vstack([built("C")[1], [[0.06, 0.06, 0.06]]]))
    hydrogen = (np.array([H, H], dtype=np.uint8), np.array([[1, 0, 0], [1.074, 0, 0]], dtype=np.float32))
    pieces = (np.append(ethanol[0], hydrogen[0]), np.vstack([ethanol[1], hydrogen[1]]))
    crowded = (carbon_with_five[0], carbon_with_five[1].astype(np.float32))
    smiles = molecules.canonical_smiles(collected(ethanol, again, crowded, pieces))
    assert smiles[0] == smiles[1] == smiles[3]  # another geometry, and the largest fragment
    assert smiles[2] is None
    assert molecules.in_one_piece(collected(ethanol, pieces)).tolist() == [True, False]
    assert molecules.first_of_its_kind(smiles) == [True, False, False, False]
    assert molecules.first_of_its_kind(["a", None, "b", "a"]) == [True, False, True, False]


def test_bonds_and_angles_have_their_kinds() -> None:
    turn = math.radians(104.5)
    places = [[0, 0, 0], [0.096, 0, 0], [0.096 * math.cos(turn), 0.096 * math.sin(turn), 0]]
    water = (np.array([O, H, H], dtype=np.uint8), np.array(places, dtype=np.float32))
    cyanide = line((H, 0.0), (C, 0.1066), (N, 0.1066 + 0.1153))
    lengths = bond_lengths(collected(water, cyanide))
    assert {kind: len(values) for kind, (values, _) in lengths.items()} == {"C#N": 1, "C-H": 1, "O-H": 2}
    assert lengths["C#N"][0][0] == pytest.approx(0.1153, abs=1e-6)
    angles = bond_angles(collected(water, cyanide))
    assert lengths["O-H"][1].tolist() == [0, 0]
    assert lengths["C#N"][1].tolist() == [1]
    assert set(angles) == {"H-O-H", "H-C-N"}
    assert angles["H-O-H"][0][0] == pytest.approx(104.5, abs=1e-3)
    assert angles["H-C-N"][0][0] == pytest.approx(180.0, abs=0.1)


def test_distance_of_values_by_kind() -> None:
    def values(**kinds: list[float]) -> Values:
        return {k: (np.array(v), np.arange(len(v)) % 2) for k, v in kinds.items()}

    data = values(cc=[0.15, 0.16], ch=[0.11] * 6, nn=[0.1, 0.2])
    assert molecules.mean_distance(data, data) == 0.0
    shifted = {kind: (v + 0.01, owners) for kind, (v, owners) in data.items()}
    assert molecules.mean_distance(shifted, data) == pytest.approx(0.01)
    # A kind that is lacking counts with its spread: 2 of 10 bonds at 0.05 nm.
    lacking = {kind: v for kind, v in data.items() if kind != "nn"}
    assert molecules.mean_distance(lacking, data) == pytest.approx(0.2 * 0.05)
    # Weights pick the first compound: its C–C is 0.15 of the data's 0.15 and 0.16, its N–N 0.1 of 0.1 and 0.2.
    picked = molecules.mean_distance(data, data, weights=np.array([1.0, 0.0]))
    assert picked == pytest.approx(0.2 * 0.005 + 0.2 * 0.05)
    assert math.isnan(molecules.mean_distance(data, {}))


def test_strain_is_zero_at_the_minimum_and_the_work_of_stretching_elsewhere() -> None:
    methane = built("C")
    strain, status = molecules.mmff_strain_kj_mol(*methane)
    assert (status, strain) == ("ok", pytest.approx(0.0, abs=0.01))
    stretched = (methane[0], (methane[1] * 1.02).astype(np.float32))  # four bonds, 2 % = 2.2 pm longer each
    strain, status = molecules.mmff_strain_kj_mol(*stretched)
    # MMFF94: 143.9325/2 kb Δr² (kcal/mol, mdyn/Å, Å) with kb = 4.766 of C–H; its cubic term lowers it by some percent.
    harmonic = 4 * 0.5 * 143.9325 * 4.766 * 0.02184**2 * 4.184
    assert status == "ok"
    assert 0.9 * harmonic < strain < 1.02 * harmonic
    near = np.vstack([methane[1], [[0.06, 0.06, 0.06]]]).astype(np.float32)
    alone = (np.append(methane[0], H).astype(np.uint8), near)
    assert molecules.mmff_strain_kj_mol(*alone)[1] == "invalid"


def test_coverage_and_matching_by_hand() -> None:
    rmsd = np.array([[0.01, 0.20, 0.30], [0.02, 0.06, 0.30]])  # two generated, three references
    assert coverage_and_matching(rmsd) == {
        "cov_r": pytest.approx(1 / 3),
        "mat_r_nm": pytest.approx((0.01 + 0.06 + 0.30) / 3),
        "cov_p": 1.0,
        "mat_p_nm": pytest.approx(0.015),
    }
    assert coverage_and_matching(rmsd, threshold_nm=0.06)["cov_r"] == pytest.approx(2 / 3)


def test_rmsd_sees_heavy_atoms_only_and_knows_symmetry() -> None:
    """Neopentane's methyls may be swapped, its hydrogens turned; a conformer against itself is at zero."""
    molecule = Chem.AddHs(Chem.MolFromSmiles("CCCO"))
    rdDistGeom.EmbedMultipleConfs(molecule, 2, randomSeed=3)
    table = best_rmsd_nm(molecule, molecule)
    assert table.shape == (2, 2)
    np.testing.assert_allclose(np.diag(table), 0.0, atol=1e-4)
    swapped = Chem.AddHs(Chem.MolFromSmiles("CC(C)(C)C"))
    rdDistGeom.EmbedMolecule(swapped, randomSeed=1)
    other = Chem.RenumberAtoms(swapped, [4, 1, 2, 3, 0, *range(5, swapped.GetNumAtoms())])
    assert best_rmsd_nm(swapped, other)[0, 0] < 1e-4


def test_real_molecules_score_as_published(test_data: Path) -> None:
    """Of QM9 itself EDM reports 99.0 % stable atoms, 95.2 % stable molecules and 97.7 % valid ones."""
    every = read_compounds(test_data / "qm9" / "dsgdb9nsd_slice.xyz.tar.bz2").compounds
    some = every.take(np.arange(0, len(every), 47))
    stable = molecules.stable_atom_counts(some)
    assert stable.sum() / some.sizes.sum() >= 0.99
    assert (stable == some.sizes).mean() >= 0.93  # of 201; the whole slice has 95 %
    assert np.mean([s is not None for s in molecules.canonical_smiles(some)]) >= 0.96
