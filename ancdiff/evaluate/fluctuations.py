"""Fluctuations: RMSF about the mean structure and RMSD between pairs of conformers, both after superposition."""

import numpy as np
from jaxtyping import Float, Int

from ancdiff.evaluate.resampling import Weights

_ROUNDS = 5
"""Superposing on the mean and taking it anew; a further round moves a tetrapeptide's RMSF by less than 1e-5 nm."""


def superpose(
    positions_nm: Float[np.ndarray, "conformers atoms 3"], onto_nm: Float[np.ndarray, "atoms 3"]
) -> Float[np.ndarray, "conformers atoms 3"]:
    """Conformers turned and shifted (no mirror image) onto one structure, which is centred at the origin.

    References:
        Kabsch, Acta Cryst. A 32, 922 (1976).
    """
    moving = _centred(positions_nm)
    target = _centred(onto_nm[None])[0]
    u, _, vt = np.linalg.svd(np.einsum("fai,aj->fij", moving, target))
    u[:, :, -1] *= np.sign(np.linalg.det(u @ vt))[:, None]
    return moving @ (u @ vt)


def superpose_on_mean(
    positions_nm: Float[np.ndarray, "conformers atoms 3"],
) -> Float[np.ndarray, "conformers atoms 3"]:
    """Conformers superposed on their own mean structure, found by repeating superposition and averaging."""
    mean = np.asarray(positions_nm[0], dtype=np.float64)
    superposed = superpose(positions_nm, mean)
    for _ in range(_ROUNDS):
        superposed = superpose(superposed, superposed.mean(axis=0))
    return superposed


def rmsf(
    superposed_nm: Float[np.ndarray, "conformers atoms 3"], weights: Weights
) -> Float[np.ndarray, "repeats atoms"]:
    """RMSF of each atom, √⟨‖x − ⟨x⟩‖²⟩, of conformers superposed beforehand."""
    n, atoms, _ = superposed_nm.shape
    shifted = (superposed_nm - superposed_nm.mean(axis=0)).reshape(n, -1)
    total = weights.sum(axis=1, keepdims=True)
    variance = weights @ shifted**2 / total - (weights @ shifted / total) ** 2
    return np.sqrt(np.maximum(variance.reshape(-1, atoms, 3).sum(axis=-1), 0.0))


def rmsf_error(
    values: Float[np.ndarray, "#repeats atoms"], reference: Float[np.ndarray, "#repeats atoms"]
) -> Float[np.ndarray, " repeats"]:
    """RMS over atoms of the difference of RMSFs, nm."""
    return np.sqrt(np.mean((values - reference) ** 2, axis=-1))


def rmsf_correlation(
    values: Float[np.ndarray, "#repeats atoms"], reference: Float[np.ndarray, "#repeats atoms"]
) -> Float[np.ndarray, " repeats"]:
    """Pearson correlation of the RMSF profile over atoms; NaN for a flat profile."""
    a = values - values.mean(axis=-1, keepdims=True)
    b = reference - reference.mean(axis=-1, keepdims=True)
    norm = np.sqrt(np.sum(a**2, axis=-1) * np.sum(b**2, axis=-1))
    return np.divide(np.sum(a * b, axis=-1), norm, out=np.full(norm.shape, np.nan), where=norm > 0)


def draw_pairs(n: int, pairs: int, rng: np.random.Generator) -> Int[np.ndarray, "pairs 2"]:
    """Random pairs of different conformers; none where there are fewer than two. Draws from ``rng``."""
    if n < 2:
        return np.zeros((0, 2), dtype=np.int64)
    first = rng.integers(n, size=pairs)
    return np.stack([first, (first + rng.integers(1, n, size=pairs)) % n], axis=1)


def pair_rmsd(
    positions_nm: Float[np.ndarray, "conformers atoms 3"], pairs: Int[np.ndarray, "pairs 2"]
) -> Float[np.ndarray, " pairs"]:
    """RMSD after superposition of each pair, nm: √[(‖a‖² + ‖b‖² − 2(s₁ + s₂ ± s₃)) / N] with the singular values
    s of aᵀb and the sign of its determinant."""
    centred = _centred(positions_nm)
    a, b = centred[pairs[:, 0]], centred[pairs[:, 1]]
    covariance = np.einsum("pai,paj->pij", a, b)
    s = np.linalg.svd(covariance, compute_uv=False)
    s[:, -1] *= np.sign(np.linalg.det(covariance))
    squared = np.sum(a**2, axis=(1, 2)) + np.sum(b**2, axis=(1, 2)) - 2 * s.sum(axis=-1)
    return np.sqrt(np.maximum(squared, 0.0) / positions_nm.shape[1])


def mean_pair_rmsd(
    rmsd_nm: Float[np.ndarray, " pairs"], pairs: Int[np.ndarray, "pairs 2"], weights: Weights
) -> Float[np.ndarray, " repeats"]:
    """Mean RMSD over pairs, each weighted by the product of its conformers' weights; NaN without pairs."""
    pair_weights = weights[:, pairs[:, 0]] * weights[:, pairs[:, 1]]
    total = pair_weights.sum(axis=1)
    return np.divide(pair_weights @ rmsd_nm, total, out=np.full(len(weights), np.nan), where=total > 0)


def _centred(positions_nm: np.ndarray) -> np.ndarray:
    p = np.asarray(positions_nm, dtype=np.float64)
    return p - p.mean(axis=1, keepdims=True)
