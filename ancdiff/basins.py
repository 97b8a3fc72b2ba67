"""Backbone torsions and the Ramachandran basins that simulation starts in and evaluation counts.

``alpha_l``: φ > 0; of φ ≤ 0, ``alpha_r`` where −120° ≤ ψ < 50°, else ``beta`` (with polyproline II).
"""

import numpy as np
from jaxtyping import Float, Int

from ancdiff.molecules import Ensemble, Molecule

BASINS = ("alpha_r", "beta", "alpha_l")
BASIN_CENTRES_DEG: dict[str, tuple[float, float]] = {
    "alpha_r": (-70.0, -25.0),
    "beta": (-80.0, 145.0),
    "alpha_l": (55.0, 40.0),
}
_ALPHA_R_PSI_DEG = (-120.0, 50.0)


def dihedrals(
    positions_nm: Float[np.ndarray, "conformers atoms 3"], quadruples: Int[np.ndarray, "torsions 4"]
) -> Float[np.ndarray, "conformers torsions"]:
    """Dihedral angles in radians, in (−π, π], IUPAC sign.

    τ = atan2(|b₂| b₁·(b₂×b₃), (b₁×b₂)·(b₂×b₃)) with b₁, b₂, b₃ the bond vectors in order.
    """
    p = np.asarray(positions_nm, dtype=np.float64)[:, np.asarray(quadruples, dtype=np.int64).reshape(-1, 4)]
    b1, b2, b3 = (p[:, :, k + 1] - p[:, :, k] for k in range(3))
    n1, n2 = np.cross(b1, b2), np.cross(b2, b3)
    y = np.linalg.norm(b2, axis=-1) * np.sum(b1 * n2, axis=-1)
    return np.arctan2(y, np.sum(n1 * n2, axis=-1))


def ramachandran(ensemble: Ensemble) -> tuple[list[int], Float[np.ndarray, "conformers residues 2"]]:
    """Residues that have both torsions, and their (φ, ψ) in radians."""
    residues = ensemble.molecule.ramachandran_residues()
    return residues, dihedrals(ensemble.positions_nm, _torsion_rows(ensemble.molecule, residues)).reshape(
        len(ensemble), len(residues), 2
    )


def _torsion_rows(molecule: Molecule, residues: list[int]) -> Int[np.ndarray, "torsions 4"]:
    rows = [molecule.torsion(r, kind) for r in residues for kind in ("phi", "psi")]
    return np.array(rows, dtype=np.int64).reshape(-1, 4)


def assign_basins(phi_psi: Float[np.ndarray, "*shape 2"]) -> Int[np.ndarray, "*shape"]:
    """Index into `BASINS` of each (φ, ψ), in radians."""
    phi, psi = phi_psi[..., 0], np.degrees(phi_psi[..., 1])
    right = (psi >= _ALPHA_R_PSI_DEG[0]) & (psi < _ALPHA_R_PSI_DEG[1])
    return np.where(phi > 0, 2, np.where(right, 0, 1))


def basins_together(ensemble: Ensemble) -> list[str]:
    """The basins of all residues of each conformer, a digit each; alike (empty) for molecules without such torsions."""
    _, angles = ramachandran(ensemble)
    return ["".join(map(str, row)) for row in assign_basins(angles).tolist()]
