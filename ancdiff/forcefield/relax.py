"""Relaxation of one conformer at a time in one Context: hydrogens only, restrained, full, or none.

Which density goes with which: e^{−βE} after ``hydrogens`` (heavy atoms fixed) approximates the Boltzmann density of the
heavy atoms, up to the entropy of the hydrogens; after ``restrained`` or ``full`` it is a density of basins, flat inside
each; ``none`` is the density of the all-atom conformers as they are.
"""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from ancdiff.config import ForcefieldSettings, ScoreSettings
from ancdiff.forcefield.hydrogens import Rotor, turn_rotor
from ancdiff.forcefield.lbfgs import minimise_lbfgs
from ancdiff.forcefield.metric import HydrogenMetric
from ancdiff.forcefield.platforms import choose_platform, platform_properties
from ancdiff.forcefield.small_molecules import ModelMetric, SmallTemplate
from ancdiff.forcefield.system import GROUPS, RESTRAINT_GROUP
from ancdiff.forcefield.template import Template

_MAX_STEP_NM = 0.03
_SCAN = 12  # positions of a rotor over its period when its other minima are looked for
_FEW_ROTORS = 4
_PROFILE_MARGIN_KJ_MOL = 4.0  # relaxation may lower a minimum of the rigid profile by so much against another
ENERGY_GROUPS = set(GROUPS.values())


