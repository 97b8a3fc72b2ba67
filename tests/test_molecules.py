"""Molecules, their stereocentres and ensembles, and the energy table."""

from dataclasses import replace

import mdtraj
import numpy as np
import pandas as pd
import pytest
from rdkit import Chem
from rdkit.Chem import AllChem

from ancdiff.artifacts import molecule_of
from ancdiff.dataset.residues import STANDARD_BONDS
from ancdiff.errors import InputError
from ancdiff.molecules import (
    ENERGY_COLUMNS,
    Ensemble,
    Molecule,
    check_energy_table,
    natural_stereocentres,
    signed_volumes,
)


def peptide_topology(*residues: str) -> mdtraj.Topology:
    """Heavy atoms of a peptide, standard bonds included."""
    top = mdtraj.Topology()
    chain = top.add_chain()
    for name in residues:
        residue = top.add_residue(name, chain)
        for atom in dict.fromkeys(a for bond in STANDARD_BONDS[name] for a in bond):
            top.add_atom(atom, mdtraj.element.get_by_symbol(atom[0]), residue)
    top.create_standard_bonds()
    return top


# (2S) for all; the side chain is (3S) in isoleucine and (3R) in threonine: IUPAC-IUB 1983, 3AA-3.
L_AMINO_ACIDS = {
    "ALA": ("N[C@@H](C)C(=O)O", "N CA CB C O OXT"),
    "SER": ("N[C@@H](CO)C(=O)O", "N CA CB OG C O OXT"),
    "CYS": ("N[C@@H](CS)C(=O)O", "N CA CB SG C O OXT"),
    "PRO": ("N1[C@@H](CCC1)C(=O)O", "N CA CB CG CD C O OXT"),
    "ILE": ("N[C@@H]([C@@H](C)CC)C(=O)O", "N CA CB CG2 CG1 CD1 C O OXT"),
    "THR": ("N[C@@H]([C@H](O)C)C(=O)O", "N CA CB OG1 CG2 C O OXT"),
}
CIP = {"ALA": "S", "SER": "S", "CYS": "R", "PRO": "S", "ILE": "SS", "THR": "SR"}


@pytest.mark.parametrize("residue", L_AMINO_ACIDS)
def test_natural_amino_acids_have_positive_volumes(residue: str) -> None:
    smiles, names = L_AMINO_ACIDS[residue]
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    # RDKit's own perception of R and S guards this test's SMILES
    assert "".join(label for _, label in Chem.FindMolChiralCenters(mol, useLegacyImplementation=False)) == CIP[residue]
    assert AllChem.EmbedMolecule(mol, randomSeed=7) == 0
    atom_names = tuple(names.split())
    positions = mol.GetConformer().GetPositions()[None, : len(atom_names)] / 10
    centres = natural_stereocentres(atom_names, (residue,), np.zeros(len(atom_names), dtype=np.int64))
    assert len(centres) == len(CIP[residue])
    assert np.all(signed_volumes(positions, centres) > 0)
    assert np.all(signed_volumes(positions * np.array([1, 1, -1]), centres) < 0)


def test_stereocentres_of_a_chain() -> None:
    molecule = molecule_of(peptide_topology("ACE", "GLY", "ILE", "VAL", "NME"), "x")
    centres = [(molecule.residue_of_atom[o], molecule.atom_names[o]) for o in molecule.stereocentres[:, 0]]
    assert centres == [(2, "CA"), (2, "CB"), (3, "CA")]  # valine's CB bears two equal groups, glycine has none


def test_signed_volume_of_a_unit_corner() -> None:
    corner = np.array([[[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1.0]]])
    assert signed_volumes(corner, np.array([[0, 1, 2, 3]])).tolist() == [[1.0]]
    assert signed_volumes(corner, np.array([[0, 2, 1, 3]])).tolist() == [[-1.0]]
    assert signed_volumes(corner, np.zeros((0, 4), dtype=np.int64)).shape == (1, 0)


def test_torsions_by_name() -> None:
    molecule = molecule_of(peptide_topology("ACE", "ALA", "GLY", "NME"), "x")

    def named(residue: int, kind: str) -> str:
        atoms = molecule.torsion(residue, kind)
        assert atoms is not None
        return " ".join(f"{molecule.residue_of_atom[a]}{molecule.atom_names[a]}" for a in atoms)

    assert named(1, "phi") == "0C 1N 1CA 1C"
    assert named(2, "psi") == "2N 2CA 2C 3N"
    assert molecule.torsion(0, "phi") is molecule.torsion(0, "psi") is molecule.torsion(3, "phi") is None
    assert molecule.ramachandran_residues() == [1, 2]
    assert molecule.atom_index(1, "CB") is not None
    assert molecule.atom_index(2, "CB") is None


def test_no_torsion_across_a_chain_break() -> None:
    whole = molecule_of(peptide_topology("ACE", "ALA", "ALA", "ALA", "NME"), "x")
    cut = {whole.atom_index(1, "C"), whole.atom_index(2, "N")}
    broken = replace(whole, bonds=np.array([b for b in whole.bonds.tolist() if set(b) != cut]))
    assert len(broken.bonds) == len(whole.bonds) - 1
    assert whole.ramachandran_residues() == [1, 2, 3]
    assert broken.ramachandran_residues() == [3]
    assert broken.torsion(1, "phi") is not None


def test_an_ensemble_of_other_atoms_is_refused() -> None:
    molecule = Molecule("x", ("C", "O"), ("C", "O"), ("ACE",), np.array([0, 0]), np.array([[0, 1]]))
    assert len(Ensemble(molecule, np.zeros((3, 2, 3)))) == 3
    with pytest.raises(InputError, match=r"shape \(3, 3, 3\), not \(conformers, 2, 3\)"):
        Ensemble(molecule, np.zeros((3, 3, 3)))


def test_an_energy_table_in_order_and_type() -> None:
    table = pd.DataFrame({name: [0, 0] for name in reversed(ENERGY_COLUMNS)})
    table = table.assign(conformer=[0, 1], status="ok", extra=1)
    checked = check_energy_table(table)
    assert checked.dtypes.astype(str).to_dict() == ENERGY_COLUMNS
    with pytest.raises(InputError, match="lacks status, clashes"):
        check_energy_table(table.drop(columns=["clashes", "status"]), where="x.parquet")
    with pytest.raises(InputError, match="twice"):
        check_energy_table(table.assign(conformer=0))
