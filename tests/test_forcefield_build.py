"""Peptides built from their sequence: right atoms, right hands, right torsions, right charges; impossible ones stop."""

import random

import numpy as np
import pytest
from rdkit import Chem

from ancdiff.basins import BASIN_CENTRES_DEG, BASINS, assign_basins, dihedrals, ramachandran
from ancdiff.config import ForcefieldSettings, parse_config
from ancdiff.errors import ConfigError
from ancdiff.forcefield import hydrogens
from ancdiff.forcefield.build import Peptide, build_peptide, set_torsion, start_structure
from ancdiff.forcefield.residues import CHI_TORSIONS, RESIDUES
from ancdiff.forcefield.system import create_system
from ancdiff.molecules import Ensemble, Molecule, signed_volumes
from ancdiff.sequences import AMINO_ACIDS, check_sequence

FF14SB = ForcefieldSettings()
CHARGES = {"ARG": 1.0, "LYS": 1.0, "ASP": -1.0, "GLU": -1.0}
# By the Cahn-Ingold-Prelog rules every L amino acid is S at Cα but cysteine, whose sulphur outranks the carbonyl.
CIP_AT_CA = dict.fromkeys(AMINO_ACIDS, "S") | {"CYS": "R"}
CIP_AT_CB = {"ILE": "S", "THR": "R"}


@pytest.fixture(scope="module")
def dialanine() -> Peptide:
    return build_peptide("two", "ACE-ALA-ALA-NME", FF14SB)


