"""Other minima of rotatable polar hydrogens: where to start from besides the nearest minimum."""

import math
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

from ancdiff.forcefield.hydrogens import Rotor, turn_rotor

_SCAN = 12  # positions of a rotor over its period
_FEW_ROTORS = 4
_PROFILE_MARGIN_KJ_MOL = 4.0  # relaxation may lower a minimum of the rigid profile by so much against another

Forces = Callable[[np.ndarray], np.ndarray]
Turns = list[tuple[Rotor, float]]


def promising_turns(
    rotors: Sequence[Rotor], forces: Forces, positions_nm: Float[np.ndarray, "atoms 3"], *, starts: int
) -> list[Turns]:
    """Turns of polar hydrogens that may lead to a lower minimum; each list is one start to relax from.

    With few rotors every other minimum of a rotor's profile that is not far above is a start of its own. With many
    they turn together, each to its lowest minimum if that lies lower. ``forces`` are in kJ/mol/nm at given positions.
    """
    if starts == 1 or not rotors:
        return []
    single = len(rotors) <= _FEW_ROTORS
    margin = _PROFILE_MARGIN_KJ_MOL if single else -_PROFILE_MARGIN_KJ_MOL
    turns: Turns = []
    for rotor, profile in zip(rotors, rotor_profiles(rotors, forces, positions_nm), strict=True):
        minima = np.flatnonzero((profile < np.roll(profile, 1)) & (profile <= np.roll(profile, -1)))
        good = [int(k) for k in minima if k not in (0, 1, _SCAN - 1) and profile[k] < profile[0] + margin]
        chosen = sorted(good, key=lambda k, profile=profile: float(profile[k]))[: starts - 1 if single else 1]
        turns += [(rotor, 2 * np.pi / rotor.symmetry * k / _SCAN) for k in chosen]
    if single or not turns:
        return [[turn] for turn in turns]
    return [turns]


def turned(positions_nm: Float[np.ndarray, "atoms 3"], turns: Turns) -> Float[np.ndarray, "atoms 3"]:
    """Positions with all of these turns made."""
    for rotor, angle_rad in turns:
        positions_nm = turn_rotor(positions_nm, rotor, angle_rad)
    return positions_nm


def rotor_profiles(
    rotors: Sequence[Rotor], forces: Forces, positions_nm: Float[np.ndarray, "atoms 3"]
) -> Float[np.ndarray, "rotors scan"]:
    """Energy (kJ/mol) of each rotor along its own turn over one period, the rest rigid; 0 at the start.

    All rotors turn at once, and each one's energy is minus the integral of the torque on it, so that the scan costs
    as many force evaluations for a hundred rotors as for one. Neighbouring rotors see each other turned.
    """
    rows = [list(rotor.hydrogens) for rotor in rotors]
    circles = [_circle(positions_nm, rotor) for rotor in rotors]
    torques = np.zeros((len(rotors), _SCAN))
    whole_nm = positions_nm.copy()
    for k in range(_SCAN):
        arms = []
        for r, (rotor, (centre, cosine, sine)) in enumerate(zip(rotors, circles, strict=True)):
            angle_rad = 2 * np.pi / rotor.symmetry * k / _SCAN
            whole_nm[rows[r]] = centre + cosine * math.cos(angle_rad) + sine * math.sin(angle_rad)
            arms.append(sine * math.cos(angle_rad) - cosine * math.sin(angle_rad))  # ∂r/∂θ
        found = forces(whole_nm)
        for r, arm in enumerate(arms):
            torques[r, k] = np.vdot(found[rows[r]], arm)
    torques -= torques.mean(axis=1, keepdims=True)  # over a whole period the work is zero
    widths = 2 * np.pi / np.array([[rotor.symmetry] for rotor in rotors]) / _SCAN
    between = widths * (torques + np.roll(torques, -1, axis=1)) / 2
    return np.concatenate([np.zeros((len(torques), 1)), -np.cumsum(between, axis=1)[:, :-1]], axis=1)


def _circle(positions_nm: Float[np.ndarray, "atoms 3"], rotor: Rotor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(c, u, w) of each hydrogen of a rotor, which on its turn is at c + u cos θ + w sin θ."""
    axis = positions_nm[rotor.parent] - positions_nm[rotor.pivot]
    axis = axis / np.linalg.norm(axis)
    arms = positions_nm[list(rotor.hydrogens)] - positions_nm[rotor.parent]
    along = (arms @ axis)[:, None] * axis
    return positions_nm[rotor.parent] + along, arms - along, np.cross(axis, arms)
