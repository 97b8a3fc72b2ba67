"""Energies → Boltzmann log-weights, their effective sample size, and the temperature that reaches a wanted one.

Conformers of one system are compared with each other only: weights are normalised over a system's pool, whatever
ensembles (training MD, samples of a model) the pool comes from. A conformer whose scoring failed has log-weight −∞.

Samples whose log-density under their model is known get importance weights for the Boltzmann distribution, with Pareto
smoothing and its diagnostic.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

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
_TRUNCATED = 0.01  # share of log-ratios at either end


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
    return reduced - logsumexp(reduced)


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
    return float(np.exp(2 * logsumexp(log_weight) - logsumexp(2 * log_weight)))


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
    assert settings.target_ess_fraction is not None

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


def round_temperature(base_kelvin: float, settings: TemperSettings | None, round_number: int) -> float:
    """Temperature of a round's weights (from 1) down the ladder; the base after its last rung, or without a ladder.

    A target effective sample size may raise it further (`temper`).
    """
    ladder = () if settings is None else settings.ladder_kelvin
    return ladder[round_number - 1] if round_number <= len(ladder) else base_kelvin


def truncated(log_ratio: Float[np.ndarray, " conformers"]) -> Float[np.ndarray, " conformers"]:
    """Log-ratios whose lowest and highest 1 % are pulled in to the next.

    One conformer that a model has never seen the like of would carry the weight of all, or set the size of a step.
    Where ratios scatter by more than a nat this pulls means towards those of the proposal.

    Reference: Ionides 2008, J. Comput. Graph. Stat. 17, 295 (truncated importance sampling).
    """
    return np.clip(log_ratio, *np.quantile(log_ratio, [_TRUNCATED, 1.0 - _TRUNCATED]))


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
    return moved - logsumexp(moved), low


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
    if temper_settings is not None and temper_settings.target_ess_fraction is not None:
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
    return logsumexp(values) - float(np.log(len(values)))


def logsumexp(values: np.ndarray) -> float:
    """ln Σ exp(v), stable; −inf entries add nothing (at least one must be finite)."""
    largest = values.max()
    return float(largest + np.log(np.sum(np.exp(values - largest))))


@dataclass(frozen=True, eq=False)
class Importance:
    """Importance weights of a model's samples for the Boltzmann distribution, and whether they can be trusted.

    ``status`` is ``ok``, or says why nothing should be claimed from these weights: ``few_conformers`` (fewer than
    `_FEWEST` with an energy and a density), ``heavy_tail`` (`pareto_k` above `pareto_k_limit`).
    """

    log_weight: Float[np.ndarray, " conformers"]  # normalised, smoothed; −∞ without an energy or a density
    ess: float
    pareto_k: float
    status: str


_FEWEST = 25  # a tail of five: fewer cannot be fitted


def importance_weights(
    energy_kj_mol: Float[np.ndarray, " conformers"],
    log_density_nats: Float[np.ndarray, " conformers"],
    temperature_kelvin: float,
) -> Importance:
    """Pareto-smoothed weights of samples of p for e^{−βE}, log w = −βE − log p + const.

    Conformers without an energy get no weight, as if their energy were infinite. Where the status is not ``ok`` the
    weights are given all the same, for looking at.

    References:
        Vehtari et al. 2024, J. Mach. Learn. Res. 25(72) (arXiv 1507.02646).
    """
    raw = -np.asarray(energy_kj_mol, dtype=np.float64) / thermal_energy_kj_mol(temperature_kelvin) - log_density_nats
    usable = np.isfinite(raw)
    log_weight = np.full(len(raw), -np.inf)
    n = int(usable.sum())
    if n == 0:
        return Importance(log_weight, np.nan, np.nan, "few_conformers")
    smoothed, k = pareto_smoothed(raw[usable])
    log_weight[usable] = smoothed
    ess = effective_sample_size(smoothed)
    if n < _FEWEST:
        return Importance(log_weight, ess, k, "few_conformers")
    return Importance(log_weight, ess, k, "ok" if k <= pareto_k_limit(n) else "heavy_tail")


def pareto_k_limit(n: int) -> float:
    """The largest k of n weights with which means can be trusted, min(1 − 1/log₁₀ n, 0.7).

    Reference: Vehtari et al. 2024, section 3.2.4.
    """
    return min(1.0 - 1.0 / float(np.log10(n)), 0.7)


def pareto_smoothed(
    log_weight: Float[np.ndarray, " conformers"],
) -> tuple[Float[np.ndarray, " conformers"], float]:
    """Normalised log-weights whose largest are those of a fitted Pareto tail, and the tail's shape k.

    The M = min(n/5, 3√n) largest weights above their cutoff are replaced by the tail's expected order statistics,
    F⁻¹((z − ½)/M), and none is left larger than the largest was. Moments of the weights of order below 1/k are finite.
    Without a fit the weights stay as they are: k is NaN for fewer than five weights in the tail, −∞ where its weights
    are all equal, and ∞ where a quarter of them are at the cutoff and others far above.

    Reference: Vehtari et al. 2024 (arXiv 1507.02646), section 2.4.
    """
    log_weight = np.asarray(log_weight, dtype=np.float64) - log_weight.max()
    n = len(log_weight)
    m = int(np.ceil(min(0.2 * n, 3.0 * np.sqrt(n))))
    if m < 5:
        return log_weight - logsumexp(log_weight), np.nan
    order = np.argsort(log_weight, kind="stable")
    tail = order[-m:]
    cutoff = max(log_weight[order[-m - 1]], np.log(np.finfo(np.float64).tiny))
    excess = np.exp(log_weight[tail]) - np.exp(cutoff)
    smoothed, k = log_weight.copy(), -np.inf
    # Sums of thousands of nats are good to 10⁻¹²: less than 10⁻⁹ of the cutoff above it may be rounding, and is at it.
    if excess[-1] > 1e-12 and excess[_quartile(m)] <= max(1e-9 * np.exp(cutoff), 1e-300):
        k = np.inf
    elif excess[-1] > 1e-12:
        k, scale = fit_pareto_tail(np.maximum(excess, 0.0))
        probability = (np.arange(m) + 0.5) / m
        quantile = -np.log1p(-probability) if abs(k) < 1e-12 else np.expm1(-k * np.log1p(-probability)) / k
        smoothed[tail] = np.minimum(np.log(np.exp(cutoff) + scale * quantile), 0.0)
    return smoothed - logsumexp(smoothed), k


def _quartile(n: int) -> int:
    """Place of the first quartile of n values in rising order."""
    return max(int(n / 4 + 0.5) - 1, 0)


def fit_pareto_tail(excess: Float[np.ndarray, " excess"]) -> tuple[float, float]:
    """Shape k and scale of the generalised Pareto distribution of rising excesses x, 1 − F = (1 + kx/s)^{−1/k}.

    The first quartile must be above 0.

    The posterior mean of θ = −k/s over a grid, k drawn a little to 0.5 as by ten excesses of such a tail.

    References:
        Zhang and Stephens 2009, Technometrics 51, 316; Vehtari et al. 2024, appendix G.
    """
    n = len(excess)
    largest, quartile = excess[-1], excess[_quartile(n)]
    points = 30 + int(np.sqrt(n))
    theta = 1.0 / largest + (1.0 - np.sqrt(points / (np.arange(points) + 0.5))) / (3.0 * quartile)
    shape = np.mean(np.log1p(-theta[:, None] * excess), axis=1)
    profile = n * (np.log(-theta / shape) - shape - 1.0)
    posterior = np.exp(profile - profile.max())
    mean = float(np.sum(theta * posterior) / posterior.sum())
    k = float(np.mean(np.log1p(-mean * excess)))
    return (n * k + 10 * 0.5) / (n + 10), -k / mean


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


def weighted_mean(
    log_weight: Float[np.ndarray, " conformers"],
    values: Float[np.ndarray, " conformers"],
    *,
    repeats: int,
    rng: np.random.Generator,
) -> Estimate:
    """⟨f⟩ = Σ w f / Σ w with its interval. Draws from ``rng``."""
    values = np.asarray(values, dtype=np.float64)
    return _bootstrapped(log_weight, lambda w: (w @ values) / w.sum(axis=1), repeats, rng)


def free_energy_difference(
    log_weight: Float[np.ndarray, " conformers"],
    in_a: Bool[np.ndarray, " conformers"],
    in_b: Bool[np.ndarray, " conformers"],
    *,
    repeats: int,
    rng: np.random.Generator,
) -> Estimate:
    """F_a − F_b = −ln(Σ_a w / Σ_b w) in kT with its interval; ±∞ where a state has no weight. Draws from ``rng``."""

    def difference(w: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.log(w @ in_b.astype(np.float64)) - np.log(w @ in_a.astype(np.float64))

    return _bootstrapped(log_weight, difference, repeats, rng)


def _bootstrapped(
    log_weight: np.ndarray, estimate: Callable[[np.ndarray], np.ndarray], repeats: int, rng: np.random.Generator
) -> Estimate:
    """An estimator of weights [repeats, conformers], and its interval from resampled conformers."""
    n = len(log_weight)
    weight = np.exp(log_weight - np.max(log_weight))
    drawn = rng.multinomial(n, np.full(n, 1.0 / n), size=repeats) * weight
    replicates = estimate(drawn)
    replicates = replicates[np.isfinite(replicates)]
    low, high = np.quantile(replicates, [0.025, 0.975]) if len(replicates) > 1 else (np.nan, np.nan)
    return Estimate(float(estimate(weight[None])[0]), float(low), float(high))
