"""Potentials with an exact energy as OpenMM forces, and their scorer: no hydrogens, nothing is relaxed."""

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from ancdiff.config import ExactSettings
from ancdiff.errors import InputError
from ancdiff.forcefield.platforms import platform_by_name
from ancdiff.molecules import ENERGY_COLUMNS, Molecule
from ancdiff.particles import REDUCED_ENERGY_KJ_MOL
from ancdiff.particles.potentials import PairPotential, potential_of

_MASS_AMU = 39.948  # argon's; no energy depends on it


def create_exact_system(potential: PairPotential, length_nm: float) -> Any:
    """An OpenMM System of the particles with one CustomNonbondedForce, E = R·300 K · Σ_{i<j} u(d_ij) in kJ/mol.

    The formula is compiled from the potential's text; the parameters stand in it as numbers.
    """
    import openmm

    system = openmm.System()
    values = "".join(f"; {name}={value!r}" for name, value in potential.parameters.items())
    energy, *rest = potential.formula.split(";", 1)
    intermediate = f";{rest[0]}" if rest else ""
    force = openmm.CustomNonbondedForce(
        f"{REDUCED_ENERGY_KJ_MOL!r}*({energy}){intermediate}; d=r/{length_nm!r}{values}"
    )
    force.setNonbondedMethod(openmm.CustomNonbondedForce.NoCutoff)
    for _ in range(potential.n_particles):
        system.addParticle(_MASS_AMU)
        force.addParticle([])
    system.addForce(force)
    return system


class ExactScorer:
    """Energies of conformers of an exact system, streamed through one Context of the Reference platform."""

    platform = "Reference"

    def __init__(self, molecule: Molecule, settings: ExactSettings) -> None:
        import openmm

        self.potential = potential_of(settings)
        if molecule.n_atoms != self.potential.n_particles:
            raise InputError(
                f"{settings.potential} has {self.potential.n_particles} particles, the topology {molecule.n_atoms}",
                where=f"system '{molecule.name}'",
                fix="make the data of this system again: ancdiff simulate, then ancdiff dataset",
            )
        self._length_nm = settings.length_nm
        system = create_exact_system(self.potential, settings.length_nm)
        self._context = openmm.Context(system, openmm.VerletIntegrator(0.001), platform_by_name(self.platform))

    def rows(
        self, conformers: Int[np.ndarray, " chosen"], positions_nm: Float[np.ndarray, "chosen input 3"]
    ) -> Iterator[dict[str, Any]]:
        """A row of `ancdiff.molecules.ENERGY_COLUMNS` for each conformer in order; ``conformers`` are their numbers."""
        for number, x_nm in zip(conformers, np.asarray(positions_nm, dtype=np.float64), strict=True):
            start = time.perf_counter()
            row = self._row(x_nm)
            yield {"conformer": int(number), **row, "wall_seconds": time.perf_counter() - start}

    def energy_kj_mol(self, positions_nm: Float[np.ndarray, "input 3"]) -> float:
        """E(x), by OpenMM."""
        self._context.setPositions(positions_nm)
        return float(self._context.getState(energy=True).getPotentialEnergy()._value)

    def forces_kj_mol_nm(self, positions_nm: Float[np.ndarray, "input 3"]) -> Float[np.ndarray, "input 3"]:
        """−∂E/∂x, by OpenMM."""
        self._context.setPositions(positions_nm)
        return np.array(self._context.getState(forces=True).getForces(asNumpy=True)._value, dtype=np.float64)

    def _row(self, x_nm: Float[np.ndarray, "input 3"]) -> dict[str, Any]:
        import openmm

        row: dict[str, Any] = {name: np.nan for name, kind in ENERGY_COLUMNS.items() if kind == "float64"}
        row |= {"clashes": 0, "steps": 0}
        if not np.isfinite(x_nm).all():
            return row | {"status": "nan_input"}
        near = self.potential.distances(x_nm / self._length_nm) < self.potential.nearest
        row["clashes"] = int(near.sum())
        if near.any():
            return row | {"status": "clash"}
        try:
            energy = self.energy_kj_mol(x_nm)
        except openmm.OpenMMException:
            return row | {"status": "nan_energy"}
        if not np.isfinite(energy):
            return row | {"status": "nan_energy"}
        nothing = ("bond", "angle", "torsion", "solvation", "electronic", "hydrogen_entropy", "strain")
        row |= {f"{part}_kj_mol": 0.0 for part in nothing} | {"displacement_nm": 0.0}
        return (
            row
            | dict.fromkeys(("energy_kj_mol", "energy_placed_kj_mol", "nonbonded_kj_mol"), energy)
            | {"status": "ok"}
        )
