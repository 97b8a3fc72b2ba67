"""Between the house's molecules and OpenMM's topologies."""

from typing import Any

import numpy as np
from jaxtyping import Int

from ancdiff.errors import InputError
from ancdiff.molecules import Molecule, natural_stereocentres


def molecule_of_topology(topology: Any, name: str) -> Molecule:
    """The molecule of an OpenMM topology."""
    atoms = list(topology.atoms())
    atom_names = tuple(atom.name for atom in atoms)
    residue_names = tuple(residue.name for residue in topology.residues())
    residue_of_atom = np.array([atom.residue.index for atom in atoms], dtype=np.int64)
    pairs = sorted({tuple(sorted((bond[0].index, bond[1].index))) for bond in topology.bonds()})
    return Molecule(
        name=name,
        atom_names=atom_names,
        elements=tuple(atom.element.symbol for atom in atoms),
        residue_names=residue_names,
        residue_of_atom=residue_of_atom,
        bonds=np.array(pairs, dtype=np.int64).reshape(-1, 2),
        stereocentres=natural_stereocentres(atom_names, residue_names, residue_of_atom),
    )


def topology_of_molecule(molecule: Molecule) -> Any:
    """The OpenMM topology of a molecule; a new chain starts where a residue is not bonded to the one before it.

    Raises:
        InputError: an atom's element is not known.
    """
    from openmm import app

    topology = app.Topology()
    linked = {
        tuple(sorted((int(molecule.residue_of_atom[a]), int(molecule.residue_of_atom[b])))) for a, b in molecule.bonds
    }
    atoms: list[Any] = []
    chain, residues = None, []
    for index, name in enumerate(molecule.residue_names):
        if chain is None or (index - 1, index) not in linked:
            chain = topology.addChain()
        residues.append(topology.addResidue(name, chain))
    for name, symbol, residue in zip(molecule.atom_names, molecule.elements, molecule.residue_of_atom, strict=True):
        try:
            element = app.Element.getBySymbol(symbol)
        except KeyError as error:
            raise InputError(
                f"atom {name} of {molecule.residue_names[int(residue)]} {int(residue) + 1} has no element ('{symbol}')",
                where=molecule.name,
                fix="write the element in columns 77-78 of the PDB file",
            ) from error
        atoms.append(topology.addAtom(name, element, residues[int(residue)]))
    for a, b in molecule.bonds:
        topology.addBond(atoms[int(a)], atoms[int(b)])
    return topology


def select_atoms(molecule: Molecule, atoms: Int[np.ndarray, " chosen"]) -> Molecule:
    """The molecule of some atoms, in the given order, with the bonds among them."""
    new = {int(old): i for i, old in enumerate(atoms)}
    bonds = [(new[int(a)], new[int(b)]) for a, b in molecule.bonds if int(a) in new and int(b) in new]
    atom_names = tuple(molecule.atom_names[i] for i in atoms)
    residue_of_atom = molecule.residue_of_atom[atoms]
    return Molecule(
        name=molecule.name,
        atom_names=atom_names,
        elements=tuple(molecule.elements[i] for i in atoms),
        residue_names=molecule.residue_names,
        residue_of_atom=residue_of_atom,
        bonds=np.array(sorted(tuple(sorted(pair)) for pair in bonds), dtype=np.int64).reshape(-1, 2),
        stereocentres=natural_stereocentres(atom_names, molecule.residue_names, residue_of_atom),
    )


def neighbour_lists(molecule: Molecule) -> list[list[int]]:
    """Bonded atoms of each atom, rising."""
    neighbours: list[list[int]] = [[] for _ in range(molecule.n_atoms)]
    for a, b in molecule.bonds:
        neighbours[int(a)].append(int(b))
        neighbours[int(b)].append(int(a))
    return [sorted(row) for row in neighbours]
