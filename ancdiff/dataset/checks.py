"""Is a frame a sound structure of its molecule? Finite, in nm, bonds intact, stereocentres of the natural hand."""

import numpy as np
from jaxtyping import Float

from ancdiff.dataset.frames import MdFrames
from ancdiff.molecules import Molecule, has_right_hands, signed_volumes

# Single-bond covalent radii in nm (Cordero et al., Dalton Trans. 2008, 2832); other elements count as carbon.
_COVALENT_RADIUS_NM = {
    "H": 0.031, "B": 0.084, "C": 0.076, "N": 0.071, "O": 0.066, "F": 0.057,
    "P": 0.107, "S": 0.105, "Cl": 0.102, "Se": 0.120, "Br": 0.120, "I": 0.139,
}  # fmt: skip
# Double and triple bonds are up to 21 % shorter than the sum of single-bond radii (nitrile).
_TYPICAL_TOLERANCE = 0.35
# Thermal motion changes the median bond length of a molecule by a few per cent; a slip of units by a factor of ten.
_UNITS_FACTOR = 3.0

REASONS = ("not finite", "units", "bond", "chirality")
"""What a frame is left out for; a reason starts with one of these words, followed by ': ' and the particulars."""


def expected_bond_lengths(molecule: Molecule) -> Float[np.ndarray, " bonds"]:
    """Sum of the covalent radii of each bond's atoms, nm."""
    radius = np.array([_COVALENT_RADIUS_NM.get(e, _COVALENT_RADIUS_NM["C"]) for e in molecule.elements])
    return radius[molecule.bonds].sum(axis=1)


def bond_lengths(molecule: Molecule, positions_nm: np.ndarray) -> Float[np.ndarray, "frames bonds"]:
    """Length of each bond in each frame, nm."""
    ends = np.asarray(positions_nm, dtype=np.float64)[:, molecule.bonds]
    with np.errstate(invalid="ignore", over="ignore"):
        return np.linalg.norm(ends[:, :, 1] - ends[:, :, 0], axis=-1)


def length_scale(molecule: Molecule, positions_nm: np.ndarray) -> Float[np.ndarray, " frames"]:
    """Median of bond length / expected length of each frame: near 1 in nm, near 10 where Å were taken for nm."""
    if len(molecule.bonds) == 0:
        return np.ones(len(positions_nm))
    return np.median(bond_lengths(molecule, positions_nm) / expected_bond_lengths(molecule), axis=1)


def check_frames(frames: MdFrames, *, max_bond_stretch: float) -> list[str | None]:
    """Reason why each frame must be left out, or None for a good one.

    A bond is broken where it differs from its median over the frames by more than ``max_bond_stretch`` of it. Where
    the median itself is not that of a bond (most frames broken, or atoms in another order than the topology's),
    the sum of covalent radii takes its place.
    """
    molecule, positions = frames.molecule, frames.positions_nm
    reasons: list[str | None] = [None] * len(frames)
    finite = np.isfinite(positions).all(axis=(1, 2))
    for f in np.flatnonzero(~finite):
        atom = int(np.flatnonzero(~np.isfinite(positions[f]).all(axis=1))[0])
        reasons[f] = f"not finite: the coordinates of {atom_label(molecule, atom)} are {positions[f, atom].tolist()}"
    good = np.flatnonzero(finite)
    scale = length_scale(molecule, positions[good])
    for f, s in zip(good, scale, strict=True):
        reasons[f] = _units_reason(float(s))
    good = good[(scale <= _UNITS_FACTOR) & (scale >= 1 / _UNITS_FACTOR)]
    for f, reason in zip(good, _bond_reasons(molecule, positions[good], max_bond_stretch), strict=True):
        reasons[f] = reason
    good = np.array([f for f in good if reasons[f] is None], dtype=np.int64)
    wrong = signed_volumes(positions[good].astype(np.float64), molecule.stereocentres) <= 0
    for row in np.flatnonzero(wrong.any(axis=1)):
        atom = int(molecule.stereocentres[wrong[row].argmax(), 0])
        hand = "the natural (L) hand" if molecule.bond_orders is None else "the hand of its topology"
        reasons[good[row]] = f"chirality: {atom_label(molecule, atom)} is not of {hand}"
    for row in np.flatnonzero(~wrong.any(axis=1) & ~has_right_hands(molecule, positions[good])):
        reasons[good[row]] = "chirality: the sides of a double bond are not those of the topology"
    return reasons


def atom_label(molecule: Molecule, atom: int) -> str:
    """A name that a person finds in the topology, e.g. 'ALA2 CA' (residues counted from 1)."""
    residue = int(molecule.residue_of_atom[atom])
    return f"{molecule.residue_names[residue]}{residue + 1} {molecule.atom_names[atom]}"


def _units_reason(scale: float) -> str | None:
    if 1 / _UNITS_FACTOR <= scale <= _UNITS_FACTOR:
        return None
    slip = "lengths are not in the unit that the file format says"
    if 5 < scale < 20:
        slip = "lengths in Å were taken for nm (divide the coordinates by 10)"
    elif 0.05 < scale < 0.2:
        slip = "lengths in nm were taken for Å (multiply the coordinates by 10)"
    return f"units: bonds are {scale:.3g} times as long as they should be; {slip}"


def _bond_reasons(molecule: Molecule, positions_nm: np.ndarray, max_stretch: float) -> list[str | None]:
    if len(positions_nm) == 0 or len(molecule.bonds) == 0:
        return [None] * len(positions_nm)
    length, expected = bond_lengths(molecule, positions_nm), expected_bond_lengths(molecule)
    typical = np.median(length, axis=0)
    typical = np.where(np.abs(typical / expected - 1) <= _TYPICAL_TOLERANCE, typical, expected)
    stretch = np.abs(length / typical - 1)
    worst = stretch.argmax(axis=1)
    reasons: list[str | None] = []
    for f, bond in enumerate(worst):
        if stretch[f, bond] <= max_stretch:
            reasons.append(None)
            continue
        a, b = (atom_label(molecule, int(atom)) for atom in molecule.bonds[bond])
        reasons.append(f"bond: {a} to {b} is {length[f, bond]:.3f} nm long, usually {typical[bond]:.3f} nm")
    return reasons
