"""Molecules with bond orders and charges, from SMILES, SDF and MOL files, and their conformers; RDKit's side of the
currency.

All atoms are explicit: these molecules are scored with the hydrogens that come with them.
"""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from ancdiff.errors import InputError
from ancdiff.molecules import Molecule, signed_volumes
from ancdiff.units import ANGSTROM_PER_NM

MOLECULE_FILES = (".sdf", ".mol")
CONFORMER_FILES = (*MOLECULE_FILES, ".xyz")
RESIDUE = "UNL"
"""The PDB's name of an unknown ligand."""
# Smallest signed volume of a tetrahedral stereocentre, in nm³: bonds of 0.15 nm make 0.0026, bonds to hydrogen 0.001.
_FLAT_NM3 = 1e-4

# Why a record of a file is no conformer of the molecule.
REFUSALS: dict[str, str] = {
    "unreadable": "this record of the file is damaged or cut short",
    "other_molecule": "this record has other atoms or bonds than the topology, or the same in another order",
}


def is_molecule_file(path: Path) -> bool:
    """Whether a topology is of a format that carries bond orders and charges."""
    return path.suffix.lower() in MOLECULE_FILES


def read_molecule_file(path: Path, *, name: str) -> Molecule:
    """The first molecule of an SDF or MOL file, all its atoms, with the handedness of its coordinates.

    Raises:
        InputError: the file has no molecule, a valence is impossible, hydrogens are missing, or a bond has no order.
    """
    graphs = _records(path)
    graph = next(graphs, None)
    if graph is None:
        raise InputError("this file has no molecule", where=str(path), fix="hand in an SDF or MOL file, written whole")
    return molecule_of_graph(graph, name, where=str(path))


def molecule_of_graph(graph: Any, name: str, *, where: str = "") -> Molecule:
    """The molecule of an RDKit Mol with one conformer; atoms are named by element and number (C1, H2 …).

    Raises:
        InputError: a valence is impossible, hydrogens are missing, or a bond has no order.
    """
    from rdkit import Chem

    graph = _sanitised(graph, where)
    implicit = sum(atom.GetTotalNumHs() for atom in graph.GetAtoms())
    if implicit:
        raise InputError(
            f"{implicit} hydrogens are missing",
            where=where,
            fix="write the molecule with all its hydrogens, e.g. obabel in.sdf -O molecule.sdf -h",
        )
    kekule = Chem.Mol(graph)
    Chem.Kekulize(kekule, clearAromaticFlags=True)
    orders = {_ends(bond): bond.GetBondTypeAsDouble() for bond in kekule.GetBonds()}
    if not set(orders.values()) <= {1.0, 2.0, 3.0}:
        raise InputError("a bond is neither single, double nor triple", where=where, fix="write it with one of these")
    pairs = sorted(orders)
    elements = tuple(atom.GetSymbol() for atom in graph.GetAtoms())
    return Molecule(
        name=name,
        atom_names=tuple(f"{element}{i + 1}" for i, element in enumerate(elements)),
        elements=elements,
        residue_names=(RESIDUE,),
        residue_of_atom=np.zeros(len(elements), dtype=np.int64),
        bonds=np.array(pairs, dtype=np.int64).reshape(-1, 2),
        stereocentres=_stereocentres(graph),
        cis=_cis(graph),
        bond_orders=tuple(int(orders[pair]) for pair in pairs),
        formal_charges=tuple(atom.GetFormalCharge() for atom in graph.GetAtoms()),
    )


def graph_of_smiles(smiles: str, *, where: str = "") -> Any:
    """The RDKit Mol of a SMILES, with all its hydrogens and without conformers.

    Raises:
        InputError: it is no SMILES, is empty, has an impossible valence, or is of several molecules.
    """
    from rdkit import Chem, rdBase

    with rdBase.BlockLogs():
        graph = Chem.MolFromSmiles(smiles, sanitize=False)
    if graph is None or graph.GetNumAtoms() == 0:
        raise InputError(
            f"this is not a SMILES: '{smiles}'", where=where, fix="look for a missing bracket, ring number or bond"
        )
    whole = Chem.AddHs(_sanitised(graph, f"{where}: {smiles}" if where else smiles))
    pieces = len(Chem.GetMolFrags(whole))
    if pieces > 1:
        raise InputError(
            f"'{smiles}' is {pieces} molecules", where=where, fix="give one molecule: leave out what follows the dot"
        )
    return whole


