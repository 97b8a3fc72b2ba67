"""Energies → Boltzmann log-weights, their effective sample size, and the temperature that reaches a wanted one.

Conformers of one system are compared with each other only: weights are normalised over a system's pool, whatever
ensembles (training MD, samples of a model) the pool comes from. A conformer whose scoring failed has log-weight −∞.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from ancdiff.config import TemperSettings
from ancdiff.errors import StageError
from ancdiff.molecules import check_energy_table
from ancdiff.units import thermal_energy_kj_mol

WEIGHT_COLUMNS: dict[str, str] = {
    "system": "str",
    "source": "str",  # name of the ensemble
    "conformer": "int64",  # index in that ensemble's trajectory
    "energy_kj_mol": "float64",  # NaN where scoring failed
    "temperature_kelvin": "float64",  # of the weights: the base temperature, or the tempered one
    "log_weight": "float64",  # normalised over the system's pool; −inf where scoring failed
    "ess": "float64",  # effective sample size of the system's pool
}
_BISECTIONS = 50  # halves of an interval of ln T that is at most ln(1e5 / 50) wide: below rounding
_TRUNCATED = 0.01  # share of log-ratios at either end that a tempered step pulls in to the next


def log_weights(
    energy_kj_mol: Float[np.ndarray, " conformers"],
    temperature_kelvin: float,
    *,
    usable: Bool[np.ndarray, " conformers"] | None = None,
    where: str = "",
) -> Float[np.ndarray, " conformers"]:
    """Normalised Boltzmann log-weights, log w_i = −βE_i − ln Σ_j exp(−βE_j), β = 1/kT.

    Conformers that are not usable, or whose energy is not finite, get −inf and do not count in the sum.

    Raises:
        StageError: no conformer is left.
        ValueError: the temperature is not positive.
    """
    reduced = -np.asarray(energy_kj_mol, dtype=np.float64) / thermal_energy_kj_mol(temperature_kelvin)
    counted = np.isfinite(reduced) if usable is None else np.isfinite(reduced) & np.asarray(usable, dtype=bool)
    if not counted.any():
        raise StageError(
            f"none of the {len(reduced)} conformers has an energy, so none can be weighted",
            where=where,
            fix="look at the status column of its score table; mend the structures or the force field and score again",
        )
    reduced = np.where(counted, reduced, -np.inf)
    return reduced - _logsumexp(reduced)


def effective_sample_size(log_weight: Float[np.ndarray, " conformers"]) -> float:
    """Kish's effective sample size, (Σw)² / Σw², between 1 and the number of conformers; w need not be normalised.

    Raises:
        ValueError: no weight is positive and finite.

    References:
        L. Kish, Survey Sampling (1965), section 11.7.
    """
    log_weight = np.asarray(log_weight, dtype=np.float64)
    if not (log_weight.size and np.isfinite(log_weight.max())):
        raise ValueError("an effective sample size needs at least one positive finite weight")
    return float(np.exp(2 * _logsumexp(log_weight) - _logsumexp(2 * log_weight)))


def temper(
    energy_kj_mol: Float[np.ndarray, " conformers"],
    base_kelvin: float,
    settings: TemperSettings,
    *,
    usable: Bool[np.ndarray, " conformers"] | None = None,
    where: str = "",
) -> float:
    """Lowest temperature, not below the base, at which ESS ≥ target fraction × number of usable conformers.

    The effective sample size grows with temperature, d ln ESS/dβ = 2(⟨E⟩_2β − ⟨E⟩_β) ≤ 0, so bisection of ln T finds
    it. Where ``max_kelvin`` does not reach the target, it is returned (or the base, where that is higher).

    Raises:
        StageError: no conformer is usable.
    """

    def ess(kelvin: float) -> float:
        return effective_sample_size(log_weights(energy_kj_mol, kelvin, usable=usable, where=where))

    n_usable = np.count_nonzero(np.isfinite(log_weights(energy_kj_mol, base_kelvin, usable=usable, where=where)))
    target = settings.target_ess_fraction * n_usable
    if settings.max_kelvin <= base_kelvin or ess(base_kelvin) >= target:
        return float(base_kelvin)
    if ess(settings.max_kelvin) < target:
        return float(settings.max_kelvin)
    low, high = np.log(base_kelvin), np.log(settings.max_kelvin)
    for _ in range(_BISECTIONS):
        middle = 0.5 * (low + high)
        low, high = (low, middle) if ess(float(np.exp(middle))) >= target else (middle, high)
    return float(np.exp(high))


def tempered_step(
    log_weight: Float[np.ndarray, " conformers"],
    log_ratio: Float[np.ndarray, " conformers"],
    *,
    largest_step: float,
    ess_fraction: float,
) -> tuple[Float[np.ndarray, " conformers"], float]:
    """A step of importance weights towards a target, log w + γ log r, with γ as large as the weights bear.

    γ ≤ ``largest_step`` is lowered by bisection until the effective sample size is at least ``ess_fraction`` of the
    conformers; where the weights are below that already, γ is 0. With log r_i = −βE(x_i) − log p_θ(x_i) and p_θ fitted
    to the weighted conformers after each step, the steps end where p_θ ∝ e^{−βE}: each takes the share γ of what is
    left of the difference (annealed importance sampling, Neal 2001, Stat. Comput. 11, 125, with the model as proposal).

    Returns:
        Normalised log-weights and γ.
    """
    # One conformer that the model has never seen the like of would set γ for all (truncated importance sampling,
    # Ionides 2008, doi:10.1198/106186008X320456).
    log_ratio = np.clip(log_ratio, *np.quantile(log_ratio, [_TRUNCATED, 1.0 - _TRUNCATED]))
    needed = ess_fraction * len(log_weight)

    def enough(gamma: float) -> bool:
        return effective_sample_size(log_weight + gamma * log_ratio) >= needed

    low, high = 0.0, largest_step
    if enough(high):
        low = high
    else:
        for _ in range(_BISECTIONS):
            middle = 0.5 * (low + high)
            low, high = (middle, high) if enough(middle) else (low, middle)
    moved = log_weight + low * log_ratio
    return moved - _logsumexp(moved), low


def pooled_weights(
    system: str,
    tables: Mapping[str, pd.DataFrame],
    *,
    temperature_kelvin: float,
    temper_settings: TemperSettings | None = None,
) -> pd.DataFrame:
    """Weights over one system's pool: energy tables by ensemble name → rows of `WEIGHT_COLUMNS`, in the given order.

    Only conformers with status 'ok' and a finite energy count. With ``temper_settings`` the temperature is raised to
    the target effective sample size of this pool.

    Raises:
        StageError: no conformer of the system is usable, or there is no table.
        InputError: a table lacks a column or has a conformer twice.
    """
    where = f"system {system}, ensembles: {', '.join(tables) or 'none'}"
    if not tables:
        raise StageError("there are no energies to weight", where=where, fix="run the score stage first")
    checked = {name: check_energy_table(t, where=f"system {system}, ensemble {name}") for name, t in tables.items()}
    pool = pd.concat([t.assign(source=name) for name, t in checked.items()], ignore_index=True)
    usable = (pool["status"] == "ok").to_numpy(dtype=bool)
    energy = np.where(usable, pool["energy_kj_mol"].to_numpy(dtype=np.float64), np.nan)
    kelvin = float(temperature_kelvin)
    if temper_settings is not None:
        kelvin = temper(energy, kelvin, temper_settings, where=where)
    log_weight = log_weights(energy, kelvin, where=where)
    table = pd.DataFrame(
        {
            "system": system,
            "source": pool["source"],
            "conformer": pool["conformer"],
            "energy_kj_mol": energy,
            "temperature_kelvin": kelvin,
            "log_weight": log_weight,
            "ess": effective_sample_size(log_weight),
        }
    )
    return table[list(WEIGHT_COLUMNS)].astype(WEIGHT_COLUMNS)


def logmeanexp(values: Float[np.ndarray, " values"]) -> float:
    """ln of the mean of exp(values), without overflow."""
    return _logsumexp(values) - float(np.log(len(values)))


def _logsumexp(values: np.ndarray) -> float:
    """ln Σ exp(v), stable; −inf entries add nothing (at least one must be finite)."""
    largest = values.max()
    return float(largest + np.log(np.sum(np.exp(values - largest))))
