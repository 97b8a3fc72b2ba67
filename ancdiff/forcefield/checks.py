"""Are these conformers of this molecule, in nm, and which of them shows its geometry?"""

import numpy as np
from jaxtyping import Float

from ancdiff.errors import InputError
from ancdiff.molecules import Molecule, signed_volumes

_PLAUSIBLE_BOND_NM = (0.05, 0.5)
_GOOD_BOND_NM = (0.08, 0.25)
# Of a molecule's bonds, without the extreme tenths: S–S has 0.205 nm, O–H 0.096 nm.
_LONGEST_TO_SHORTEST = 2.5
# Between heavy atoms: no bond is longer (S–S has 0.205 nm), and no two atoms that are not bonded stay nearer.
_LONGEST_BOND_NM = 0.22
_NEAREST_STRANGERS_NM = 0.18
_COMPARED = 32


def check_units(molecule: Molecule, positions_nm: Float[np.ndarray, "conformers atoms 3"]) -> None:
    """Positions are in nm, by the bond lengths of the finite conformers.

    A slip of units makes all bonds longer or shorter alike. Bonds that are too long and uneven are bad conformers (a
    model that is trained too little), each of which gets its own status.

    Raises:
        InputError: bonds are as long as if Å (or pm) had been taken for nm.
    """
    finite = positions_nm[np.isfinite(positions_nm).all(axis=(1, 2))].astype(np.float64)
    if len(finite) == 0 or len(molecule.bonds) == 0:
        return
    ends = finite[:, molecule.bonds]
    lengths_nm = np.linalg.norm(ends[:, :, 0] - ends[:, :, 1], axis=-1)
    short, median, long = np.quantile(lengths_nm, [0.1, 0.5, 0.9])
    plausible = _PLAUSIBLE_BOND_NM[0] <= median <= _PLAUSIBLE_BOND_NM[1]
    if plausible or long > _LONGEST_TO_SHORTEST * short:
        return
    looks = "Å where nm belongs" if median > _PLAUSIBLE_BOND_NM[1] else "ten times too small"
    raise InputError(
        f"wrong units: the median bond is {median:.3g} nm long; the coordinates look like {looks}",
        where=molecule.name,
        fix="write the trajectory in its format's own unit (DCD and PDB: Å; XTC and GRO: nm), with mdtraj from nm",
    )


def check_atoms(molecule: Molecule, positions_nm: Float[np.ndarray, "conformers atoms 3"]) -> None:
    """The conformers are of this molecule: not of another with as many atoms, nor with its atoms in another order.

    Told by heavy atoms that are bonded but far apart at the median while others, not bonded, lie a bond apart in every
    conformer. Conformers that are only bad (a model that is trained too little) have no such others.

    Raises:
        InputError: names a pair of each kind.
    """
    from scipy.spatial import KDTree

    heavy = np.array([element != "H" for element in molecule.elements])
    finite = positions_nm[np.isfinite(positions_nm).all(axis=(1, 2))]
    bonds = molecule.bonds[heavy[molecule.bonds].all(axis=1)]
    if len(finite) == 0 or len(bonds) == 0:
        return
    some_nm = finite[np.linspace(0, len(finite) - 1, min(_COMPARED, len(finite))).astype(np.int64)].astype(np.float64)
    lengths_nm = np.median(np.linalg.norm(some_nm[:, bonds[:, 0]] - some_nm[:, bonds[:, 1]], axis=-1), axis=0)
    far = bonds[lengths_nm > _LONGEST_BOND_NM]
    near = KDTree(some_nm[0]).query_pairs(_NEAREST_STRANGERS_NM, output_type="ndarray").astype(np.int64).reshape(-1, 2)
    near = near[heavy[near].all(axis=1)]
    always = np.linalg.norm(some_nm[:, near[:, 0]] - some_nm[:, near[:, 1]], axis=-1).max(axis=0, initial=0.0)
    bonded = {tuple(sorted(map(int, pair))) for pair in bonds}
    strangers = [pair for pair in near[always < _NEAREST_STRANGERS_NM].tolist() if tuple(sorted(pair)) not in bonded]
    if len(far) >= 2 and len(strangers) >= 2:
        raise InputError(
            f"these conformers are of another molecule, or their atoms are in another order: {_pair(molecule, far[0])} "
            f"are bonded but {lengths_nm.max():.2f} nm apart, {_pair(molecule, strangers[0])} lie a bond apart and are "
            f"not bonded ({len(far)} and {len(strangers)} such pairs)",
            where=molecule.name,
            fix="give the topology that the conformers were written with",
        )


def first_good_conformer(molecule: Molecule, positions_nm: Float[np.ndarray, "conformers atoms 3"]) -> int:
    """Number of the first conformer that is finite with all bonds between 0.08 and 0.25 nm; else the first finite one.

    Raises:
        InputError: no conformer is finite.
    """
    finite = np.flatnonzero(np.isfinite(positions_nm).all(axis=(1, 2)))
    if len(finite) == 0:
        raise InputError(
            "no conformer has finite coordinates", where=molecule.name, fix="make the conformers again: all are NaN"
        )
    for k in finite:
        ends = positions_nm[k][molecule.bonds]
        lengths_nm = np.linalg.norm(ends[:, 0] - ends[:, 1], axis=-1)
        right_hand = (signed_volumes(positions_nm[k : k + 1], molecule.stereocentres) > 0).all()
        if right_hand and (lengths_nm > _GOOD_BOND_NM[0]).all() and (lengths_nm < _GOOD_BOND_NM[1]).all():
            return int(k)
    return int(finite[0])


def _pair(molecule: Molecule, atoms: np.ndarray | list[int]) -> str:
    """Two atoms by name and residue."""
    residues = (int(molecule.residue_of_atom[int(i)]) for i in atoms)
    return " and ".join(
        f"{molecule.atom_names[int(i)]} of {molecule.residue_names[r]} {r + 1}"
        for i, r in zip(atoms, residues, strict=True)
    )
