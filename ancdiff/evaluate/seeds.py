"""Means and intervals over seeds: what training again would change, which no bootstrap of one model sees."""

from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy import stats

from ancdiff.corridor import MD_ENSEMBLES, MEAN_OVER_SYSTEMS, split_model, without_seed
from ancdiff.evaluate.catalogue import HEADLINE, METRICS
from ancdiff.evaluate.comparison import Measurement

COLUMNS = ("model", "system", "metric", "seeds", "mean", "std", "low", "high", "floor", "unit")


def over_seeds(measurements: list[Measurement]) -> pd.DataFrame:
    """One row per model without its seed, system (and their mean) and headline metric.

    Columns ``mean`` and ``std`` (n − 1) over seeds, ``low`` and ``high`` (`t_interval`, kept within the metric's
    bounds), ``seeds`` (how many have a value) and ``floor`` (its mean over seeds). A seed counts in the mean over
    systems where it has every system that another seed has.
    """
    rows: list[dict[str, Any]] = []
    chosen = [m for m in measurements if m.ensemble not in MD_ENSEMBLES and not m.residue and not m.basin]
    for model in dict.fromkeys(without_seed(m.ensemble) for m in chosen):
        for column, (metric, against) in HEADLINE.items():
            mine = [
                m for m in chosen if (m.metric, m.against) == (metric, against) and without_seed(m.ensemble) == model
            ]
            if mine:
                rows += _rows(model, column, mine)
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _rows(model: str, column: str, mine: list[Measurement]) -> list[dict[str, Any]]:
    """Rows of one metric of one model: each system, then their mean."""
    table = pd.DataFrame(
        {"system": m.system, "seed": split_model(m.ensemble).seed or 0, "value": m.value, "floor": m.floor}
        for m in mine
    )
    systems = list(dict.fromkeys(table["system"]))
    values, floors = (table.pivot(index="seed", columns="system", values=name)[systems] for name in ("value", "floor"))
    for by_system in (values, floors):
        by_system[MEAN_OVER_SYSTEMS] = by_system[systems].mean(axis=1, skipna=False)
    metric = METRICS[HEADLINE[column][0]]
    rows = []
    for system in (*systems, MEAN_OVER_SYSTEMS):
        found = values[system].dropna().to_numpy(dtype=np.float64)
        told = {"model": model, "system": system, "metric": column} | mean_over_seeds(found)
        for end in ("low", "high"):
            told[end] = float(np.clip(told[end], metric.lower, metric.upper))
        rows.append(told | {"floor": float(floors[system].mean()), "unit": metric.unit})
    return rows


def mean_over_seeds(values: Float[np.ndarray, " seeds"]) -> dict[str, Any]:
    """``seeds`` (how many values), their ``mean`` and ``std`` (n − 1), ``low`` and ``high`` of `t_interval`."""
    low, high = t_interval(values)
    return {
        "seeds": len(values),
        "mean": float(values.mean()) if len(values) else np.nan,
        "std": float(values.std(ddof=1)) if len(values) > 1 else np.nan,
        "low": low,
        "high": high,
    }


def t_interval(values: Float[np.ndarray, " seeds"], *, level: float = 0.95) -> tuple[float, float]:
    """Student's interval of a mean, x̄ ± t s/√n with n − 1 degrees of freedom; NaN for a single value.

    It takes the values of the seeds for normal: with three of them it cannot do otherwise, and t is 4.3.
    """
    n = len(values)
    if n < 2:
        return np.nan, np.nan
    half = float(stats.t.ppf(0.5 + level / 2, n - 1) * values.std(ddof=1) / np.sqrt(n))
    return float(values.mean()) - half, float(values.mean()) + half