def graph_of_record(path: Path, record: int) -> Any:
    """The RDKit Mol, with its conformer, of one record (counted from 1) of an SDF or MOL file.

    Raises:
        InputError: there is no such record, or it is damaged or chemically impossible.
    """
    number = 0
    for number, graph in enumerate(_records(path), start=1):
        if number == record:
            if graph is None:
                raise InputError(REFUSALS["unreadable"], where=f"{path}, record {record}", fix="write the file again")
            return _sanitised(graph, f"{path}, record {record}")
    raise InputError(
        f"there is no record {record}: this file has {number}", where=str(path), fix="count its records from 1"
    )


def graph_of_positions(elements: Sequence[str], positions_nm: Float[np.ndarray, "atoms 3"], *, where: str = "") -> Any:
    """The RDKit Mol of a neutral molecule that is known by its atoms alone; its bonds are told by distances.

    Raises:
        InputError: the distances make no molecule.

    References:
        Kim and Kim, Bull. Korean Chem. Soc. 36, 1769 (2015), as RDKit has it.
    """
    from rdkit import Chem, rdBase
    from rdkit.Chem import rdDetermineBonds

    graph = Chem.RWMol()
    for element in elements:
        graph.AddAtom(Chem.Atom(element))
    graph.AddConformer(_conformer(positions_nm))
    try:
        with rdBase.BlockLogs():
            rdDetermineBonds.DetermineBonds(graph, charge=0)
    except (ValueError, RuntimeError, Chem.MolSanitizeException) as error:
        raise InputError(
            f"the distances of its atoms make no molecule: {error}", where=where, fix="give its SMILES instead"
        ) from error
    return graph.GetMol()


def plain_smiles(graph: Any) -> str:
    """Canonical SMILES of an RDKit Mol without hydrogens and handedness: two graphs are one where theirs are."""
    from rdkit import Chem

    return Chem.MolToSmiles(Chem.RemoveHs(graph), isomericSmiles=False)


def graph_of_molecule(molecule: Molecule, *positions_nm: Float[np.ndarray, "atoms 3"]) -> Any:
    """The RDKit Mol of a molecule, with a conformer for each array, its atoms in the same order and none implicit.

    Raises:
        InputError: the bond orders are not known, or make an impossible valence.
    """
    from rdkit import Chem

    if molecule.bond_orders is None or molecule.formal_charges is None:
        raise InputError(
            "the bond orders and charges of this molecule are not known",
            where=molecule.name,
            fix="hand in an SDF or MOL file as its topology",
        )
    graph = Chem.RWMol()
    for element, charge in zip(molecule.elements, molecule.formal_charges, strict=True):
        atom = Chem.Atom(element)
        atom.SetFormalCharge(charge)
        atom.SetNoImplicit(True)
        graph.AddAtom(atom)
    kinds = {1: Chem.BondType.SINGLE, 2: Chem.BondType.DOUBLE, 3: Chem.BondType.TRIPLE}
    for (a, b), order in zip(molecule.bonds, molecule.bond_orders, strict=True):
        graph.AddBond(int(a), int(b), kinds[order])
    for one in positions_nm:
        graph.AddConformer(_conformer(one), assignId=True)
    return _sanitised(graph.GetMol(), molecule.name)


