"""The all-atom molecule of heavy-atom (or all-atom) conformers, decided once from one of them."""

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from ancdiff.config import ForcefieldSettings
from ancdiff.errors import InputError
from ancdiff.forcefield.hydrogens import HydrogenPlacer, add_hydrogens, placer_from_template
from ancdiff.forcefield.platforms import platform_by_name
from ancdiff.forcefield.residues import RESIDUES
from ancdiff.forcefield.system import GROUPS, create_system
from ancdiff.forcefield.topology import molecule_of_topology, topology_of_molecule
from ancdiff.molecules import Molecule

# Residue names that say a protonation state or a bridge, and the standard residue that they are.
STANDARD_NAMES = {
    **dict.fromkeys(("HID", "HIE", "HIP"), "HIS"),
    "ASH": "ASP",
    "GLH": "GLU",
    "LYN": "LYS",
    "CYX": "CYS",
}
_TERMINAL_ATOM = "OXT"
_TOLERANCE_KJ_MOL_NM = 1.0
# State, hydrogens that it has, hydrogens that it has not.
_STATES: dict[str, tuple[tuple[str, set[str], set[str]], ...]] = {
    "HIS": (("HIP", {"HD1", "HE2"}, set()), ("HIE", {"HE2"}, {"HD1"}), ("HID", {"HD1"}, {"HE2"})),
    "ASP": (("ASH", {"HD2"}, set()), ("ASP", set(), {"HD2"})),
    "GLU": (("GLH", {"HE2"}, set()), ("GLU", set(), {"HE2"})),
    "LYS": (("LYS", {"HZ1", "HZ2", "HZ3"}, set()), ("LYN", set(), set())),
    "CYS": (("CYS", {"HG"}, set()), ("CYX", set(), {"HG"})),
}


@dataclass(frozen=True, eq=False)
class Template:
    """An all-atom molecule, and where the input's atoms are in it; ``all_atom``: the input has its own hydrogens."""

    molecule: Molecule
    topology: Any
    system: Any
    positions_nm: Float[np.ndarray, "atoms 3"]
    input_atoms: Int[np.ndarray, " input"]
    placer: HydrogenPlacer
    all_atom: bool

    def place(self, positions_nm: Float[np.ndarray, "conformers input 3"]) -> Float[np.ndarray, "conformers atoms 3"]:
        """All-atom positions of conformers, in float64; the input's atoms are where they were."""
        positions_nm = np.asarray(positions_nm, dtype=np.float64)
        return positions_nm.copy() if self.all_atom else self.placer.place(positions_nm)


def make_template(
    molecule: Molecule, positions_nm: Float[np.ndarray, "input 3"], settings: ForcefieldSettings
) -> Template:
    """Add hydrogens to one conformer and relax them with the heavy atoms fixed, solvent left out; no random numbers.

    A molecule that has hydrogens keeps its own.

    Raises:
        InputError: a residue is not known, lacks a heavy atom, or has only some of its hydrogens.
    """
    check_residues(molecule)
    topology = topology_of_molecule(molecule)
    placed_nm = np.asarray(positions_nm, dtype=np.float64)
    all_atom = "H" in molecule.elements
    if not all_atom:
        topology, placed_nm = add_hydrogens(topology, placed_nm)
    system = create_system(topology, settings)  # raises where hydrogens are missing
    whole = molecule_of_topology(topology, molecule.name)
    heavy = np.flatnonzero(np.array(whole.elements) != "H")
    if not all_atom:
        placed_nm = _relax_hydrogens(system, heavy, placed_nm)
    return Template(
        molecule=whole,
        topology=topology,
        system=system,
        positions_nm=placed_nm,
        input_atoms=np.arange(whole.n_atoms) if all_atom else heavy,
        placer=placer_from_template(whole, placed_nm),
        all_atom=all_atom,
    )


def _relax_hydrogens(
    system: Any, heavy: Int[np.ndarray, " heavy"], positions_nm: Float[np.ndarray, "atoms 3"]
) -> Float[np.ndarray, "atoms 3"]:
    import openmm

    held = copy.deepcopy(system)
    for atom in heavy:
        held.setParticleMass(int(atom), 0.0)  # OpenMM's minimiser leaves massless particles where they are
    integrator = openmm.VerletIntegrator(0.001)
    integrator.setIntegrationForceGroups(set(GROUPS.values()) - {GROUPS["solvation"]})
    context = openmm.Context(held, integrator, platform_by_name("Reference"))
    context.setPositions(positions_nm)
    minimiser: Any = openmm.LocalEnergyMinimizer
    minimiser.minimize(context, _TOLERANCE_KJ_MOL_NM)
    return np.array(context.getState(positions=True).getPositions(asNumpy=True)._value, dtype=np.float64)


def check_residues(molecule: Molecule) -> None:
    """Each residue is standard and has all its heavy atoms.

    Raises:
        InputError: names the residue, and the atom that is missing or not known.
    """
    for r, name in enumerate(molecule.residue_names):
        standard = STANDARD_NAMES.get(name, name)
        at = f"{molecule.name}: residue {r + 1}, {name}"
        if standard not in RESIDUES:
            raise InputError(
                f"'{name}' is not a residue that the force field knows",
                where=at,
                fix=f"use the standard L amino acids and caps: {' '.join(RESIDUES)}; of another molecule hand in an "
                "SDF file as topology and set forcefield.small_molecule",
            )
        atoms = np.flatnonzero(molecule.residue_of_atom == r)
        there = {molecule.atom_names[i] for i in atoms if molecule.elements[i] != "H"}
        missing = set(RESIDUES[standard].names) - there
        strange = there - set(RESIDUES[standard].names) - {_TERMINAL_ATOM}
        if missing or strange:
            faults = [f"lacks {n}" for n in sorted(missing)] + [f"has an unknown atom {n}" for n in sorted(strange)]
            raise InputError(
                f"{name} {', '.join(faults)}",
                where=at,
                fix="complete the heavy atoms (PDBFixer does), with PDB atom names, and give conformers of these atoms",
            )


def protonation(molecule: Molecule) -> dict[str, str]:
    """State of each residue of an all-atom molecule that has more than one, by its hydrogens: {'HIS 12': 'HIE'}."""
    named = {}
    for r, name in enumerate(molecule.residue_names):
        there = {molecule.atom_names[i] for i in np.flatnonzero(molecule.residue_of_atom == r)}
        for state, present, absent in _STATES.get(STANDARD_NAMES.get(name, name), ()):
            if present <= there and not absent & there:
                named[f"{name} {r + 1}"] = state
                break
    return named
