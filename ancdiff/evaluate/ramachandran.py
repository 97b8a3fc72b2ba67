"""Ramachandran maps and their Jensen–Shannon divergence, in nats (0 … ln 2), with sample sizes matched.

The divergence of two finite samples of one density is not zero: it grows with the number of bins and falls with the
number of conformers. So all ensembles of a system are compared at the same number of conformers, each against the
halves of the MD data set, and the floor is one half against the other at the same number.
"""

import numpy as np
from jaxtyping import Float, Int

from ancdiff.evaluate.resampling import Sampling, Weights, bootstrap, half_against_half, subset_weights


def bin_indices(
    phi_psi: Float[np.ndarray, "conformers residues 2"], bins: int
) -> Int[np.ndarray, "conformers residues"]:
    """Cell of each (φ, ψ), in radians, on a periodic grid of bins × bins over (−π, π]²; φ is the slow index."""
    scaled = np.floor((np.asarray(phi_psi, dtype=np.float64) + np.pi) / (2 * np.pi) * bins).astype(np.int64) % bins
    return scaled[..., 0] * bins + scaled[..., 1]


def histograms(
    cells: Int[np.ndarray, "conformers residues"], bins: int, weights: Weights
) -> Float[np.ndarray, "repeats residues cells"]:
    """Normalised weighted histogram of each residue."""
    n_residues = cells.shape[1]
    counts = np.empty((len(weights), n_residues, bins * bins))
    for i, row in enumerate(weights):
        for r in range(n_residues):
            counts[i, r] = np.bincount(cells[:, r], weights=row, minlength=bins * bins)
    return counts / counts.sum(axis=-1, keepdims=True)


def jensen_shannon(
    p: Float[np.ndarray, "#repeats residues cells"], q: Float[np.ndarray, "#repeats residues cells"]
) -> Float[np.ndarray, "repeats residues"]:
    """JSD(p, q) = H((p+q)/2) − (H(p) + H(q))/2 in nats: 0 for equal densities, ln 2 for disjoint ones.

    References:
        Lin, IEEE Trans. Inf. Theory 37, 145 (1991), eq. 4.1 with equal weights.
    """
    return np.maximum(_entropy((p + q) / 2) - (_entropy(p) + _entropy(q)) / 2, 0.0)


def _entropy(p: np.ndarray) -> np.ndarray:
    return -np.sum(p * np.log(np.where(p > 0, p, 1.0)), axis=-1)


def matched_size(ensembles: list[Sampling]) -> int:
    """Conformers that every ensemble, and each half of every MD data set, can give: all are compared at this size."""
    sizes = [len(s) for s in ensembles]
    for sampling in ensembles:
        if sampling.halves is not None:
            sizes += [n for n in np.bincount(sampling.halves, minlength=2) if n > 0]
    return int(min(sizes))


def divergence(
    cells: Int[np.ndarray, "conformers residues"],
    against: Int[np.ndarray, "frames residues"],
    bins: int,
    *,
    sampling: Sampling,
    against_sampling: Sampling,
    size: int,
    draws: int,
    repeats: int,
    rng: np.random.Generator,
    weights: Float[np.ndarray, " conformers"] | None = None,
) -> tuple[Float[np.ndarray, " residues"], Float[np.ndarray, "repeats residues"]]:
    """JSD of ``size`` conformers against each half of an MD data set, averaged over halves and draws.

    Also its bootstrap replicates, whose spread about their mean is that of the value (resampling adds a bias to the
    mean itself; see `resampling.interval`). The MD is held fixed: its own noise is the floor. ``weights`` are the
    conformers' own, where they are not all alike. Draws from ``rng``.
    """
    n = len(against)
    halves = np.zeros(n, dtype=np.int64) if against_sampling.halves is None else against_sampling.halves
    masks = np.stack([halves == h for h in np.unique(halves)]).astype(np.float64)
    targets = histograms(against, bins, masks)

    def mean_over_halves(drawn: np.ndarray) -> np.ndarray:
        p = histograms(cells, bins, drawn if weights is None else drawn * weights)
        return np.mean([jensen_shannon(p, target[None]) for target in targets], axis=0)

    subsets = subset_weights(np.arange(len(cells)), len(cells), size, draws, rng)
    return mean_over_halves(subsets).mean(axis=0), bootstrap(mean_over_halves, sampling, repeats, rng)


def divergence_floor(
    cells: Int[np.ndarray, "frames residues"],
    bins: int,
    *,
    sampling: Sampling,
    size: int,
    draws: int,
    rng: np.random.Generator,
) -> Float[np.ndarray, " residues"]:
    """JSD of ``size`` frames of one half of an MD data set against its other half; NaN without halves.

    Averaged over draws and over both directions. Draws from ``rng``.
    """
    pairs = half_against_half(lambda w: histograms(cells, bins, w), sampling, size, draws, rng)
    if not pairs:
        return np.full(cells.shape[1], np.nan)
    return np.mean([jensen_shannon(few, whole).mean(axis=0) for few, whole in pairs], axis=0)
