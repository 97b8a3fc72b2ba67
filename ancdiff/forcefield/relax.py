"""Relaxation of one conformer at a time in one Context: hydrogens only, restrained, full, or none.

Which density goes with which: e^{−βE} after ``hydrogens`` (heavy atoms fixed) approximates the Boltzmann density of the
heavy atoms, up to the entropy of the hydrogens; after ``restrained`` or ``full`` it is a density of basins, flat inside
each; ``none`` is the density of the all-atom conformers as they are.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from ancdiff.config import ForcefieldSettings, ScoreSettings
from ancdiff.forcefield.hydrogens import turn_rotor
from ancdiff.forcefield.lbfgs import minimise_lbfgs
from ancdiff.forcefield.metric import HydrogenMetric
from ancdiff.forcefield.platforms import choose_platform, platform_properties
from ancdiff.forcefield.system import GROUPS, RESTRAINT_GROUP
from ancdiff.forcefield.template import Template

_MAX_STEP_NM = 0.03
ENERGY_GROUPS = set(GROUPS.values())


@dataclass(frozen=True, eq=False)
class Relaxed:
    """A relaxed conformer: its positions, its energy without a restraint's, and the RMS force on the atoms that move."""

    positions_nm: Float[np.ndarray, "atoms 3"]
    energy_kj_mol: float
    rms_force_kj_mol_nm: float


class Relaxer:
    """One System and one Context of a molecule. The System has no constraints: bonds to hydrogen are flexible here."""

    def __init__(
        self, template: Template, forcefield: ForcefieldSettings, score: ScoreSettings, *, threads: int = 1
    ) -> None:
        import openmm

        self.mode, self._score = score.relax, score
        system = copy.deepcopy(template.system)
        heavy = template.placer.heavy
        self.moving: Int[np.ndarray, " moving"] = np.arange(template.molecule.n_atoms)
        if self.mode == "hydrogens":
            # OpenMM's minimiser leaves massless particles where they are, to the last bit.
            for atom in heavy:
                system.setParticleMass(int(atom), 0.0)
            self.moving = np.setdiff1d(self.moving, heavy)
        self._restraint = _add_restraint(system, heavy, score) if self.mode == "restrained" else None
        self._heavy = heavy
        self._metric = HydrogenMetric(template, system) if self.mode == "hydrogens" else None
        self._rotors = () if self.mode == "none" else template.placer.polar_rotors
        self._precondition: Callable[[np.ndarray], np.ndarray] | None = None
        platform = choose_platform(forcefield.platform, system)
        self.platform = platform.getName()
        self.system = system
        self.context = openmm.Context(
            system, openmm.VerletIntegrator(0.001), platform, platform_properties(platform, threads)
        )

    def energy_kj_mol(self, positions_nm: Float[np.ndarray, "atoms 3"]) -> float:
        """Potential energy, without a restraint's."""
        self.context.setPositions(positions_nm)
        return float(self.context.getState(energy=True, groups=ENERGY_GROUPS).getPotentialEnergy()._value)

    def parts_kj_mol(self, positions_nm: Float[np.ndarray, "atoms 3"]) -> dict[str, float]:
        """Potential energy by force group; the parts sum to the whole."""
        self.context.setPositions(positions_nm)
        return {
            part: float(self.context.getState(energy=True, groups={group}).getPotentialEnergy()._value)
            for part, group in GROUPS.items()
        }

    def relax(self, positions_nm: Float[np.ndarray, "atoms 3"]) -> Relaxed:
        """The nearest minimum, and for each rotatable polar hydrogen in turn the lowest of several starts."""
        if self.mode == "none" or len(self.moving) == 0:
            return Relaxed(positions_nm, self.energy_kj_mol(positions_nm), 0.0)
        if self._restraint is not None:
            for k, atom in enumerate(self._heavy):
                self._restraint.setParticleParameters(k, int(atom), tuple(positions_nm[atom]))
            self._restraint.updateParametersInContext(self.context)
        # The heavy atoms stay, and so does the metric.
        self._precondition = None if self._metric is None else self._metric.at(positions_nm)
        best = self._minimise(positions_nm)
        for rotor in self._rotors:
            for angle_rad in _turns_rad(rotor.symmetry, self._score.polar_hydrogen_starts):
                tried = self._minimise(turn_rotor(best.positions_nm, rotor, angle_rad))
                if tried.energy_kj_mol < best.energy_kj_mol:
                    best = tried
        return best

    def _minimise(self, positions_nm: Float[np.ndarray, "atoms 3"]) -> Relaxed:
        if self._precondition is None:
            return self._minimise_plainly(positions_nm)
        moving, score = self.moving, self._score
        whole_nm = positions_nm.copy()

        def energy_and_gradient(x_nm: np.ndarray) -> tuple[float, np.ndarray]:
            whole_nm[moving] = x_nm.reshape(-1, 3)
            self.context.setPositions(whole_nm)
            state = self.context.getState(forces=True, energy=True)
            forces = np.asarray(state.getForces(asNumpy=True)._value)
            return float(state.getPotentialEnergy()._value), -forces[moving].ravel()

        found = minimise_lbfgs(
            energy_and_gradient,
            positions_nm[moving].ravel(),
            precondition=self._precondition,
            tolerance=score.tolerance_kj_mol_nm,
            max_iterations=score.max_iterations,
            max_step=_MAX_STEP_NM,
        )
        whole_nm[moving] = found.x.reshape(-1, 3)
        return Relaxed(whole_nm, found.value, found.rms_gradient)

    def _minimise_plainly(self, positions_nm: Float[np.ndarray, "atoms 3"]) -> Relaxed:
        import openmm

        self.context.setPositions(positions_nm)
        openmm.LocalEnergyMinimizer.minimize(
            self.context, self._score.tolerance_kj_mol_nm, self._score.max_iterations
        )
        state = self.context.getState(positions=True, forces=True, energy=True)
        relaxed_nm = np.array(state.getPositions(asNumpy=True)._value, dtype=np.float64)
        forces = np.asarray(state.getForces(asNumpy=True)._value)[self.moving]
        energy = float(state.getPotentialEnergy()._value)
        if self._restraint is not None:
            restraint = self.context.getState(energy=True, groups={RESTRAINT_GROUP}).getPotentialEnergy()._value
            energy -= float(restraint)
        return Relaxed(relaxed_nm, energy, float(np.sqrt(np.mean(forces**2))))


def _turns_rad(symmetry: int, starts: int) -> list[float]:
    """Evenly spaced turns over one period 2π/symmetry, without the first, 0."""
    return [2 * np.pi / symmetry * k / starts for k in range(1, starts)]


def _add_restraint(system: Any, heavy: Int[np.ndarray, " heavy"], score: ScoreSettings) -> Any:
    """½ k |r − r₀|² on each heavy atom, in a force group that the energies leave out."""
    import openmm

    restraint = openmm.CustomExternalForce("0.5*k*((x-x0)^2+(y-y0)^2+(z-z0)^2)")
    restraint.addGlobalParameter("k", score.restraint_kj_mol_nm2)
    for name in ("x0", "y0", "z0"):
        restraint.addPerParticleParameter(name)
    for atom in heavy:
        restraint.addParticle(int(atom), (0.0, 0.0, 0.0))
    restraint.setForceGroup(RESTRAINT_GROUP)
    system.addForce(restraint)
    return restraint
