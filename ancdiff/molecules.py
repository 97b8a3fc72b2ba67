"""The currency of the house: a molecule, an ensemble of its conformers, and the table of their energies."""

from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from ancdiff.errors import InputError

# Neighbours (a, b, c) of each tetrahedral stereocentre of the L amino acids, in the order that makes
# (a - centre) · [(b - centre) × (c - centre)] positive.
_BACKBONE_STEREO = ("N", "C", "CB")
_SIDECHAIN_STEREO = {"ILE": ("CB", ("CA", "CG1", "CG2")), "THR": ("CB", ("CA", "OG1", "CG2"))}


@dataclass(frozen=True, eq=False)
class Molecule:
    """Atoms, residues and bonds of one molecule; no coordinates.

    ``stereocentres`` rows are (centre, a, b, c) with a positive signed volume (a−o)·[(b−o)×(c−o)] in the natural
    (L) configuration; of a molecule from an SDF file, in the file's.

    ``cis`` rows are (i, j, k, l): i and l are on one side of the double bond j=k, which cannot turn; known of molecules
    from an SDF file or a SMILES.

    ``bond_orders`` (1, 2 or 3 of each row of ``bonds``) and ``formal_charges`` (of each atom, in units of e) are known
    of molecules from an SDF file; None where a standard residue's name says them.
    """

    name: str
    atom_names: tuple[str, ...]
    elements: tuple[str, ...]
    residue_names: tuple[str, ...]
    residue_of_atom: Int[np.ndarray, " atoms"]
    bonds: Int[np.ndarray, "bonds 2"]
    stereocentres: Int[np.ndarray, "centres 4"] = field(default_factory=lambda: np.zeros((0, 4), dtype=np.int64))
    bond_orders: tuple[int, ...] | None = None
    formal_charges: tuple[int, ...] | None = None
    cis: Int[np.ndarray, "pairs 4"] = field(default_factory=lambda: np.zeros((0, 4), dtype=np.int64))

    @property
    def n_atoms(self) -> int:
        return len(self.atom_names)

    def atom_index(self, residue: int, atom_name: str) -> int | None:
        """Index of a residue's atom by name, or None where the residue has no such atom."""
        for i in np.flatnonzero(self.residue_of_atom == residue):
            if self.atom_names[i] == atom_name:
                return int(i)
        return None

    def torsion(self, residue: int, kind: str) -> tuple[int, int, int, int] | None:
        """Atoms of a backbone torsion: 'phi' = C(i-1) N CA C, 'psi' = N CA C N(i+1); None where it is not there.

        At a chain break (residues in order, but no bond between them) it is not there either.
        """
        named = {
            "phi": ((residue - 1, "C"), (residue, "N"), (residue, "CA"), (residue, "C")),
            "psi": ((residue, "N"), (residue, "CA"), (residue, "C"), (residue + 1, "N")),
        }[kind]
        i, j, k, last = (self.atom_index(r, name) for r, name in named)
        if i is None or j is None or k is None or last is None:
            return None
        link = {i, j} if kind == "phi" else {k, last}
        return (i, j, k, last) if any(link == {int(a), int(b)} for a, b in self.bonds) else None

    def ramachandran_residues(self) -> list[int]:
        """Residues that have both φ and ψ."""
        return [
            r
            for r in range(len(self.residue_names))
            if self.torsion(r, "phi") is not None and self.torsion(r, "psi") is not None
        ]


def natural_stereocentres(
    atom_names: tuple[str, ...], residue_names: tuple[str, ...], residue_of_atom: np.ndarray
) -> Int[np.ndarray, "centres 4"]:
    """Stereocentres of the amino acids in a molecule: Cα of all but glycine, Cβ of Ile and Thr."""
    index = {(int(residue_of_atom[i]), name): i for i, name in enumerate(atom_names)}
    rows = []
    for r, residue in enumerate(residue_names):
        wanted: list[tuple[str, tuple[str, str, str]]] = [("CA", _BACKBONE_STEREO)]
        if residue in _SIDECHAIN_STEREO:
            wanted.append(_SIDECHAIN_STEREO[residue])
        for centre, neighbours in wanted:
            row = [index.get((r, name)) for name in (centre, *neighbours)]
            if None not in row:
                rows.append(row)
    return np.array(rows, dtype=np.int64).reshape(-1, 4)


