"""What the network is told about a molecule: types, names, places in the chain, the bond graph, and its chemistry.

Everything here follows from the molecule alone, never from coordinates, so it is the same for all conformers and
does not turn with them. Integers index the fixed vocabularies below; the last entry of each stands for all others.
The order of a vocabulary is part of every trained model: append, never insert.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from ancdiff.chemistry import graph_of_molecule
from ancdiff.dataset.residues import AMINO_ACIDS, CAPS, canonical_residue_name
from ancdiff.molecules import Molecule

OTHER = "other"
ATOM_TYPES = ("H", "C", "N", "O", "S", "P", "F", "Cl", "Br", "I", "Se", "B", OTHER)
RESIDUE_TYPES = (*AMINO_ACIDS, *CAPS, OTHER)
ATOM_NAMES = (
    "N", "CA", "C", "O", "OXT", "CB", "CH3",
    "CG", "CG1", "CG2", "OG", "OG1", "SG",
    "CD", "CD1", "CD2", "OD1", "OD2", "ND1", "ND2", "SD",
    "CE", "CE1", "CE2", "CE3", "NE", "NE1", "NE2", "OE1", "OE2",
    "CZ", "CZ2", "CZ3", "NZ", "CH2", "OH", "NH1", "NH2",
    OTHER,
)  # fmt: skip
POSITION_FEATURES = ("from_start", "from_end", "first", "last")
UNKNOWN = "unknown"
CHEMISTRY: dict[str, tuple[str, ...]] = {
    "formal_charge": (UNKNOWN, "0", "-1", "1", "-2", "2", OTHER),
    "hybridisation": (UNKNOWN, "S", "SP", "SP2", "SP3", OTHER),
    "aromatic": (UNKNOWN, "False", "True"),
    "smallest_ring": (UNKNOWN, "0", "3", "4", "5", "6", "7", OTHER),
}
"""Words for an atom of a molecule whose bond orders are known; one of a peptide has the first of each."""
PAIR_KINDS = (
    UNKNOWN, "apart", "single", "double", "triple", "aromatic", "conjugated", "cis", "trans",
)  # fmt: skip
"""Kind of a pair of atoms: of the bond between them (conjugated: a single one), or sides of a double bond."""
MAX_BOND_DISTANCE = 6
"""Bond-graph distances are counted up to here; atoms farther apart, or not connected, have this value."""
_POSITION_SCALE_RESIDUES = 8.0


@dataclass(frozen=True, eq=False)
class MoleculeFeatures:
    """Features of one molecule.

    ``torsions`` rows are (i, j, k, l) with bonds i–j, j–k, k–l and shortest path three bonds from i to l. Each ordered
    pair (i, l) has exactly one row, and the row of (l, i) is the same path read backwards (l, k, j, i): the
    dihedral angle of both is equal. ``residue_position`` columns are `POSITION_FEATURES`, those of ``chemistry`` the
    keys of `CHEMISTRY`; ``pair_kind`` indexes `PAIR_KINDS`.
    """

    atom_type: Int[np.ndarray, " atoms"]
    residue_type: Int[np.ndarray, " atoms"]
    atom_name: Int[np.ndarray, " atoms"]
    residue_of_atom: Int[np.ndarray, " atoms"]
    residue_position: Float[np.ndarray, "atoms 4"]
    bond_distance: Int[np.ndarray, "atoms atoms"]
    torsions: Int[np.ndarray, "torsions 4"]
    stereocentres: Int[np.ndarray, "centres 4"]
    chemistry: Int[np.ndarray, "atoms kinds"]
    pair_kind: Int[np.ndarray, "atoms atoms"]

    @property
    def n_atoms(self) -> int:
        return len(self.atom_type)


def molecule_features(molecule: Molecule) -> MoleculeFeatures:
    """Features of a molecule; the same molecule gives the same arrays, bit for bit."""
    residue_of_atom = np.asarray(molecule.residue_of_atom, dtype=np.int64)
    chemistry, pair_kind = _chemistry(molecule)
    residue_type = _indices([canonical_residue_name(name) for name in molecule.residue_names], RESIDUE_TYPES)
    return MoleculeFeatures(
        atom_type=_indices(molecule.elements, ATOM_TYPES),
        residue_type=residue_type[residue_of_atom],
        atom_name=_indices(molecule.atom_names, ATOM_NAMES),
        residue_of_atom=residue_of_atom,
        residue_position=_residue_positions(len(molecule.residue_names))[residue_of_atom],
        bond_distance=bond_distances(molecule.n_atoms, molecule.bonds),
        torsions=torsion_paths(molecule.n_atoms, molecule.bonds),
        stereocentres=np.asarray(molecule.stereocentres, dtype=np.int64).reshape(-1, 4),
        chemistry=chemistry,
        pair_kind=pair_kind,
    )


def _chemistry(
    molecule: Molecule,
) -> tuple[Int[np.ndarray, "atoms kinds"], Int[np.ndarray, "atoms atoms"]]:
    """Indices into `CHEMISTRY` and `PAIR_KINDS`, by RDKit's model of aromaticity, conjugation and rings."""
    n = molecule.n_atoms
    if molecule.bond_orders is None:
        return np.zeros((n, len(CHEMISTRY)), dtype=np.int64), np.zeros((n, n), dtype=np.int64)
    graph = graph_of_molecule(molecule)
    rings = graph.GetRingInfo()
    words = [
        (
            str(atom.GetFormalCharge()),
            str(atom.GetHybridization()),
            str(atom.GetIsAromatic()),
            str(rings.MinAtomRingSize(atom.GetIdx())),
        )
        for atom in graph.GetAtoms()
    ]
    columns = [_indices(said, known) for said, known in zip(zip(*words, strict=True), CHEMISTRY.values(), strict=True)]
    kind = np.full((n, n), PAIR_KINDS.index("apart"))
    for bond in graph.GetBonds():
        word = str(bond.GetBondType()).lower()
        if word == "single" and bond.GetIsConjugated():
            word = "conjugated"
        a, b = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
        kind[a, b] = kind[b, a] = PAIR_KINDS.index(word)
    turning = {frozenset((int(j), int(k))) for _, j, k, _ in molecule.cis}
    beside = _neighbours(n, molecule.bonds)
    for j, k in (sorted(pair) for pair in turning):
        for i, l in ((i, l) for i in beside[j] for l in beside[k] if i != k and l != j):  # noqa: E741 (its four atoms)
            kind[i, l] = kind[l, i] = PAIR_KINDS.index("trans")
    for i, _, _, l in molecule.cis:  # noqa: E741
        kind[i, l] = kind[l, i] = PAIR_KINDS.index("cis")
    return np.stack(columns, axis=1), kind


