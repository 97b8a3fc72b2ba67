"""A cheap stand-in for an energy whose implicit solvent costs most: it takes the steps, the full energy corrects it.

The stand-in S is the force field without its solvent, with Coulomb energies divided by 4 and a cutoff. At a point x₀
with full gradient g, S(x) + (g − ∇S(x₀))·(x − x₀) has the full gradient; its minimum is the next x₀. A dozen full
evaluations then do what hundreds did. Where that does not lower the full energy, the caller goes on without it.

References:
    Alexandrov et al., Structural Optimization 15, 16 (1998): first-order consistent approximations.
"""

import copy
from typing import Any

import numpy as np
from jaxtyping import Float

from ancdiff.forcefield.platforms import platform_by_name, platform_properties
from ancdiff.forcefield.system import GROUPS, RESTRAINT_GROUP

_DIELECTRIC = 4.0
_CUTOFF_NM = 1.0


class Surrogate:
    """The stand-in of a System, in a Context of its own on the CPU platform."""

    def __init__(self, system: Any, *, threads: int = 1) -> None:
        import openmm

        cheap = copy.deepcopy(system)
        for index in reversed(range(cheap.getNumForces())):
            force = cheap.getForce(index)
            if force.getForceGroup() in (GROUPS["solvation"], RESTRAINT_GROUP):
                cheap.removeForce(index)
            elif isinstance(force, openmm.NonbondedForce):
                _screen(force)
            elif isinstance(force, openmm.CustomNonbondedForce):
                force.setNonbondedMethod(openmm.CustomNonbondedForce.CutoffNonPeriodic)
                force.setCutoffDistance(_CUTOFF_NM)
        platform = platform_by_name("CPU")
        self.context: Any = openmm.Context(
            cheap, openmm.VerletIntegrator(0.001), platform, platform_properties(platform, threads)
        )

    def energy_and_forces(
        self, positions_nm: Float[np.ndarray, "atoms 3"]
    ) -> tuple[float, Float[np.ndarray, "atoms 3"]]:
        """The stand-in's energy (kJ/mol) and forces (kJ/mol/nm)."""
        self.context.setPositions(positions_nm)
        state = self.context.getState(energy=True, forces=True)
        return float(state.getPotentialEnergy()._value), state_forces(state)


def state_forces(state: Any) -> Float[np.ndarray, "atoms 3"]:
    """Forces of a State in kJ/mol/nm, without OpenMM's units, which cost as much as the forces of a small peptide."""
    forces = np.empty((state._getNumParticles(), 3))
    state._getVectorAsNumpy(state.Forces, forces)
    return forces


def _screen(force: Any) -> None:
    """Divide the Coulomb energy by a dielectric constant and cut it off, shifted."""
    import openmm

    # Plain numbers: arithmetic with OpenMM's units would take a second for a protein.
    for i in range(force.getNumParticles()):
        charge, sigma, epsilon = (parameter._value for parameter in force.getParticleParameters(i))
        force.setParticleParameters(i, charge / np.sqrt(_DIELECTRIC), sigma, epsilon)
    for i in range(force.getNumExceptions()):
        a, b, *rest = force.getExceptionParameters(i)
        product, sigma, epsilon = (parameter._value for parameter in rest)
        force.setExceptionParameters(i, a, b, product / _DIELECTRIC, sigma, epsilon)
    force.setNonbondedMethod(openmm.NonbondedForce.CutoffNonPeriodic)
    force.setCutoffDistance(_CUTOFF_NM)
    force.setReactionFieldDielectric(1.0)
    force.setUseSwitchingFunction(False)
