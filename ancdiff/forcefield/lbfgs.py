"""Preconditioned L-BFGS: where an energy costs much, a good metric saves most of the evaluations."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

_MEMORY = 10
_ARMIJO = 1e-4
_MAX_BACKTRACKS = 12
# Energies are no better than this relative accuracy; a step that rises by less is not a failure.
_NOISE = 1e-8

ValueAndGradient = tuple[float, np.ndarray]
Function = Callable[[np.ndarray], ValueAndGradient]


@dataclass(frozen=True, eq=False)
class Minimum:
    """Where a minimisation ended; ``converged`` if the RMS gradient is within the tolerance."""

    x: Float[np.ndarray, " n"]
    value: float
    rms_gradient: float
    evaluations: int
    converged: bool


def minimise_lbfgs(
    function: Function,
    start: Float[np.ndarray, " n"],
    *,
    precondition: Callable[[np.ndarray], np.ndarray],
    tolerance: float,
    max_iterations: int,
    max_step: float,
    known: ValueAndGradient | None = None,
) -> Minimum:
    """Minimise a smooth function; ``function`` gives value and gradient, ``precondition`` applies the inverse metric.

    ``known`` are value and gradient at the start where the caller has them: an evaluation less.
    Ends where the RMS of the gradient's components is ≤ ``tolerance``; a component moves ``max_step`` a step at most.

    The metric is taken as it is, not rescaled by the last step: it is meant to be good, and then that costs iterations.

    References:
        Nocedal and Wright, Numerical Optimization (2006), algorithms 7.4 and 7.5, with backtracking (3.1).
    """
    x = start
    value, gradient = function(x) if known is None else known
    evaluations = int(known is None)
    memory: deque[tuple[np.ndarray, np.ndarray, float]] = deque(maxlen=_MEMORY)
    for _ in range(max_iterations):
        if not np.isfinite(value) or _rms(gradient) <= tolerance:
            break
        direction = -_inverse_times(memory, precondition, gradient)
        slope = float(gradient @ direction)
        if slope >= 0:  # a metric that is not positive: forget it
            memory.clear()
            direction = -precondition(gradient)
            slope = float(gradient @ direction)
        length = min(1.0, max_step / float(np.abs(direction).max()))
        for _ in range(_MAX_BACKTRACKS):
            tried = x + length * direction
            new_value, new_gradient = function(tried)
            evaluations += 1
            if new_value <= value + _ARMIJO * length * slope + _NOISE * abs(value):
                break
            length *= _shrink(value, new_value, length * slope)
        else:
            if not memory:
                break
            memory.clear()
            continue
        step, change = tried - x, new_gradient - gradient
        curvature = float(step @ change)
        if curvature > 1e-10 * float(np.linalg.norm(step) * np.linalg.norm(change)):
            memory.append((step, change, curvature))
        x, value, gradient = tried, new_value, new_gradient
    rms = _rms(gradient)
    return Minimum(x, value, rms, evaluations, bool(rms <= tolerance))


def _inverse_times(
    memory: deque[tuple[np.ndarray, np.ndarray, float]], precondition: Callable[[np.ndarray], np.ndarray], v: np.ndarray
) -> np.ndarray:
    """The two-loop recursion: the L-BFGS inverse Hessian times v."""
    q = v
    weights = []
    for step, change, curvature in reversed(memory):
        weight = float(step @ q) / curvature
        weights.append(weight)
        q = q - weight * change
    q = precondition(q)
    for (step, change, curvature), weight in zip(memory, reversed(weights), strict=True):
        q = q + (weight - float(change @ q) / curvature) * step
    return q


def _shrink(value: float, new_value: float, slope: float) -> float:
    """Factor for the next try: the minimum of the parabola through both values and the slope, within [0.1, 0.5]."""
    rise = new_value - value - slope
    if not np.isfinite(rise) or rise <= 0:
        return 0.1 if not np.isfinite(rise) else 0.5
    return float(np.clip(-slope / (2 * rise), 0.1, 0.5))


def _rms(gradient: np.ndarray) -> float:
    return float(np.sqrt(gradient @ gradient / len(gradient)))