def best_rmsd_nm(generated: Any, reference: Any, *, polar: bool = False) -> Float[np.ndarray, "generated reference"]:
    """RMSD (nm) of heavy atoms of each pair of conformers, least over superpositions and the molecule's symmetries.

    With ``polar`` hydrogens that are not bonded to carbon count as well. Both are RDKit Mols of one molecule.
    """
    from rdkit.Chem import rdMolAlign

    a, b = (_without_hydrogens(molecule, polar=polar) for molecule in (generated, reference))
    ids = [[c.GetId() for c in molecule.GetConformers()] for molecule in (a, b)]
    table = np.empty((len(ids[0]), len(ids[1])))
    for (i, first), (j, second) in itertools.product(enumerate(ids[0]), enumerate(ids[1])):
        table[i, j] = rdMolAlign.GetBestRMS(a, b, prbId=first, refId=second) / ANGSTROM_PER_NM
    return table


def read_conformers(path: Path, molecule: Molecule) -> tuple[Float[np.ndarray, "conformers atoms 3"], dict[int, str]]:
    """Positions of each record of an SDF, MOL or XYZ file, NaN where a record is refused; and why (`REFUSALS`).

    Raises:
        InputError: the file has no record, or none that is a conformer of the molecule.
    """
    read = _xyz_records if path.suffix.lower() == ".xyz" else _sdf_records
    positions_nm, refused = [], {}
    for number, (found, why) in enumerate(read(path, molecule)):
        if found is None:
            refused[number] = why
        positions_nm.append(np.full((molecule.n_atoms, 3), np.nan) if found is None else found / ANGSTROM_PER_NM)
    if len(positions_nm) == len(refused):
        reason = REFUSALS[next(iter(refused.values()))] if refused else "the file is empty"
        raise InputError(
            f"this file has no conformer of the molecule: {reason}",
            where=f"{path} (topology: {molecule.name}, {molecule.n_atoms} atoms)",
            fix="hand in whole records of the topology's atoms, hydrogens included, in the topology's order",
        )
    return np.array(positions_nm), refused


def unpaired_electrons(graph: Any) -> int:
    """Unpaired electrons of an RDKit Mol, by its valences."""
    return sum(atom.GetNumRadicalElectrons() for atom in graph.GetAtoms())


def _records(path: Path) -> Iterator[Any]:
    """RDKit Mols of an SDF or MOL file as they stand there; None where a record cannot be read."""
    from rdkit import Chem, rdBase

    if path.stat().st_size == 0:  # RDKit takes it for a file that is not there
        return
    with rdBase.BlockLogs():  # RDKit's complaints about a record become a reason in its row
        yield from Chem.SDMolSupplier(str(path), sanitize=False, removeHs=False)


def _sdf_records(path: Path, molecule: Molecule) -> Iterator[tuple[np.ndarray | None, str]]:
    wanted = {(int(a), int(b)) for a, b in molecule.bonds}
    for graph in _records(path):
        if graph is None or graph.GetNumConformers() != 1:
            yield None, "unreadable"
            continue
        elements = tuple(atom.GetSymbol() for atom in graph.GetAtoms())
        bonds = {_ends(bond) for bond in graph.GetBonds()}
        if elements != molecule.elements or bonds != wanted:
            yield None, "other_molecule"
        else:
            yield graph.GetConformer().GetPositions(), ""


