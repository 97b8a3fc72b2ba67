"""Local geometry: bond lengths, bond angles, stereocentres and clashes of heavy-atom conformers."""

import numpy as np
from jaxtyping import Bool, Float, Int

from ancdiff.molecules import Ensemble, Molecule, signed_volumes

CLASH_FRACTION = 0.6
"""Two atoms clash where they are nearer than this fraction of the sum of their van der Waals radii (as in `score`)."""


def bond_lengths_nm(ensemble: Ensemble) -> Float[np.ndarray, "conformers bonds"]:
    """Length of every bond of the molecule."""
    p = np.asarray(ensemble.positions_nm, dtype=np.float64)
    a, b = ensemble.molecule.bonds.T
    return np.linalg.norm(p[:, a] - p[:, b], axis=-1)


def angle_triples(molecule: Molecule) -> Int[np.ndarray, "angles 3"]:
    """Atoms (a, centre, b), a < b, of every bond angle."""
    neighbours: list[list[int]] = [[] for _ in range(molecule.n_atoms)]
    for a, b in molecule.bonds:
        neighbours[a].append(int(b))
        neighbours[b].append(int(a))
    rows = [(a, centre, b) for centre, around in enumerate(neighbours) for a in sorted(around) for b in around if a < b]
    return np.array(rows, dtype=np.int64).reshape(-1, 3)


def bond_angles_deg(ensemble: Ensemble) -> Float[np.ndarray, "conformers angles"]:
    """Every bond angle, θ = atan2(|u×v|, u·v), in degrees."""
    p = np.asarray(ensemble.positions_nm, dtype=np.float64)
    a, centre, b = angle_triples(ensemble.molecule).T
    u, v = p[:, a] - p[:, centre], p[:, b] - p[:, centre]
    sine = np.linalg.norm(np.cross(u, v), axis=-1)
    return np.degrees(np.arctan2(sine, np.sum(u * v, axis=-1)))


def mean_error(
    moments: Float[np.ndarray, "#repeats 2 features"], reference: Float[np.ndarray, "#repeats 2 features"]
) -> Float[np.ndarray, " repeats"]:
    """RMS over features of the difference of their means; moments are (mean, spread) of each feature."""
    return np.sqrt(np.mean((moments[:, 0] - reference[:, 0]) ** 2, axis=-1))


def spread_error(
    moments: Float[np.ndarray, "#repeats 2 features"], reference: Float[np.ndarray, "#repeats 2 features"]
) -> Float[np.ndarray, " repeats"]:
    """RMS over features of the difference of their standard deviations."""
    return np.sqrt(np.mean((moments[:, 1] - reference[:, 1]) ** 2, axis=-1))


def rms_error(
    moments: Float[np.ndarray, "#repeats 2 features"], reference: Float[np.ndarray, "#repeats 2 features"]
) -> Float[np.ndarray, " repeats"]:
    """√⟨(Δμ)² + (Δs)²⟩ over features: mean and spread in one number.

    (Δμ)² + (Δs)² is the squared 2-Wasserstein distance of two Gaussians with these means and spreads.
    """
    return np.hypot(mean_error(moments, reference), spread_error(moments, reference))


def spread(moments: Float[np.ndarray, "repeats 2 features"]) -> Float[np.ndarray, " repeats"]:
    """RMS over features of their standard deviations."""
    return np.sqrt(np.mean(moments[:, 1] ** 2, axis=-1))


def hands(ensemble: Ensemble) -> Float[np.ndarray, " centres"]:
    """Hand of each stereocentre in MD: the sign of its median signed volume, +1 for the natural one."""
    return np.sign(np.median(signed_volumes(ensemble.positions_nm, ensemble.molecule.stereocentres), axis=0))


def right_stereocentres(
    ensemble: Ensemble, right_hands: Float[np.ndarray, " centres"]
) -> Bool[np.ndarray, "conformers centres"]:
    """Whether each stereocentre of each conformer has the given hand."""
    return np.sign(signed_volumes(ensemble.positions_nm, ensemble.molecule.stereocentres)) == right_hands


def distant_pairs(molecule: Molecule) -> Int[np.ndarray, "pairs 2"]:
    """Pairs of heavy atoms at least three bonds apart."""
    near = np.eye(molecule.n_atoms, dtype=bool)
    a, b = molecule.bonds.T
    near[a, b] = near[b, a] = True
    near = (near.astype(np.float32) @ near.astype(np.float32)) > 0  # within two bonds
    heavy = np.array([element != "H" for element in molecule.elements])
    return np.argwhere(np.triu(~near & heavy[:, None] & heavy[None, :], k=1))


def clash_counts(ensemble: Ensemble) -> Int[np.ndarray, " conformers"]:
    """Clashes of each conformer: `distant_pairs` nearer than 0.6 × the sum of their van der Waals radii."""
    pairs = distant_pairs(ensemble.molecule)
    radii = van_der_waals_radii_nm(ensemble.molecule)
    least = CLASH_FRACTION * (radii[pairs[:, 0]] + radii[pairs[:, 1]])
    counts = np.zeros(len(ensemble), dtype=np.int64)
    for i, p in enumerate(ensemble.positions_nm):  # one at a time: a protein has half a million pairs
        counts[i] = np.count_nonzero(np.sum((p[pairs[:, 0]] - p[pairs[:, 1]]) ** 2, axis=-1) < least**2)
    return counts


def van_der_waals_radii_nm(molecule: Molecule) -> Float[np.ndarray, " atoms"]:
    """Van der Waals radius of each atom by element (Bondi's, as mdtraj keeps them); 0.17 nm for unknown ones."""
    from mdtraj.core.element import Element

    known = {symbol: element.radius for symbol, element in Element._elements_by_symbol.items()}
    return np.array([known.get(symbol.upper(), 0.17) for symbol in molecule.elements])
