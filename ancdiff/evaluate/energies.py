"""Distributions of relaxed force-field energies, in kT, from score tables. Failed conformers are counted, not used."""

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from ancdiff.evaluate.resampling import Weights

LEVELS = (np.arange(1000) + 0.5) / 1000
"""Midpoints of the 1,000 quantiles that stand for a distribution."""


def reduced_energies(
    table: pd.DataFrame, thermal_energy_kj_mol: float
) -> tuple[Float[np.ndarray, " scored"], Int[np.ndarray, " scored"], int]:
    """Energies u = E / kT of the conformers that were scored, their indices, and how many failed.

    A conformer failed where its status is not ``ok`` or its energy is not finite.
    """
    good = (table["status"] == "ok").to_numpy() & np.isfinite(table["energy_kj_mol"].to_numpy(dtype=np.float64))
    energies = table["energy_kj_mol"].to_numpy(dtype=np.float64)[good] / thermal_energy_kj_mol
    return energies, table["conformer"].to_numpy(dtype=np.int64)[good], int(len(table) - good.sum())


def reduced_strain(table: pd.DataFrame, thermal_energy_kj_mol: float) -> Float[np.ndarray, " asked"]:
    """Strain in kT of every conformer that was to be scored; infinite where it failed or did not come to rest."""
    strain = table["strain_kj_mol"].to_numpy(dtype=np.float64) / thermal_energy_kj_mol
    return np.where((table["status"] == "ok").to_numpy() & np.isfinite(strain), strain, np.inf)


def quantiles(energies_kt: Float[np.ndarray, " scored"], weights: Weights) -> Float[np.ndarray, "repeats levels"]:
    """Weighted quantiles at `LEVELS`, by the inverse of the cumulative distribution."""
    order = np.argsort(energies_kt, kind="stable")
    ordered = energies_kt[order]
    cumulative = np.cumsum(weights[:, order], axis=1)
    rows = [np.searchsorted(row, LEVELS * row[-1]) for row in cumulative]
    return ordered[np.minimum(rows, len(ordered) - 1)]


def quantile(quantile_table: Float[np.ndarray, "repeats levels"], level: float) -> Float[np.ndarray, " repeats"]:
    """One quantile out of the table, the nearest two averaged."""
    position = level * len(LEVELS) - 0.5
    low, high = int(np.floor(position)), int(np.ceil(position))
    return (quantile_table[:, low] + quantile_table[:, high]) / 2


def median(quantile_table: Float[np.ndarray, "repeats levels"]) -> Float[np.ndarray, " repeats"]:
    """Median energy, kT."""
    return quantile(quantile_table, 0.5)


def wasserstein(
    quantile_table: Float[np.ndarray, "#repeats levels"], reference: Float[np.ndarray, "#repeats levels"]
) -> Float[np.ndarray, " repeats"]:
    """Wasserstein-1 distance W₁ = ∫|Q(p) − Q_ref(p)| dp, kT, by the midpoint rule over the quantiles."""
    return np.mean(np.abs(quantile_table - reference), axis=-1)