def _xyz_records(path: Path, molecule: Molecule) -> Iterator[tuple[np.ndarray | None, str]]:
    """Records of an XYZ file, in Å; columns beyond the fourth (charges, forces) are left alone."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    at = 0
    while at < len(lines):
        if not lines[at].strip():
            at += 1
            continue
        head = lines[at].split()
        if not head[0].isdecimal():  # no telling where the next record starts
            yield None, "unreadable"
            return
        atoms = int(head[0])
        rows = [line.split() for line in lines[at + 2 : at + 2 + atoms]]
        at += 2 + atoms
        # QM9's files write 1.5*^-6 for 1.5e-6.
        try:
            positions = np.array([[float(v.replace("*^", "e")) for v in row[1:4]] for row in rows]).reshape(atoms, 3)
        except ValueError:
            yield None, "unreadable"
            continue
        if tuple(row[0].capitalize() for row in rows) != molecule.elements:
            yield None, "other_molecule"
        else:
            yield positions, ""


def _conformer(positions_nm: Float[np.ndarray, "atoms 3"]) -> Any:
    from rdkit import Chem
    from rdkit.Geometry import Point3D

    conformer = Chem.Conformer(len(positions_nm))
    for i, (x, y, z) in enumerate(np.asarray(positions_nm, dtype=np.float64) * ANGSTROM_PER_NM):
        conformer.SetAtomPosition(i, Point3D(float(x), float(y), float(z)))
    return conformer


def _without_hydrogens(graph: Any, *, polar: bool) -> Any:
    from rdkit import Chem

    if not polar:
        return Chem.RemoveHs(graph)
    kept = Chem.RWMol(graph)
    for atom in reversed(list(graph.GetAtoms())):
        if atom.GetSymbol() == "H" and [n.GetSymbol() for n in atom.GetNeighbors()] == ["C"]:
            kept.RemoveAtom(atom.GetIdx())
    return kept.GetMol()


def _ends(bond: Any) -> tuple[int, int]:
    a, b = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
    return (a, b) if a < b else (b, a)


def _sanitised(graph: Any, where: str) -> Any:
    from rdkit import Chem, rdBase

    graph = Chem.Mol(graph)
    try:
        with rdBase.BlockLogs():
            Chem.SanitizeMol(graph)
    except (Chem.MolSanitizeException, ValueError) as error:
        raise InputError(
            f"this molecule is chemically impossible: {error}",
            where=where,
            fix="mend its bond orders and formal charges (lines M  CHG) in the file",
        ) from error
    return graph


def _stereocentres(graph: Any) -> Int[np.ndarray, "centres 4"]:
    """(centre, a, b, c) of the tetrahedral stereocentres, with positive signed volume in the graph's conformer."""
    from rdkit import Chem

    graph = Chem.Mol(graph)
    graph.GetConformer().Set3D(True)
    Chem.AssignStereochemistryFrom3D(graph)
    positions_nm = graph.GetConformer().GetPositions() / ANGSTROM_PER_NM
    rows = []
    for centre, _ in Chem.FindMolChiralCenters(graph, includeUnassigned=False, useLegacyImplementation=False):
        near = sorted(n.GetIdx() for n in graph.GetAtomWithIdx(centre).GetNeighbors())[:3]
        row = np.array([[centre, *near]], dtype=np.int64)
        volume = float(signed_volumes(positions_nm[None], row)[0, 0])
        if abs(volume) > _FLAT_NM3:
            rows.append(row[0] if volume > 0 else row[0][[0, 2, 1, 3]])
    return np.array(rows, dtype=np.int64).reshape(-1, 4)


def _cis(graph: Any) -> Int[np.ndarray, "pairs 4"]:
    """(i, j, k, l) with i and l on one side of a double bond j=k that has two forms, as in the graph's conformer."""
    from rdkit import Chem

    graph = Chem.Mol(graph)
    graph.GetConformer().Set3D(True)
    Chem.AssignStereochemistryFrom3D(graph)
    positions = graph.GetConformer().GetPositions()
    rows = []
    for bond in graph.GetBonds():
        if bond.GetStereo() in (Chem.BondStereo.STEREONONE, Chem.BondStereo.STEREOANY):
            continue
        j, k = _ends(bond)
        near = [{n.GetIdx() for n in graph.GetAtomWithIdx(end).GetNeighbors()} for end in (j, k)]
        axis = positions[k] - positions[j]
        for i, l in itertools.product(near[0] - {k}, near[1] - {j}):  # noqa: E741 (its four atoms)
            normals = np.cross(positions[j] - positions[i], axis), np.cross(axis, positions[l] - positions[k])
            if float(normals[0] @ normals[1]) > 0:
                rows.append((i, j, k, l))
    return np.array(sorted(rows), dtype=np.int64).reshape(-1, 4)
