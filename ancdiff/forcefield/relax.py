"""Relaxation of one conformer at a time in one Context: hydrogens only, restrained, full, or none.

Which density goes with which: e^{−βE} after ``hydrogens`` (heavy atoms fixed) approximates the Boltzmann density of the
heavy atoms, up to the entropy of the hydrogens; after ``restrained`` or ``full`` it is a density of basins, flat inside
each; ``none`` is the density of the all-atom conformers as they are.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from ancdiff.config import ForcefieldSettings, ScoreSettings
from ancdiff.forcefield.lbfgs import Function, Minimum, ValueAndGradient, minimise_lbfgs
from ancdiff.forcefield.metric import HydrogenMetric
from ancdiff.forcefield.platforms import choose_platform, platform_properties
from ancdiff.forcefield.rotors import promising_turns, turned
from ancdiff.forcefield.small_molecules import ModelMetric, SmallTemplate
from ancdiff.forcefield.surrogate import Surrogate, state_forces
from ancdiff.forcefield.system import GROUPS, RESTRAINT_GROUP
from ancdiff.forcefield.template import Template

_MAX_STEP_NM = 0.03
# Stiffness that the metric takes an added heavy atom to have: that of a bond's angle more than of its stretch.
_ADDED_HEAVY_KJ_MOL_NM2 = 1e5
# Corrections of the stand-in at most, and the share of the force that one must leave at most to be worth the next.
_CORRECTIONS = 16
_WORTH_IT = 0.95
_CHEAP_STEPS = 40  # of the stand-in between two corrections
ENERGY_GROUPS = set(GROUPS.values())


@dataclass(frozen=True, eq=False)
class Relaxed:
    """A relaxed conformer: positions, energy without a restraint's, and the RMS force on the atoms that move.

    ``placed_kj_mol`` is the energy before, ``hydrogens_kj_mol`` that once the hydrogens were relaxed, ``steps`` counts
    the full energies that it took.
    """

    positions_nm: Float[np.ndarray, "atoms 3"]
    energy_kj_mol: float
    rms_force_kj_mol_nm: float
    placed_kj_mol: float
    hydrogens_kj_mol: float = float("nan")
    steps: int = 0


class Relaxer:
    """One System and one Context of a molecule. The System has no constraints: bonds to hydrogen are flexible here.

    On the CPU platform a `Surrogate` takes most of the hydrogens' steps where there is an implicit solvent.
    """

    def __init__(
        self, template: Template, forcefield: ForcefieldSettings, score: ScoreSettings, *, threads: int = 1
    ) -> None:
        import openmm

        self.mode, self._score = score.relax, score
        system = copy.deepcopy(template.system)
        self._held = template.held
        self._hydrogens = template.placer.hydrogens
        self._small = isinstance(template, SmallTemplate)
        self.moving: Int[np.ndarray, " moving"] = np.arange(template.molecule.n_atoms)
        if not self._small or self.mode == "hydrogens":
            self.moving = np.setdiff1d(self.moving, self._held)
        self._restraint: Any = _add_restraint(system, self._held, score) if self.mode == "restrained" else None
        self._metric: HydrogenMetric | ModelMetric | None = None
        if isinstance(template, SmallTemplate):
            self._metric = ModelMetric(template, self.moving)
        elif self.mode != "none":
            self._metric = HydrogenMetric(template, system)
        # What goes down: of a small molecule all that is asked for at once, of others the hydrogens first.
        self._descent_groups = ENERGY_GROUPS | ({RESTRAINT_GROUP} if self._small else set())
        self._rotors = () if self.mode == "none" else template.placer.polar_rotors
        platform = choose_platform(forcefield.platform, system)
        self.platform = platform.getName()
        self.system = system
        self.context: Any = openmm.Context(
            system, openmm.VerletIntegrator(0.001), platform, platform_properties(platform, threads)
        )
        solvated = any(force.getForceGroup() == GROUPS["solvation"] for force in system.getForces())
        worth_it = self.mode != "none" and self.platform == "CPU" and solvated
        self.surrogate = Surrogate(system, threads=threads) if worth_it else None
        self._steps = 0

    def energy_kj_mol(self, positions_nm: Float[np.ndarray, "atoms 3"]) -> float:
        """Potential energy, without a restraint's."""
        self.context.setPositions(positions_nm)
        return float(self.context.getState(energy=True, groups=ENERGY_GROUPS).getPotentialEnergy()._value)

    def forces_kj_mol_nm(self, positions_nm: Float[np.ndarray, "atoms 3"]) -> Float[np.ndarray, "atoms 3"]:
        """Forces on all atoms, without a restraint's."""
        self.context.setPositions(positions_nm)
        return state_forces(self.context.getState(forces=True, groups=ENERGY_GROUPS))

    def parts_kj_mol(self, positions_nm: Float[np.ndarray, "atoms 3"]) -> dict[str, float]:
        """Potential energy by force group; the parts sum to the whole."""
        self.context.setPositions(positions_nm)
        return {
            part: float(self.context.getState(energy=True, groups={group}).getPotentialEnergy()._value)
            for part, group in GROUPS.items()
        }

    def relax(self, positions_nm: Float[np.ndarray, "atoms 3"]) -> Relaxed:
        """Hydrogens (and heavy atoms that were added) first, then as the mode says; the input's atoms start as given.

        The nearest minimum, or a lower one where rotatable polar hydrogens are turned.
        """
        if self.mode == "none":
            return self._as_placed(positions_nm)
        self._steps = 0
        if self._restraint is not None:
            self._hold_at(positions_nm)
        best = self._relax_placed(positions_nm)
        if not self._small or self.mode == "hydrogens":
            best = replace(best, hydrogens_kj_mol=best.energy_kj_mol)
        if not self._small and self.mode != "hydrogens":
            best = self._relax_all(best)
        return replace(best, steps=self._steps)

    def _relax_placed(self, positions_nm: Float[np.ndarray, "atoms 3"]) -> Relaxed:
        """The input's heavy atoms fixed."""
        if len(self.moving) == 0:
            return self._as_placed(positions_nm)
        precondition = self._metric_at(positions_nm)  # the heavy atoms stay, and so does the metric
        best = self._minimise_moving(positions_nm, precondition)
        starts = self._score.polar_hydrogen_starts
        for turns in promising_turns(self._rotors, self._scan_forces, best.positions_nm, starts=starts):
            tried = self._minimise_moving(turned(best.positions_nm, turns), precondition)
            if tried.energy_kj_mol < best.energy_kj_mol:
                best = replace(tried, placed_kj_mol=best.placed_kj_mol)
        return best

    def _as_placed(self, positions_nm: Float[np.ndarray, "atoms 3"]) -> Relaxed:
        energy = self.energy_kj_mol(positions_nm)
        return Relaxed(positions_nm, energy, 0.0, energy)

    def _scan_forces(self, positions_nm: Float[np.ndarray, "atoms 3"]) -> Float[np.ndarray, "atoms 3"]:
        """Forces by which other minima are looked for; what is found is judged by the full energy."""
        if self.surrogate is None:
            return self.forces_kj_mol_nm(positions_nm)
        return self.surrogate.energy_and_forces(positions_nm)[1]

    def _metric_at(self, positions_nm: Float[np.ndarray, "atoms 3"]) -> Callable[[np.ndarray], np.ndarray]:
        """Inverse metric over the moving atoms: that of the hydrogens, a plain one for added heavy atoms."""
        assert self._metric is not None
        of_hydrogens = self._metric.at(positions_nm)
        if self._small or len(self._hydrogens) == len(self.moving):
            return of_hydrogens
        rows = np.searchsorted(self.moving, self._hydrogens)

        def apply(vector: np.ndarray) -> np.ndarray:
            result = vector.reshape(-1, 3) / _ADDED_HEAVY_KJ_MOL_NM2
            result[rows] = of_hydrogens(vector.reshape(-1, 3)[rows].ravel()).reshape(-1, 3)
            return result.ravel()

        return apply

    def _minimise_moving(
        self, positions_nm: Float[np.ndarray, "atoms 3"], precondition: Callable[[np.ndarray], np.ndarray]
    ) -> Relaxed:
        import openmm

        moving, score = self.moving, self._score
        whole_nm = positions_nm.copy()

        def full(x_nm: np.ndarray) -> tuple[float, np.ndarray]:
            whole_nm[moving] = x_nm.reshape(-1, 3)
            self._steps += 1
            try:
                self.context.setPositions(whole_nm)
                state = self.context.getState(forces=True, energy=True, groups=self._descent_groups)
            except openmm.OpenMMException:  # no energy there: a step too far
                return np.inf, np.zeros_like(x_nm)
            return float(state.getPotentialEnergy()._value), -state_forces(state)[moving].ravel()

        def minimised(
            function: Function, x_nm: np.ndarray, known: ValueAndGradient, tolerance: float, iterations: int
        ) -> Minimum:
            return minimise_lbfgs(
                function,
                x_nm,
                precondition=precondition,
                tolerance=tolerance,
                max_iterations=min(iterations, score.max_iterations),
                max_step=_MAX_STEP_NM,
                known=known,
            )

        start = positions_nm[moving].ravel()
        known = full(start)
        placed = known[0]  # a restraint's energy is zero here
        if self.surrogate is not None:
            start, known = self._corrected(full, minimised, start, known, whole_nm)
        found = minimised(full, start, known, score.tolerance_kj_mol_nm, score.max_iterations)
        whole_nm[moving] = found.x.reshape(-1, 3)
        restrained = self._small and self._restraint is not None
        energy = self.energy_kj_mol(whole_nm) if restrained else found.value
        return Relaxed(whole_nm, energy, found.rms_gradient, placed)

    def _corrected(
        self,
        full: Function,
        minimised: Callable[..., Minimum],
        x_nm: np.ndarray,
        known: ValueAndGradient,
        whole_nm: np.ndarray,
    ) -> tuple[np.ndarray, ValueAndGradient]:
        """Follow the surrogate with corrections for as long as each lowers the full energy and its force.

        ``known`` are the full energy and its gradient at the start; those at the end come back with it.
        """
        surrogate = self.surrogate
        assert surrogate is not None

        def cheap(y_nm: np.ndarray) -> ValueAndGradient:
            whole_nm[self.moving] = y_nm.reshape(-1, 3)
            energy, forces = surrogate.energy_and_forces(whole_nm)
            return energy, -forces[self.moving].ravel()

        wanted = self._score.tolerance_kj_mol_nm
        value, gradient = known
        for _ in range(_CORRECTIONS):
            rms = _rms(gradient)
            if not np.isfinite(value) or rms <= wanted:
                break
            cheap_value, cheap_gradient = cheap(x_nm)
            slope = gradient - cheap_gradient
            corrected = _with_slope(cheap, slope, x_nm)
            there = (cheap_value, gradient)  # what it is at its anchor
            tried = minimised(corrected, x_nm, there, max(0.2 * wanted, 0.05 * rms), _CHEAP_STEPS).x
            new_value, new_gradient = full(tried)
            if not new_value < value:
                break
            x_nm, value, gradient = tried, new_value, new_gradient
            if _rms(gradient) > _WORTH_IT * rms:
                break
        return x_nm, (value, gradient)

    def _hold_at(self, positions_nm: Float[np.ndarray, "atoms 3"]) -> None:
        """Move the springs of the restraint, where there is one, to these positions."""
        if self._restraint is None:
            return
        for k, atom in enumerate(self._held):
            self._restraint.setParticleParameters(k, int(atom), tuple(positions_nm[atom]))
        self._restraint.updateParametersInContext(self.context)

    def _relax_all(self, start: Relaxed) -> Relaxed:
        """All atoms free (and held by the restraint, where there is one)."""
        import openmm

        self.context.setPositions(start.positions_nm)
        counter = _counter()
        minimiser: Any = openmm.LocalEnergyMinimizer
        minimiser.minimize(self.context, self._score.tolerance_kj_mol_nm, self._score.max_iterations, counter)
        self._steps += counter.iterations
        state = self.context.getState(positions=True, forces=True, energy=True)
        relaxed_nm = np.array(state.getPositions(asNumpy=True)._value, dtype=np.float64)
        return replace(
            start,
            positions_nm=relaxed_nm,
            energy_kj_mol=self.energy_kj_mol(relaxed_nm),
            rms_force_kj_mol_nm=_rms(state_forces(state)),
        )


def _with_slope(function: Function, slope: np.ndarray, anchor: np.ndarray) -> Function:
    """f(y) + s·(y − a)."""

    def tilted(y: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = function(y)
        return value + float(slope @ (y - anchor)), gradient + slope

    return tilted


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(values**2)))


def _counter() -> Any:
    """A reporter of OpenMM's minimiser that counts its iterations."""
    import openmm

    class Counter(openmm.MinimizationReporter):
        iterations = 0

        def report(self, iteration: int, x: Any, grad: Any, args: Any) -> bool:
            self.iterations += 1
            return False

    return Counter()


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
