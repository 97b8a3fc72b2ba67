"""The standard systems with an exact energy: how many particles, and the literature's parameters in reduced units.

What the parameters mean, and where they are from: `ancdiff.particles.potentials`.
"""

PARTICLES: dict[str, int] = {"double_well": 2, "dw4": 4, "lj13": 13, "lj55": 55}
PARAMETERS: dict[str, dict[str, float]] = {
    "double_well": {"a": 0.8, "b": -4.0, "c": 0.9, "d0": 4.0},
    "dw4": {"a": 0.0, "b": -4.0, "c": 0.9, "d0": 4.0},
    "lj13": {"epsilon": 2.0, "r_m": 1.0, "oscillator": 1.0},
    "lj55": {"epsilon": 2.0, "r_m": 1.0, "oscillator": 1.0},
}


def check_parameters(potential: str, parameters: dict[str, float]) -> None:
    """See that the potential has these parameters and that they bind its particles.

    Raises:
        ValueError: it has not, or they do not.
    """
    known = PARAMETERS[potential]
    unknown = sorted(set(parameters) - set(known))
    if unknown:
        raise ValueError(f"'{potential}' has no parameter {', '.join(unknown)}; it has: {', '.join(known)}")
    wrong = [k for k in ("c", "d0", "epsilon", "r_m", "oscillator") if parameters.get(k, 1.0) <= 0]
    if wrong:
        raise ValueError(f"{', '.join(wrong)} of '{potential}' must be above 0, to bind the particles")


def n_wells(potential: str) -> int:
    """How many wells are told apart: 0 to all pairs longer than d₀, where there is a d₀."""
    n = PARTICLES[potential]
    return n * (n - 1) // 2 + 1 if "d0" in PARAMETERS[potential] else 1
