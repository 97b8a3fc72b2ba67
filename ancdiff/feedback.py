"""Feedback of energies: what a model draws above what it has learned is taken off what it learns next.

A denoiser's loss hardly sees vibrations that are a little too wide: three per cent of variance in each of 33 of them
are half a kT of energy, and 0.007 nats. So a model's samples lie an excess e above the conformers that it was trained
on, whatever their weights are, and rounds of alignment end where p_θ has the mean of the weighted pool plus e. With
u = βE, samples of the last model tell e, and the next round's pool is tilted,

    a_i ← a_i e^{−λ u_i},   ⟨u⟩ after = ⟨u⟩ before − e,

the weights of least relative entropy to a with that mean. Where e stays, the next model draws the mean that the pool
had before the tilt, and λ stays as well. Neither reference nor force field is asked anything new.

Reference: Jaynes 1957, Phys. Rev. 106, 620 (weights with a given mean).
"""

import numpy as np
from jaxtyping import Float

from ancdiff.weights import effective_sample_size, logsumexp

_TRUNCATED = 0.01  # share of the weight at either end whose energies are pulled in: one overlap is no vibration
_KEPT = 0.5  # of the effective sample size, at least
_BISECTIONS = 60


def mean_energy(
    reduced_energy: Float[np.ndarray, " conformers"], log_weight: Float[np.ndarray, " conformers"] | None = None
) -> float:
    """⟨u⟩ under weights that need not be normalised (equal ones by default), energies truncated at 1 % of the weight.

    Raises:
        ValueError: there are no conformers.
    """
    if len(reduced_energy) == 0:
        raise ValueError("a mean energy needs conformers")
    weight = np.ones(len(reduced_energy)) if log_weight is None else np.exp(log_weight - log_weight.max())
    order = np.argsort(reduced_energy)
    below = (np.cumsum(weight[order]) - 0.5 * weight[order]) / weight.sum()
    low, high = np.interp([_TRUNCATED, 1.0 - _TRUNCATED], below, reduced_energy[order])
    return float(np.average(np.clip(reduced_energy, low, high), weights=weight))


def tilted(
    log_weight: Float[np.ndarray, " conformers"],
    reduced_energy: Float[np.ndarray, " conformers"],
    excess: float,
) -> tuple[Float[np.ndarray, " conformers"], float]:
    """Normalised log-weights log a − λu whose mean energy is lower by ``excess``, and λ.

    d⟨u⟩/dλ = −Var u, so bisection finds λ. It goes no further than half of the effective sample size, and is 0 where
    all energies are alike.
    """
    a = log_weight - logsumexp(log_weight)
    if np.ptp(reduced_energy) == 0 or excess == 0:
        return a, 0.0
    u = reduced_energy - reduced_energy.min()
    wanted = mean_energy(u, a) - excess
    needed = _KEPT * effective_sample_size(a)

    def too_far(size: float) -> bool:
        """Whether λ = ± size, towards the wanted mean, is at it or takes too many conformers their weight."""
        moved = a - np.sign(excess) * size * u
        reached = (mean_energy(u, moved) - wanted) * np.sign(excess) <= 0
        return bool(reached or effective_sample_size(moved) < needed)

    low, high = 0.0, 1.0  # a tilt of −βE once more, or of none at all
    for _ in range(_BISECTIONS):
        middle = 0.5 * (low + high)
        low, high = (low, middle) if too_far(middle) else (middle, high)
    slope = float(np.sign(excess)) * low
    moved = a - slope * u
    return moved - logsumexp(moved), slope