@pytest.mark.parametrize(
    ("sequence", "said"),
    [
        ("ACE-ALAN-NME", r"residue 2 of 'ACE-ALAN-NME': 'ALAN' is not a standard amino acid; did you mean ALA\?"),
        ("ACE-ala-NME", r"residue 2 .*did you mean ALA\?"),
        ("ACE-QQQQQ-NME", r"known: ALA, ARG"),
        ("ACE--NME", r"residue 2"),
        ("ALA-ALA-NME", r"free end; type ACE-…-NME"),
        ("ACE-ALA", r"free end"),
        ("ACE-NME", r"no amino acid between its caps"),
        ("ACE-NME-ALA-NME", r"residue 2 .*the cap NME belongs at the end"),
        ("ACE-ALA-ACE-NME", r"residue 3 .*the cap ACE belongs at the start"),
        ("", r"residue 1"),
    ],
)
def test_an_impossible_sequence_says_which_residue_and_what_to_type(sequence: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        check_sequence(sequence)
    with pytest.raises(ConfigError, match=said) as caught:
        parse_config({"systems": {"mine": {"sequence": sequence}}})
    assert "systems.mine" in str(caught.value)


def test_a_possible_sequence_gives_its_residues() -> None:
    assert check_sequence("ACE-GLY-PRO-NME") == ("ACE", "GLY", "PRO", "NME")


@pytest.mark.parametrize("residue", AMINO_ACIDS)
def test_every_amino_acid_has_the_atoms_charge_and_hand_of_its_force_field(residue: str) -> None:
    import openmm

    peptide = build_peptide("one", f"ACE-{residue}-NME", FF14SB)
    molecule = peptide.molecule
    names = {
        molecule.atom_names[i] for i in peptide.heavy if molecule.residue_names[molecule.residue_of_atom[i]] == residue
    }
    assert names == set(RESIDUES[residue].names)
    system = create_system(peptide.topology, FF14SB)
    force = next(f for f in system.getForces() if isinstance(f, openmm.NonbondedForce))
    charge = sum(force.getParticleParameters(i)[0]._value for i in range(molecule.n_atoms))
    assert charge == pytest.approx(CHARGES.get(residue, 0.0), abs=1e-3)
    # The handedness twice: by the house's signed volumes, and by RDKit from the coordinates.
    assert (signed_volumes(peptide.positions_nm[None], molecule.stereocentres) > 0).all()
    found = _cip_labels(molecule, peptide.positions_nm)
    assert found.get("CA") == (None if residue == "GLY" else CIP_AT_CA[residue])
    assert found.get("CB") == CIP_AT_CB.get(residue)


def test_the_hand_check_would_see_a_mirror_image() -> None:
    peptide = build_peptide("one", "ACE-THR-NME", FF14SB)
    mirrored = peptide.positions_nm * np.array([1.0, 1.0, -1.0])
    assert (signed_volumes(mirrored[None], peptide.molecule.stereocentres) < 0).all()
    assert _cip_labels(peptide.molecule, mirrored) == {"CA": "R", "CB": "S"}


def test_building_does_not_depend_on_the_global_random_state() -> None:
    random.seed(123)
    first = build_peptide("one", "ACE-SER-NME", FF14SB)
    random.seed(7)
    second = build_peptide("one", "ACE-SER-NME", FF14SB)
    np.testing.assert_array_equal(first.positions_nm, second.positions_nm)


def test_the_global_random_state_is_lent_and_given_back() -> None:
    # Not tested through build_peptide: the type checker of the tests draws from the global generator as well.
    before = random.getstate()
    with hydrogens._fixed_global_random(7):
        assert random.random() == random.Random(7).random()
    assert random.getstate() == before


@pytest.mark.parametrize("basin", BASINS)
def test_starts_lie_in_their_basin(dialanine: Peptide, basin: str) -> None:
    start = start_structure(dialanine, FF14SB, [basin, "beta"], np.random.default_rng(1))
    _, phi_psi = ramachandran(Ensemble(dialanine.molecule, start[None]))
    assert [BASINS[b] for b in assign_basins(phi_psi)[0]] == [basin, "beta"]
    centres = np.array([BASIN_CENTRES_DEG[basin], BASIN_CENTRES_DEG["beta"]])
    apart = (np.degrees(phi_psi[0]) - centres + 180) % 360 - 180
    assert np.abs(apart).max() < 10  # held by 500 kJ/mol/rad² against the force field
    assert (signed_volumes(start[None], dialanine.molecule.stereocentres) > 0).all()


def test_each_residue_needs_a_basin(dialanine: Peptide) -> None:
    with pytest.raises(ValueError, match="2 residues need a basin each; got 1"):
        start_structure(dialanine, FF14SB, ["beta"])


def test_side_chains_start_in_each_staggered_position() -> None:
    peptide = build_peptide("one", "ACE-VAL-NME", FF14SB)
    chi = [peptide.molecule.atom_index(1, name) for name in CHI_TORSIONS["VAL"][0]]
    rng = np.random.default_rng(0)
    starts = np.array([start_structure(peptide, FF14SB, ["beta"], rng) for _ in range(12)])
    angles = np.degrees(dihedrals(starts, np.array([chi]))[:, 0])
    wells = {round(angle / 120 - 0.5) % 3 for angle in angles}
    assert wells == {0, 1, 2}


def test_a_torsion_is_set_exactly_and_moves_only_what_lies_beyond(dialanine: Peptide) -> None:
    torsion = dialanine.molecule.torsion(1, "psi")
    assert torsion is not None
    turned = set_torsion(dialanine.molecule, dialanine.positions_nm, torsion, np.radians(77.0))
    assert np.degrees(dihedrals(turned[None], np.array([torsion]))[0, 0]) == pytest.approx(77.0, abs=1e-9)
    ace = dialanine.molecule.residue_of_atom == 0
    np.testing.assert_array_equal(turned[ace], dialanine.positions_nm[ace])
    a, b = dialanine.molecule.bonds.T
    before = np.linalg.norm(dialanine.positions_nm[a] - dialanine.positions_nm[b], axis=1)
    np.testing.assert_allclose(np.linalg.norm(turned[a] - turned[b], axis=1), before, atol=1e-12)


def test_a_bond_in_a_ring_is_not_turned() -> None:
    peptide = build_peptide("ring", "ACE-PRO-NME", FF14SB)
    phi = peptide.molecule.torsion(1, "phi")
    assert phi is not None
    np.testing.assert_array_equal(set_torsion(peptide.molecule, peptide.positions_nm, phi, 1.0), peptide.positions_nm)


def _cip_labels(molecule: Molecule, positions_nm: np.ndarray) -> dict[str, str]:
    """R or S of each stereocentre, by RDKit, from coordinates and a graph with the double bonds of the peptide."""
    graph = Chem.RWMol()
    for element in molecule.elements:
        graph.AddAtom(Chem.Atom(element))
    for a, b in molecule.bonds:
        graph.AddBond(int(a), int(b), Chem.BondType.SINGLE)
    heavy_degree = {i: 0 for i in range(molecule.n_atoms)}
    for a, b in molecule.bonds:
        heavy_degree[int(a)] += 1
        heavy_degree[int(b)] += 1
    for bond in graph.GetBonds():  # a terminal O on a carbon with three neighbours is a carbonyl
        ends = (bond.GetBeginAtom(), bond.GetEndAtom())
        symbols = {end.GetSymbol(): end.GetIdx() for end in ends}
        carbonyl = set(symbols) == {"C", "O"} and heavy_degree[symbols["O"]] == 1 and heavy_degree[symbols["C"]] == 3
        if carbonyl and all(
            n.GetBondType() == Chem.BondType.SINGLE for n in graph.GetAtomWithIdx(symbols["C"]).GetBonds()
        ):
            bond.SetBondType(Chem.BondType.DOUBLE)
    conformer = Chem.Conformer(molecule.n_atoms)
    for i, xyz in enumerate(positions_nm * 10.0):
        conformer.SetAtomPosition(i, xyz.tolist())
    for atom in graph.GetAtoms():
        atom.SetNoImplicit(True)
    graph.AddConformer(conformer)
    whole = graph.GetMol()
    whole.UpdatePropertyCache(strict=False)
    Chem.AssignStereochemistryFrom3D(whole)
    return {
        molecule.atom_names[i]: label
        for i, label in Chem.FindMolChiralCenters(whole, useLegacyImplementation=True)
        if molecule.atom_names[i] in ("CA", "CB")
    }