def signed_volumes(
    positions_nm: Float[np.ndarray, "conformers atoms 3"], stereocentres: Int[np.ndarray, "centres 4"]
) -> Float[np.ndarray, "conformers centres"]:
    """Signed volume (a−o)·[(b−o)×(c−o)] of each stereocentre, nm³; positive in the natural (L) configuration."""
    o, a, b, c = (positions_nm[:, stereocentres[:, k]] for k in range(4))
    return np.einsum("fck,fck->fc", a - o, np.cross(b - o, c - o))


def has_right_hands(
    molecule: Molecule, positions_nm: Float[np.ndarray, "conformers atoms 3"]
) -> Bool[np.ndarray, " conformers"]:
    """Whether every stereocentre has the molecule's hand and every double bond its sides.

    Atoms i and l are on one side of the bond j=k where the dihedral angle i-j-k-l is below 90°.
    """
    p = np.asarray(positions_nm, dtype=np.float64)
    right = (signed_volumes(p, molecule.stereocentres) > 0).all(axis=1)
    i, j, k, l = (p[:, molecule.cis[:, column]] for column in range(4))  # noqa: E741 (its four atoms)
    normals = np.cross(j - i, k - j), np.cross(k - j, l - k)
    return right & (np.sum(normals[0] * normals[1], axis=-1) > 0).all(axis=1)


@dataclass(frozen=True, eq=False)
class Ensemble:
    """Conformers of one molecule.

    ``refused``: records of the file that are no conformer of the molecule, with the reason (a status of the energy
    table). Their positions are NaN, so that the others keep their numbers.
    """

    molecule: Molecule
    positions_nm: Float[np.ndarray, "conformers atoms 3"]
    refused: dict[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.positions_nm.ndim != 3 or self.positions_nm.shape[1:] != (self.molecule.n_atoms, 3):
            raise InputError(
                f"positions have shape {self.positions_nm.shape}, not (conformers, {self.molecule.n_atoms}, 3)",
                where=self.molecule.name,
                fix="hand in a trajectory of the same atoms as the topology, in the same order",
            )

    def __len__(self) -> int:
        return len(self.positions_nm)


# Columns of an energy table: one row per scored conformer, in the order of the ensemble.
ENERGY_COLUMNS: dict[str, str] = {
    "conformer": "int64",  # index in the ensemble's trajectory
    "status": "str",  # 'ok', or a reason from forcefield.energies.FAILURES; only 'ok' gets a Boltzmann weight
    "energy_kj_mol": "float64",  # after relaxation, without the restraint's energy: the target of alignment
    "energy_placed_kj_mol": "float64",  # before relaxation: of all-atom input as it is, else with the hydrogens placed
    "energy_hydrogens_kj_mol": "float64",  # hydrogens relaxed, heavy atoms where they were; NaN with relax: none
    "bond_kj_mol": "float64",  # parts of energy_kj_mol
    "angle_kj_mol": "float64",
    "torsion_kj_mol": "float64",
    "nonbonded_kj_mol": "float64",
    "solvation_kj_mol": "float64",
    "electronic_kj_mol": "float64",  # all of GFN2-xTB's energy, which has no parts; 0 in a force field
    "hydrogen_entropy_kj_mol": "float64",  # −TS of the hydrogens, part of energy_kj_mol; 0 unless asked for
    "steps": "int64",  # evaluations of the full energy by the relaxation (iterations of OpenMM's minimiser)
    "strain_kj_mol": "float64",  # lost in the relaxation: energy_placed minus the energy after it, without entropy
    "displacement_nm": "float64",  # RMS displacement of the input's atoms by the relaxation
    "clashes": "int64",  # pairs ≥ 3 bonds apart nearer than 0.6 × the sum of their van der Waals radii, before it
    "wall_seconds": "float64",
}


def evenly_spaced(conformers: int, wanted: int | None) -> Int[np.ndarray, " chosen"]:
    """Indices of ``wanted`` evenly spaced conformers, or of all."""
    if wanted is None or wanted >= conformers:
        return np.arange(conformers)
    return np.arange(wanted) * conformers // wanted


def check_energy_table(table: pd.DataFrame, *, where: str = "") -> pd.DataFrame:
    """Columns and types of an energy table, in their order.

    Raises:
        InputError: a column is missing, or a conformer appears twice.
    """
    missing = [name for name in ENERGY_COLUMNS if name not in table.columns]
    if missing:
        raise InputError(
            f"an energy table lacks {', '.join(missing)}", where=where, fix="make it again with: ancdiff score"
        )
    if table["conformer"].duplicated().any():
        raise InputError("an energy table has a conformer twice", where=where, fix="make it again with: ancdiff score")
    return table[list(ENERGY_COLUMNS)].astype(ENERGY_COLUMNS)
