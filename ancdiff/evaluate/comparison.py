"""One metric of one ensemble: its value, its bootstrap replicates and its floor, from one estimator."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from ancdiff.config import EvaluateSettings
from ancdiff.evaluate.catalogue import METRICS
from ancdiff.evaluate.resampling import Estimate, Sampling, bootstrap, half_against_half, interval

Difference = Callable[[Any, Any], Any]
"""From the estimates of two ensembles [repeats, …] to their difference [repeats, …]."""


@dataclass(frozen=True, eq=False)
class Measurement:
    """One row of the table of metrics; the bootstrap replicates travel along for averages over systems."""

    system: str
    ensemble: str
    metric: str
    value: float
    n: int
    residue: str = ""
    basin: str = ""
    against: str = ""
    floor: float = np.nan
    replicates: np.ndarray | None = None
    status: str = "ok"  # or why nothing is claimed; the value is then NaN

    def row(self) -> dict[str, Any]:
        """The row as it stands in ``metrics.parquet``."""
        metric = METRICS[self.metric]
        low, high = interval(self.value, self.replicates, lower=metric.lower, upper=metric.upper)
        return {
            "system": self.system,
            "ensemble": self.ensemble,
            "metric": self.metric,
            "residue": self.residue,
            "basin": self.basin,
            "against": self.against,
            "value": self.value,
            "low": low,
            "high": high,
            "floor": self.floor,
            "unit": metric.unit,
            "n": self.n,
            "status": self.status,
        }


@dataclass(frozen=True, eq=False)
class Compared:
    """Value [...], replicates [repeats, ...] (None where meaningless) and floor [...] of a comparison."""

    value: np.ndarray
    replicates: np.ndarray | None
    floor: np.ndarray

    def item(self, *index: int) -> dict[str, Any]:
        """Value, replicates and floor at one index, as a measurement takes them."""
        replicates = None if self.replicates is None else self.replicates[(slice(None), *index)]
        return {"value": float(self.value[index]), "replicates": replicates, "floor": float(self.floor[index])}


class Source:
    """An estimator with the conformers it reads: its value, its bootstrap, its halves. Draws from its own seed."""

    def __init__(
        self, estimate: Estimate, sampling: Sampling, settings: EvaluateSettings, seed: tuple[int, ...]
    ) -> None:
        self.estimate, self.sampling, self._settings, self._seed = estimate, sampling, settings, seed

    @cached_property
    def value(self) -> Any:
        """Estimates [1, ...] from every conformer."""
        return self.estimate(np.ones((1, len(self.sampling))))

    @cached_property
    def replicates(self) -> Any:
        """Bootstrap estimates [repeats, ...]."""
        rng = np.random.default_rng((*self._seed, 1))
        return bootstrap(self.estimate, self.sampling, self._settings.bootstrap_repeats, rng)

    def halves(self, size: int) -> list[tuple[Any, Any]]:
        """Estimates of ``size`` frames of one half and of the other half, both ways round; empty without halves."""
        if size not in self._halves:
            rng = np.random.default_rng((*self._seed, 2))
            draws = self._settings.floor_draws
            self._halves[size] = half_against_half(self.estimate, self.sampling, size, draws, rng)
        return self._halves[size]

    @cached_property
    def _halves(self) -> dict[int, list[tuple[Any, Any]]]:
        return {}


def compare(source: Source, against: Source, difference: Difference) -> Compared:
    """Difference of an ensemble from an MD data set, with its bootstrap (both resampled) and its floor.

    The floor is the RMS, over draws and both directions, of the same difference between as many frames of one half
    of the MD and its other half. An MD data set against itself has the floor as its value.
    """
    value = np.asarray(difference(source.value, against.value)[0])
    pairs = against.halves(len(source.sampling))
    if pairs:
        squares = np.concatenate([np.atleast_1d(difference(few, whole) ** 2) for few, whole in pairs])
        floor = np.asarray(np.sqrt(squares.mean(axis=0)))
    else:
        floor = np.full(np.shape(value), np.nan)
    if source is against:
        return Compared(floor, None, floor)
    return Compared(value, difference(source.replicates, against.replicates), floor)


def absolute(source: Source, read: Callable[[Any], Any] = lambda estimates: estimates) -> Compared:
    """An estimate itself, with its bootstrap; a floor has no meaning for it."""
    value = np.asarray(read(source.value)[0])
    return Compared(value, read(source.replicates), np.full(np.shape(value), np.nan))


def table(measurements: list[Measurement]) -> pd.DataFrame:
    """The long table of metrics."""
    return pd.DataFrame([m.row() for m in measurements])
