"""Free energies of the Ramachandran basins of each residue, in kT: F_b = −ln P_b.

Populations carry Jeffreys' pseudo-count, P_b = (n_b + ½) / (N + B/2) for B basins, so that a basin which was never
seen has a large but finite free energy (F ≈ ln 2N) instead of an infinite one.
"""

from itertools import combinations

import numpy as np
from jaxtyping import Bool, Float, Int

from ancdiff.basins import BASINS
from ancdiff.evaluate.resampling import Weights

PSEUDO_COUNT = 0.5
BASIN_PAIRS = tuple(combinations(range(len(BASINS)), 2))


def basin_counts(
    basins: Int[np.ndarray, "conformers residues"], weights: Weights
) -> Float[np.ndarray, "repeats residues basins"]:
    """Weighted number of conformers in each basin of each residue."""
    return np.stack([weights @ (basins == b) for b in range(len(BASINS))], axis=-1)


def populations(counts: Float[np.ndarray, "*shape basins"]) -> Float[np.ndarray, "*shape basins"]:
    """P_b = (n_b + ½) / (N + B/2)."""
    smoothed = counts + PSEUDO_COUNT
    return smoothed / smoothed.sum(axis=-1, keepdims=True)


def free_energies(counts: Float[np.ndarray, "*shape basins"]) -> Float[np.ndarray, "*shape basins"]:
    """F_b = −ln P_b in kT."""
    return -np.log(populations(counts))


def counted_basins(
    reference_counts: Float[np.ndarray, "residues basins"], least_population: float
) -> Bool[np.ndarray, "residues basins"]:
    """Basins whose population in the reference is at least ``least_population``; rarer ones are noise."""
    return populations(reference_counts) >= least_population


def basin_errors(
    counts: Float[np.ndarray, "*#repeats residues basins"], reference: Float[np.ndarray, "*#repeats residues basins"]
) -> Float[np.ndarray, "... residues basins"]:
    """F_b − F_b^ref in kT; positive where the ensemble has too little of the basin."""
    return free_energies(counts) - free_energies(reference)


def system_error(
    errors: Float[np.ndarray, "*repeats residues basins"], counted: Bool[np.ndarray, "residues basins"]
) -> Float[np.ndarray, "*repeats"]:
    """Root mean square of the errors over all residues and counted basins, kT."""
    return np.asarray(np.sqrt(np.mean(errors[..., counted] ** 2, axis=-1)))


def residue_errors(
    errors: Float[np.ndarray, "*repeats residues basins"], counted: Bool[np.ndarray, "residues basins"]
) -> Float[np.ndarray, "*repeats residues"]:
    """Root mean square of the errors over the counted basins of each residue, kT."""
    return np.sqrt(np.sum(np.where(counted, errors**2, 0.0), axis=-1) / counted.sum(axis=-1))


def differences(free: Float[np.ndarray, "*shape basins"]) -> Float[np.ndarray, "*shape pairs"]:
    """ΔF = F_a − F_b in kT of the pairs of basins in `BASIN_PAIRS`."""
    return np.stack([free[..., a] - free[..., b] for a, b in BASIN_PAIRS], axis=-1)


def counted_pairs(counted: Bool[np.ndarray, "residues basins"]) -> Bool[np.ndarray, "residues pairs"]:
    """Pairs of which both basins count."""
    return np.stack([counted[..., a] & counted[..., b] for a, b in BASIN_PAIRS], axis=-1)


def difference_error(
    counts: Float[np.ndarray, "*#repeats residues basins"],
    reference: Float[np.ndarray, "*#repeats residues basins"],
    counted: Bool[np.ndarray, "residues basins"],
) -> Float[np.ndarray, "..."]:
    """Root mean square of ΔF − ΔF^ref over residues and counted pairs of basins, kT; NaN where no pair counts."""
    pairs = counted_pairs(counted)
    if not pairs.any():
        return np.full(np.broadcast_shapes(counts.shape, reference.shape)[:-2], np.nan)
    errors = differences(free_energies(counts)) - differences(free_energies(reference))
    return np.asarray(np.sqrt(np.mean(errors[..., pairs] ** 2, axis=-1)))


def pair_name(pair: tuple[int, int]) -> str:
    """Name of a pair of basins in the tables: ``alpha_r-beta`` is F(alpha_r) − F(beta)."""
    return f"{BASINS[pair[0]]}-{BASINS[pair[1]]}"
