"""A model's samples under importance weights for the Boltzmann distribution: an ensemble of its own in the tables.

Where the weights' tail is too heavy, or too few samples have an energy, nothing is claimed: values are NaN, and the
status of the rows says why.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from jaxtyping import Float

from ancdiff.corridor import reweighted
from ancdiff.evaluate.catalogue import HEADLINE
from ancdiff.evaluate.comparison import Measurement
from ancdiff.evaluate.measure import Energies, EnsembleData
from ancdiff.evaluate.resampling import independent
from ancdiff.molecules import Ensemble
from ancdiff.units import thermal_energy_kj_mol
from ancdiff.weights import Importance, importance_weights

UNWEIGHTED = (
    "stereocentres_right",
    "cov_r",
    "mat_r_nm",
    "cov_p",
    "mat_p_nm",
    "median_strain_kt",
    "equivariance_error_float32",
    "equivariance_error_float64",
)
"""Headline metrics that a reweighted ensemble has not: they are of what was drawn, or of the model."""


@dataclass(frozen=True, eq=False)
class Reweighted:
    """The ensemble with its weights (None where nothing is claimed), and the numbers that speak for it."""

    name: str
    samples: int
    importance: Importance
    density_error_nats: float
    data: EnsembleData | None


def reweight(
    name: str, ensemble: Ensemble, energies: pd.DataFrame, densities: pd.DataFrame, temperature_kelvin: float
) -> Reweighted:
    """Weights of the samples of one model and system from their energies and log-densities.

    Weights of the ensemble sum to their effective sample size, so that pseudo-counts weigh as they should beside it.
    """
    n = len(ensemble)
    good = (energies["status"] == "ok").to_numpy(dtype=bool)
    energy = _in_order(energies[good], "energy_kj_mol", n)
    log_density = _in_order(densities, "log_density_nats", n)
    finite = np.isfinite(ensemble.positions_nm).all(axis=(1, 2))
    importance = importance_weights(np.where(finite, energy, np.nan), log_density, temperature_kelvin)
    error = float(np.sqrt(np.mean(densities["standard_error_nats"].to_numpy(dtype=np.float64) ** 2)))
    found = Reweighted(reweighted(name), n, importance, error, None)
    if importance.status != "ok":
        return found
    kept = np.flatnonzero(np.isfinite(importance.log_weight))
    sampling = independent(len(kept))
    values = energy[kept] / thermal_energy_kj_mol(temperature_kelvin)
    data = EnsembleData(
        found.name,
        Ensemble(ensemble.molecule, ensemble.positions_nm[kept]),
        sampling,
        0,
        Energies(values, sampling, 0),
        weights=importance.ess * np.exp(importance.log_weight[kept]),
    )
    return replace(found, data=data)


def diagnostics(system: str, one: Reweighted, measured: Collection[tuple[str, str]]) -> Iterator[Measurement]:
    """Effective share, tail shape and error of the densities; and where nothing is claimed, rows that say so.

    There is one for each headline metric, and what it is against, that was ``measured`` of the samples as drawn.
    """
    importance, status = one.importance, one.importance.status
    share = importance.ess / one.samples
    for metric, value in (
        ("effective_share", share),
        ("pareto_k", importance.pareto_k),
        ("log_density_error_nats", one.density_error_nats),
    ):
        if np.isnan(value) and metric == "log_density_error_nats":
            continue  # weights of paths: nothing is estimated
        yield Measurement(system, one.name, metric, value, one.samples, status=status)
    if one.data is None:
        for metric, against in dict.fromkeys(HEADLINE.values()):
            if (metric, against) in measured and metric not in UNWEIGHTED:
                yield Measurement(system, one.name, metric, np.nan, one.samples, against=against, status=status)


def _in_order(table: pd.DataFrame, column: str, n: int) -> Float[np.ndarray, " conformers"]:
    """A column by the conformer's place in the trajectory; NaN where a conformer has no row."""
    values = np.full(n, np.nan)
    values[table["conformer"].to_numpy(dtype=np.int64)] = table[column].to_numpy(dtype=np.float64)
    return values