@dataclass(frozen=True, eq=False)
class Relaxed:
    """A relaxed conformer: positions, energy without a restraint's, and the RMS force on the atoms that move."""

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
        self._metric: HydrogenMetric | ModelMetric | None = None
        if isinstance(template, SmallTemplate):
            self._metric = ModelMetric(template, self.moving)
        elif self.mode == "hydrogens":
            self._metric = HydrogenMetric(template, system)
        self._rotors = () if self.mode == "none" else template.placer.polar_rotors
        self._precondition: Callable[[np.ndarray], np.ndarray] | None = None
        platform = choose_platform(forcefield.platform, system)
        self.platform = platform.getName()
        self.system = system
        self.context: Any = openmm.Context(
            system, openmm.VerletIntegrator(0.001), platform, platform_properties(platform, threads)
        )

    def energy_kj_mol(self, positions_nm: Float[np.ndarray, "atoms 3"]) -> float:
        """Potential energy, without a restraint's."""
        self.context.setPositions(positions_nm)
        return float(self.context.getState(energy=True, groups=ENERGY_GROUPS).getPotentialEnergy()._value)

    def forces_kj_mol_nm(self, positions_nm: Float[np.ndarray, "atoms 3"]) -> Float[np.ndarray, "atoms 3"]:
        """Forces on all atoms, without a restraint's."""
        self.context.setPositions(positions_nm)
        return _forces(self.context.getState(forces=True, groups=ENERGY_GROUPS))

    def parts_kj_mol(self, positions_nm: Float[np.ndarray, "atoms 3"]) -> dict[str, float]:
        """Potential energy by force group; the parts sum to the whole."""
        self.context.setPositions(positions_nm)
        return {
            part: float(self.context.getState(energy=True, groups={group}).getPotentialEnergy()._value)
            for part, group in GROUPS.items()
        }

    def relax(self, positions_nm: Float[np.ndarray, "atoms 3"]) -> Relaxed:
        """The nearest minimum, or a lower one where rotatable polar hydrogens are turned."""
        if self.mode == "none" or len(self.moving) == 0:
            return Relaxed(positions_nm, self.energy_kj_mol(positions_nm), 0.0)
        if self._restraint is not None:
            for k, atom in enumerate(self._heavy):
                self._restraint.setParticleParameters(k, int(atom), tuple(positions_nm[atom]))
            self._restraint.updateParametersInContext(self.context)
        # The heavy atoms stay, and so does the metric.
        self._precondition = None if self._metric is None else self._metric.at(positions_nm)
        best = self._minimise(positions_nm)
        for turns in self._promising_turns(best.positions_nm):
            turned_nm = best.positions_nm
            for rotor, angle_rad in turns:
                turned_nm = turn_rotor(turned_nm, rotor, angle_rad)
            tried = self._minimise(turned_nm)
            if tried.energy_kj_mol < best.energy_kj_mol:
                best = tried
        return best

    def _promising_turns(self, positions_nm: Float[np.ndarray, "atoms 3"]) -> list[list[tuple[Rotor, float]]]:
        """Turns of polar hydrogens that may lead to a lower minimum; each is a start to relax from.

        With few rotors every other minimum of a rotor's profile that is not far above is a start of its own. With many
        they turn together, each to its lowest minimum if that lies lower.
        """
        starts = self._score.polar_hydrogen_starts
        if starts == 1 or not self._rotors:
            return []
        single = len(self._rotors) <= _FEW_ROTORS
        margin = _PROFILE_MARGIN_KJ_MOL if single else -_PROFILE_MARGIN_KJ_MOL
        turns = []
        for rotor, profile in zip(self._rotors, self._rotor_profiles(positions_nm), strict=True):
            minima = np.flatnonzero((profile < np.roll(profile, 1)) & (profile <= np.roll(profile, -1)))
            good = [int(k) for k in minima if k not in (0, 1, _SCAN - 1) and profile[k] < profile[0] + margin]
            chosen = sorted(good, key=lambda k, profile=profile: float(profile[k]))[: starts - 1 if single else 1]
            turns += [(rotor, 2 * np.pi / rotor.symmetry * k / _SCAN) for k in chosen]
        if single or not turns:
            return [[turn] for turn in turns]
        return [turns]

    def _rotor_profiles(self, positions_nm: Float[np.ndarray, "atoms 3"]) -> Float[np.ndarray, "rotors scan"]:
        """Energy (kJ/mol) of each rotor along its own turn over one period, the rest rigid; 0 at the start.

        All rotors turn at once, and each one's energy is minus the integral of the torque on it, so that the scan costs
        as many force evaluations for a hundred rotors as for one. Neighbouring rotors see each other turned.
        """
        rows = [list(rotor.hydrogens) for rotor in self._rotors]
        circles = [_circle(positions_nm, rotor) for rotor in self._rotors]
        torques = np.zeros((len(self._rotors), _SCAN))
        whole_nm = positions_nm.copy()
        for k in range(_SCAN):
            arms = []
            for r, (rotor, (centre, cosine, sine)) in enumerate(zip(self._rotors, circles, strict=True)):
                angle_rad = 2 * np.pi / rotor.symmetry * k / _SCAN
                whole_nm[rows[r]] = centre + cosine * math.cos(angle_rad) + sine * math.sin(angle_rad)
                arms.append(sine * math.cos(angle_rad) - cosine * math.sin(angle_rad))  # ∂r/∂θ
            forces = self.forces_kj_mol_nm(whole_nm)
            for r, arm in enumerate(arms):
                torques[r, k] = np.vdot(forces[rows[r]], arm)
        torques -= torques.mean(axis=1, keepdims=True)  # over a whole period the work is zero
        widths = 2 * np.pi / np.array([[rotor.symmetry] for rotor in self._rotors]) / _SCAN
        between = widths * (torques + np.roll(torques, -1, axis=1)) / 2
        return np.concatenate([np.zeros((len(torques), 1)), -np.cumsum(between, axis=1)[:, :-1]], axis=1)

    def _minimise(self, positions_nm: Float[np.ndarray, "atoms 3"]) -> Relaxed:
        if self._precondition is None:
            return self._minimise_plainly(positions_nm)
        import openmm

        moving, score = self.moving, self._score
        whole_nm = positions_nm.copy()

        def energy_and_gradient(x_nm: np.ndarray) -> tuple[float, np.ndarray]:
            whole_nm[moving] = x_nm.reshape(-1, 3)
            try:
                self.context.setPositions(whole_nm)
                state = self.context.getState(forces=True, energy=True)
            except openmm.OpenMMException:  # no energy there: a step too far
                return np.inf, np.zeros_like(x_nm)
            forces = _forces(state)
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
        energy = found.value if self._restraint is None else self.energy_kj_mol(whole_nm)
        return Relaxed(whole_nm, energy, found.rms_gradient)

    def _minimise_plainly(self, positions_nm: Float[np.ndarray, "atoms 3"]) -> Relaxed:
        import openmm

        self.context.setPositions(positions_nm)
        minimiser: Any = openmm.LocalEnergyMinimizer
        minimiser.minimize(self.context, self._score.tolerance_kj_mol_nm, self._score.max_iterations)
        state = self.context.getState(positions=True, forces=True, energy=True)
        relaxed_nm = np.array(state.getPositions(asNumpy=True)._value, dtype=np.float64)
        forces = _forces(state)[self.moving]
        energy = float(state.getPotentialEnergy()._value)
        if self._restraint is not None:
            restraint = self.context.getState(energy=True, groups={RESTRAINT_GROUP}).getPotentialEnergy()._value
            energy -= float(restraint)
        return Relaxed(relaxed_nm, energy, float(np.sqrt(np.mean(forces**2))))


def _circle(positions_nm: Float[np.ndarray, "atoms 3"], rotor: Rotor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(c, u, w) of each hydrogen of a rotor, which on its turn is at c + u cos θ + w sin θ."""
    axis = positions_nm[rotor.parent] - positions_nm[rotor.pivot]
    axis = axis / np.linalg.norm(axis)
    arms = positions_nm[list(rotor.hydrogens)] - positions_nm[rotor.parent]
    along = (arms @ axis)[:, None] * axis
    return positions_nm[rotor.parent] + along, arms - along, np.cross(axis, arms)


def _forces(state: Any) -> Float[np.ndarray, "atoms 3"]:
    """Forces of a State in kJ/mol/nm, without OpenMM's units, which cost as much as the forces of a small peptide."""
    forces = np.empty((state._getNumParticles(), 3))
    state._getVectorAsNumpy(state.Forces, forces)
    return forces


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
