"""Resampling: bootstrap weights, intervals, and draws from the independent halves of an MD data set.

Every metric here is a function of weighted conformers: weights of one give its value, bootstrap weights its
interval, and weights that pick some frames of one half its floor. So one estimator per metric serves all three.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Shaped

Weights = Float[np.ndarray, "repeats conformers"]
Estimates = Float[np.ndarray, "repeats ..."]
Estimate = Callable[[Any], Any]
"""An estimator: weights [repeats, conformers] → estimates [repeats, ...]."""

_CHUNK_ENTRIES = 4_000_000
"""Weights held at one time: 32 MB, whatever the length of a trajectory."""


@dataclass(frozen=True, eq=False)
class Sampling:
    """How the conformers of an ensemble were drawn.

    ``blocks`` numbers what may be resampled as independent (each conformer of a model; replicas or stretches of MD).
    ``halves`` (0 or 1) tells the two independent halves of an MD data set, None for a model's samples.
    """

    blocks: Int[np.ndarray, " conformers"]
    halves: Int[np.ndarray, " conformers"] | None = None

    def __len__(self) -> int:
        return len(self.blocks)

    def take(self, indices: Shaped[np.ndarray, " chosen"]) -> "Sampling":
        """The sampling of some of the conformers."""
        halves = None if self.halves is None else self.halves[indices]
        return Sampling(np.unique(self.blocks[indices], return_inverse=True)[1], halves)


def independent(n: int) -> Sampling:
    """Conformers drawn independently, as a model's samples are."""
    return Sampling(np.arange(n))


def md_blocks(replica: Int[np.ndarray, " frames"], min_blocks: int) -> Int[np.ndarray, " frames"]:
    """Blocks of MD frames: the replicas, or, where they are fewer than ``min_blocks``, equal stretches of each.

    Two replicas would give three different resamples only. Stretches take for granted that a stretch is longer than
    the slowest motion; the floor, which compares whole halves, does not.
    """
    replicas, numbered = np.unique(replica, return_inverse=True)
    pieces = max(1, -(-min_blocks // len(replicas))) if len(replicas) < min_blocks else 1
    blocks = np.empty(len(replica), dtype=np.int64)
    for r in range(len(replicas)):
        frames = np.flatnonzero(numbered == r)
        blocks[frames] = r * pieces + np.arange(len(frames)) * pieces // len(frames)
    return np.unique(blocks, return_inverse=True)[1]


def bootstrap(estimate: Estimate, sampling: Sampling, repeats: int, rng: np.random.Generator) -> Any:
    """Estimates from ``repeats`` resamples of the blocks with replacement. Draws from ``rng``."""
    n_blocks = int(sampling.blocks.max()) + 1
    drawn = rng.multinomial(n_blocks, np.full(n_blocks, 1.0 / n_blocks), size=repeats)
    return np.concatenate([estimate(w) for w in _expanded(drawn, sampling.blocks)])


def _expanded(drawn: np.ndarray, blocks: np.ndarray) -> Iterator[np.ndarray]:
    rows = max(1, _CHUNK_ENTRIES // len(blocks))
    for start in range(0, len(drawn), rows):
        yield drawn[start : start + rows, blocks].astype(np.float64)


def subset_weights(
    members: Int[np.ndarray, " members"], n: int, size: int, draws: int, rng: np.random.Generator
) -> Weights:
    """Weights of one for ``size`` of the ``members`` without replacement, of zero elsewhere. Draws from ``rng``.

    One row is enough, and is all that is given, where ``size`` takes every member.
    """
    rows = draws if size < len(members) else 1
    weights = np.zeros((rows, n))
    for row in weights:
        row[rng.permutation(members)[:size]] = 1.0
    return weights


def half_against_half(
    estimate: Estimate, sampling: Sampling, size: int, draws: int, rng: np.random.Generator
) -> list[tuple[Any, Any]]:
    """Estimates of ``size`` frames of one half (several draws) and of the whole other half, both ways round.

    Empty where there are no halves or one is empty. Draws from ``rng``.
    """
    if sampling.halves is None:
        return []
    members = [np.flatnonzero(sampling.halves == h) for h in (0, 1)]
    if min(len(m) for m in members) == 0:
        return []
    n = len(sampling)
    pairs = []
    for few, whole in (members, members[::-1]):
        drawn = estimate(subset_weights(few, n, min(size, len(few)), draws, rng))
        pairs.append((drawn, estimate(subset_weights(whole, n, len(whole), 1, rng))))
    return pairs


def interval(
    value: float,
    replicates: Float[np.ndarray, " repeats"] | None,
    *,
    lower: float = -np.inf,
    upper: float = np.inf,
    level: float = 0.95,
) -> tuple[float, float]:
    """Bootstrap interval of a value: v + Q(r − ⟨r⟩) at the two tails, kept within the metric's bounds.

    The percentiles are taken about the replicates' own mean: resampling adds noise, which pushes distances (a
    Jensen–Shannon divergence, an RMS error) up, and plain percentiles would then lie above the value itself. For
    unbiased estimates it is the percentile interval.
    """
    if replicates is None or not np.isfinite(value):
        return np.nan, np.nan
    finite = replicates[np.isfinite(replicates)]
    if len(finite) < 2:
        return np.nan, np.nan
    tail = (1 - level) / 2
    low, high = value + np.quantile(finite, [tail, 1 - tail]) - finite.mean()
    return float(np.clip(low, lower, upper)), float(np.clip(high, lower, upper))


def proportion_replicates(successes: int, n: int, repeats: int, rng: np.random.Generator) -> np.ndarray:
    """Draws from Beta(k + ½, n − k + ½) (Jeffreys): the spread of a proportion, also at 0 and 1. Draws from ``rng``."""
    return rng.beta(successes + 0.5, n - successes + 0.5, size=repeats)


def weighted_mean_and_spread(
    features: Float[np.ndarray, "conformers features"], weights: Weights
) -> Float[np.ndarray, "repeats 2 features"]:
    """Weighted mean μ = Σwx / Σw and standard deviation √(Σw(x−μ)² / Σw) of each feature."""
    centre = features.mean(axis=0)  # taken off first: the difference of squares would lose digits
    shifted = features - centre
    total = weights.sum(axis=1, keepdims=True)
    mean = weights @ shifted / total
    variance = weights @ shifted**2 / total - mean**2
    return np.stack([mean + centre, np.sqrt(np.maximum(variance, 0.0))], axis=1)