def bond_distances(n_atoms: int, bonds: Int[np.ndarray, "bonds 2"]) -> Int[np.ndarray, "atoms atoms"]:
    """Number of bonds on the shortest path between each two atoms, capped at `MAX_BOND_DISTANCE`."""
    distance = np.full((n_atoms, n_atoms), MAX_BOND_DISTANCE, dtype=np.int64)
    neighbours = _neighbours(n_atoms, bonds)
    for start in range(n_atoms):
        distance[start, start] = 0
        shell = [start]
        for steps in range(1, MAX_BOND_DISTANCE):
            shell = [b for a in shell for b in neighbours[a] if distance[start, b] > steps]
            distance[start, shell] = steps
    return distance


def torsion_paths(n_atoms: int, bonds: Int[np.ndarray, "bonds 2"]) -> Int[np.ndarray, "torsions 4"]:
    """One path (i, j, k, l) for each ordered pair exactly three bonds apart, sorted by (i, l).

    Where a ring offers several paths, the one with the smallest (j, k), i < l, stands for both directions.
    """
    neighbours = _neighbours(n_atoms, bonds)
    paths: dict[tuple[int, int], tuple[int, int, int, int]] = {}
    for i in range(n_atoms):
        within_two = {i, *neighbours[i], *(k for j in neighbours[i] for k in neighbours[j])}
        for j in neighbours[i]:
            for k in neighbours[j]:
                for last in neighbours[k]:
                    if i < last and last not in within_two and (i, last) not in paths:
                        paths[i, last] = (i, j, k, last)
                        paths[last, i] = (last, k, j, i)
    return np.array([paths[pair] for pair in sorted(paths)], dtype=np.int64).reshape(-1, 4)


def _neighbours(n_atoms: int, bonds: np.ndarray) -> list[list[int]]:
    found: list[set[int]] = [set() for _ in range(n_atoms)]
    for a, b in np.asarray(bonds, dtype=np.int64).reshape(-1, 2):
        found[a].add(int(b))
        found[b].add(int(a))
    return [sorted(atoms) for atoms in found]


def _residue_positions(n_residues: int) -> Float[np.ndarray, "residues 4"]:
    """Distance from both ends of the chain, saturating (n / (n + 8), in [0, 1)), and whether it is an end."""
    from_start = np.arange(n_residues, dtype=np.float64)
    from_end = from_start[::-1]
    columns = [
        from_start / (from_start + _POSITION_SCALE_RESIDUES),
        from_end / (from_end + _POSITION_SCALE_RESIDUES),
        from_start == 0,
        from_end == 0,
    ]
    return np.stack(columns, axis=1).astype(np.float32)


def _indices(words: Sequence[str], vocabulary: tuple[str, ...]) -> Int[np.ndarray, " words"]:
    known = {word: i for i, word in enumerate(vocabulary)}
    return np.array([known[word if word in known else OTHER] for word in words], dtype=np.int64)
