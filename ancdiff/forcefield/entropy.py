"""The entropy of the hydrogens about their relaxed places, in the harmonic approximation.

A model of heavy atoms X aims at the marginal ∫ e^{−βE(X,h)} dh. With the hydrogens relaxed to h*, that is
e^{−β[E(X,h*) − TS(X)]} up to a constant, where −TS = ½ kT ln det(ℓ² βH) and H is the hydrogen–hydrogen Hessian at h*.
The mass does not enter: momenta integrate to a constant. The fixed length ℓ only shifts all conformers of a molecule by
the same amount, so that ensembles of one molecule can be pooled.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int

from ancdiff.units import thermal_energy_kj_mol

_LENGTH_NM = 0.01
_STEP_NM = 1e-4
# A hydrogen that turns freely is spread over some 0.1 nm: no direction is taken to be softer than that.
_WIDEST_NM = 0.1


def hydrogen_entropy_kj_mol(
    forces: Callable[[np.ndarray], np.ndarray],
    positions_nm: Float[np.ndarray, "atoms 3"],
    hydrogens: Int[np.ndarray, " hydrogens"],
    temperature_kelvin: float,
) -> float:
    """−TS = ½ kT Σ ln(ℓ² λ/kT) over the eigenvalues λ of the hydrogen–hydrogen Hessian, ℓ = 0.01 nm.

    Central differences of ``forces`` (kJ/mol/nm of all atoms at given positions): six evaluations for each hydrogen.
    The harmonic form knows nothing of a rotor's other wells, whose number is the same in all conformers as a rule.
    """
    kt = thermal_energy_kj_mol(temperature_kelvin)
    hessian = hydrogen_hessian(forces, positions_nm, hydrogens)
    eigenvalues = np.maximum(np.linalg.eigvalsh(hessian), kt / _WIDEST_NM**2)
    return float(0.5 * kt * np.sum(np.log(_LENGTH_NM**2 * eigenvalues / kt)))


def hydrogen_hessian(
    forces: Callable[[np.ndarray], np.ndarray],
    positions_nm: Float[np.ndarray, "atoms 3"],
    hydrogens: Int[np.ndarray, " hydrogens"],
) -> np.ndarray:
    """∂²E/∂h∂h, kJ/mol/nm², symmetrised."""
    hessian = np.empty((3 * len(hydrogens), 3 * len(hydrogens)))
    displaced = positions_nm.copy()
    for column, (atom, axis) in enumerate((int(h), k) for h in hydrogens for k in range(3)):
        responses = []
        for sign in (1.0, -1.0):
            displaced[atom, axis] = positions_nm[atom, axis] + sign * _STEP_NM
            responses.append(forces(displaced)[hydrogens].ravel())
        displaced[atom, axis] = positions_nm[atom, axis]
        hessian[:, column] = (responses[1] - responses[0]) / (2 * _STEP_NM)
    return (hessian + hessian.T) / 2
