"""Energies of molecules that are no proteins: MMFF94 (RDKit) and GFN2-xTB (tblite), each behind an OpenMM PythonForce.

Which density they aim at: with ``score.relax: none`` e^{−βE} of all atoms, E the energy of the molecule alone, without
solvent: MMFF94's, or GFN2-xTB's on its Born–Oppenheimer surface. The other ways to relax are as for proteins.

Energies with forces a second of one core, by the Reference platform: 18 atoms (pentanol) MMFF94 9,600 and
GFN2-xTB 123; 29 atoms (nonane) 5,000 and 52. OpenMM's way to Python and back takes 22 µs of each. A full relaxation
from embedded coordinates takes 23 (18 atoms) to 60 (29 atoms) of them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from ancdiff.chemistry import graph_of_molecule, unpaired_electrons
from ancdiff.config import ForcefieldSettings
from ancdiff.errors import ConfigError, InputError
from ancdiff.forcefield.completion import nothing_added
from ancdiff.forcefield.hydrogens import HydrogenPlacer
from ancdiff.forcefield.system import GROUPS
from ancdiff.forcefield.template import Template
from ancdiff.forcefield.topology import topology_of_molecule
from ancdiff.molecules import Molecule
from ancdiff.units import ANGSTROM_PER_NM, BOHR_NM, HARTREE_KJ_MOL, KJ_PER_KCAL

# Terms of MMFF94, by RDKit's names, in each part of the energy.
MMFF94_TERMS: dict[str, tuple[str, ...]] = {
    "bond": ("Bond",),
    "angle": ("Angle", "StretchBend"),
    "torsion": ("Torsion", "Oop"),
    "nonbonded": ("VdW", "Ele"),
}
_ALL_TERMS = tuple(term for terms in MMFF94_TERMS.values() for term in terms)
_MMFF94_ELEMENTS = {
    *("H", "Li", "C", "N", "O", "F", "Na", "Mg", "Si", "P"),
    *("S", "Cl", "K", "Ca", "Fe", "Cu", "Zn", "Br", "I"),
}
_HEAVIEST_GFN2_ELEMENT = 86
# RDKit leaves out pairs that are farther apart than this when the force field is set up; here no pair is.
_NO_CUTOFF_ANGSTROM = 1e6
NO_ELECTRONS = "the electrons of GFN2-xTB do not converge"
_LONGEST_BOND = 1.5
_DISPLACEMENT_NM = 1e-4
# Softest direction that the metric admits: turns and shifts of the whole cost nothing, and would go far.
_SOFTEST_KJ_MOL_NM2 = 2000.0
# Stiffness of all directions where there is no model of them: between those of a bond and of an angle.
_STIFF_KJ_MOL_NM2 = 100_000.0


@dataclass(frozen=True, eq=False)
class SmallTemplate(Template):
    """A molecule with all its atoms; ``graph`` is RDKit's form of it, ``mmff94`` whether that has all parameters."""

    graph: Any
    mmff94: bool


class Mmff94:
    """Energy and forces of some terms of MMFF94 (`MMFF94_TERMS`) at the positions of an OpenMM State.

    OpenMM copies a System by way of its XML form, for which it pickles the functions in it, in memory; an object of
    this class is then made anew from the molecule.

    References:
        Halgren, J. Comput. Chem. 17, 490 (1996); Tosco, Stiefl and Landrum, J. Cheminform. 6, 37 (2014).
    """

    def __init__(self, graph_binary: bytes, terms: Sequence[str]) -> None:
        from rdkit import Chem
        from rdkit.Chem import rdForceFieldHelpers

        self._made_from = (graph_binary, tuple(terms))
        graph = Chem.Mol(graph_binary)  # type: ignore[call-overload]  # the stub does not know the binary form
        properties = rdForceFieldHelpers.MMFFGetMoleculeProperties(graph, mmffVariant="MMFF94")
        for term in _ALL_TERMS:
            getattr(properties, f"SetMMFF{term}Term")(term in terms)
        self._field = rdForceFieldHelpers.MMFFGetMoleculeForceField(
            graph, properties, nonBondedThresh=_NO_CUTOFF_ANGSTROM, ignoreInterfragInteractions=False
        )
        self._field.Initialize()
        self._n_atoms = graph.GetNumAtoms()

    def __reduce__(self) -> tuple[Any, ...]:
        return Mmff94, self._made_from

    def __call__(self, state: Any) -> tuple[float, Float[np.ndarray, "atoms 3"]]:
        return self.energy_and_forces(_positions_nm(state, self._n_atoms))

    def energy_and_forces(
        self, positions_nm: Float[np.ndarray, "atoms 3"]
    ) -> tuple[float, Float[np.ndarray, "atoms 3"]]:
        """Energy in kJ/mol, forces in kJ/mol/nm."""
        angstrom = (positions_nm * ANGSTROM_PER_NM).ravel().tolist()
        # In this order: RDKit's gradient takes over the distances that the last energy was made from.
        energy = self._field.CalcEnergy(angstrom)
        gradient = np.array(self._field.CalcGrad(angstrom)).reshape(-1, 3)
        return energy * KJ_PER_KCAL, gradient * (-KJ_PER_KCAL * ANGSTROM_PER_NM)


class Gfn2Xtb:
    """Energy and forces of GFN2-xTB, closed shell, at the positions of an OpenMM State.

    Each call starts the electrons anew: from the last call's density a call would take 0.6 to 0.9 of the time, but the
    energy of a conformer would depend (by 1e-5 kJ/mol) on the ones before it, and so on where a run was cut.

    References:
        Bannwarth, Ehlert and Grimme, J. Chem. Theory Comput. 15, 1652 (2019).
    """

    def __init__(self, atomic_numbers: Sequence[int], charge: int) -> None:
        self._made_from = (tuple(atomic_numbers), charge)
        self._n_atoms = len(atomic_numbers)
        self._calculator: Any = None
        self._last: tuple[np.ndarray, tuple[float, np.ndarray]] | None = None
        require_tblite()

    def __reduce__(self) -> tuple[Any, ...]:
        return Gfn2Xtb, self._made_from

    def __call__(self, state: Any) -> tuple[float, Float[np.ndarray, "atoms 3"]]:
        positions_nm = _positions_nm(state, self._n_atoms)
        # OpenMM asks for an energy and for forces one after the other.
        if self._last is None or not np.array_equal(self._last[0], positions_nm):
            self._last = positions_nm, self.energy_and_forces(positions_nm)
        return self._last[1]

    def energy_and_forces(
        self, positions_nm: Float[np.ndarray, "atoms 3"]
    ) -> tuple[float, Float[np.ndarray, "atoms 3"]]:
        """Energy in kJ/mol, forces in kJ/mol/nm.

        Raises:
            RuntimeError: the electrons do not converge, or two atoms are at one place; OpenMM hands its text on.
        """
        bohr = positions_nm / BOHR_NM
        try:
            if self._calculator is None:
                self._calculator = _calculator(*self._made_from, bohr)
            self._calculator.update(positions=bohr)
            result = self._calculator.singlepoint()
        except RuntimeError as error:
            raise RuntimeError(f"{NO_ELECTRONS}: {error}") from error
        return result.get("energy") * HARTREE_KJ_MOL, result.get("gradient") * (-HARTREE_KJ_MOL / BOHR_NM)


class ModelMetric:
    """A metric for relaxing a molecule: MMFF94's Hessian at the start, its eigenvalues made positive.

    With its inverse as L-BFGS's first guess a relaxation takes a third of the energies or less. Where MMFF94 has no
    parameters, all directions are equally stiff.
    """

    def __init__(self, template: SmallTemplate, moving: Int[np.ndarray, " moving"]) -> None:
        self._moving = moving
        self._model = Mmff94(template.graph.ToBinary(), _ALL_TERMS) if template.mmff94 else None

    def at(self, positions_nm: Float[np.ndarray, "atoms 3"]) -> Callable[[np.ndarray], np.ndarray]:
        """The inverse metric of a conformer, as a function on flat vectors over the moving atoms."""
        if self._model is None:
            return lambda vector: vector / _STIFF_KJ_MOL_NM2
        values, vectors = np.linalg.eigh(self._hessian(self._model, positions_nm))
        inverse = (vectors / np.maximum(np.abs(values), _SOFTEST_KJ_MOL_NM2)) @ vectors.T
        return lambda vector: inverse @ vector

    def _hessian(self, model: Mmff94, positions_nm: Float[np.ndarray, "atoms 3"]) -> np.ndarray:
        columns = []
        for atom in self._moving:
            for axis in range(3):
                sides = []
                for sign in (1.0, -1.0):
                    displaced = positions_nm.copy()
                    displaced[atom, axis] += sign * _DISPLACEMENT_NM
                    sides.append(model.energy_and_forces(displaced)[1][self._moving].ravel())
                columns.append((sides[1] - sides[0]) / (2 * _DISPLACEMENT_NM))
        hessian = np.array(columns)
        return (hessian + hessian.T) / 2


def make_small_template(
    molecule: Molecule, positions_nm: Float[np.ndarray, "atoms 3"], settings: ForcefieldSettings
) -> SmallTemplate:
    """A molecule with all its atoms and its System, whose PythonForces are in the groups of `GROUPS`.

    Raises:
        ConfigError: ``forcefield.small_molecule`` is not set, or tblite is not installed.
        InputError: unpaired electrons, an element or atom type without parameters, or unknown bond orders.
    """
    if settings.small_molecule is None:
        raise ConfigError(
            "this molecule comes with bond orders, and no force field for such molecules is chosen",
            where=f"{molecule.name}: forcefield.small_molecule",
            fix="set it to mmff94 or gfn2-xtb (by hand: --small-molecule mmff94)",
        )
    graph = graph_of_molecule(molecule, positions_nm)
    unpaired = unpaired_electrons(graph)
    if unpaired:
        raise InputError(
            f"{unpaired} unpaired electrons: {settings.small_molecule} is for closed shells here",
            where=molecule.name,
            fix="give all its hydrogens, and formal charges (lines M  CHG) where it is an ion",
        )
    make = _mmff94_forces if settings.small_molecule == "mmff94" else _gfn2_forces
    hydrogens = np.flatnonzero(np.array(molecule.elements) == "H")
    return SmallTemplate(
        molecule=molecule,
        topology=topology_of_molecule(molecule),
        system=_system(graph, make(molecule, graph)),
        positions_nm=np.asarray(positions_nm, dtype=np.float64),
        input_atoms=np.arange(molecule.n_atoms),
        placer=_no_placement(molecule, hydrogens),
        all_atom=True,
        kept=np.arange(molecule.n_atoms),
        input_molecule=molecule,
        completer=nothing_added(molecule.n_atoms),
        record={},
        graph=graph,
        mmff94=_has_mmff94(graph),
    )


def longest_bonds_nm(molecule: Molecule) -> Float[np.ndarray, " bonds"]:
    """1.5 × the sum of the covalent radii of each bond; beyond, it is broken.

    References:
        Cordero et al., Dalton Trans. 2008, 2832.
    """
    from rdkit import Chem

    radii = Chem.GetPeriodicTable()
    angstrom = np.array([radii.GetRcovalent(element) for element in molecule.elements])
    return _LONGEST_BOND * angstrom[molecule.bonds].sum(axis=1) / ANGSTROM_PER_NM


def require_tblite() -> Any:
    """The interface of tblite, which has no wheels for every machine and so is no fixed dependency.

    Raises:
        ConfigError: it is not installed, or the system's OpenMP runtime that it needs is not there.
    """
    try:
        from tblite import interface
    except ImportError as error:
        fix = 'type: pip install "tblite>=0.8"  (with conda: conda install -c conda-forge tblite-python)'
        if "libgomp" in str(error):
            fix = "type: apt-get install libgomp1"
        raise ConfigError(
            f"gfn2-xtb needs tblite, which cannot be loaded: {error}", where="forcefield.small_molecule", fix=fix
        ) from error
    return interface


def _calculator(atomic_numbers: tuple[int, ...], charge: int, bohr: np.ndarray) -> Any:
    calculator = require_tblite().Calculator("GFN2-xTB", np.array(atomic_numbers), bohr, charge=float(charge), uhf=0)
    calculator.set("verbosity", 0)
    return calculator


def _system(graph: Any, forces: dict[str, Any]) -> Any:
    import openmm

    system = openmm.System()
    for atom in graph.GetAtoms():
        system.addParticle(atom.GetMass())
    for part, function in forces.items():
        force = openmm.PythonForce(function)
        force.setForceGroup(GROUPS[part])
        system.addForce(force)
    return system


def _mmff94_forces(molecule: Molecule, graph: Any) -> dict[str, Any]:
    if not _has_mmff94(graph):
        strange = sorted(set(molecule.elements) - _MMFF94_ELEMENTS)
        what = f"for {', '.join(strange)}" if strange else "for an atom type or charge of this molecule"
        raise InputError(
            f"MMFF94 has no parameters {what}",
            where=molecule.name,
            fix="check bond orders and formal charges in the file, or set forcefield.small_molecule: gfn2-xtb",
        )
    binary = graph.ToBinary()
    return {part: Mmff94(binary, terms) for part, terms in MMFF94_TERMS.items()}


def _has_mmff94(graph: Any) -> bool:
    from rdkit import rdBase
    from rdkit.Chem import rdForceFieldHelpers

    with rdBase.BlockLogs():
        return bool(rdForceFieldHelpers.MMFFHasAllMoleculeParams(graph))


def _gfn2_forces(molecule: Molecule, graph: Any) -> dict[str, Any]:
    numbers = [atom.GetAtomicNum() for atom in graph.GetAtoms()]
    heavy = sorted({atom.GetSymbol() for atom in graph.GetAtoms() if atom.GetAtomicNum() > _HEAVIEST_GFN2_ELEMENT})
    if heavy:
        raise InputError(
            f"GFN2-xTB has no parameters for {', '.join(heavy)}: it ends at radon (element 86)",
            where=molecule.name,
            fix="leave this molecule out",
        )
    return {"electronic": Gfn2Xtb(numbers, sum(molecule.formal_charges or ()))}


def _no_placement(molecule: Molecule, hydrogens: Int[np.ndarray, " hydrogens"]) -> HydrogenPlacer:
    """A placer that only knows which atoms are hydrogens: they come with the conformers, and stay in their wells."""
    return HydrogenPlacer(
        heavy=np.setdiff1d(np.arange(molecule.n_atoms), hydrogens),
        n_atoms=molecule.n_atoms,
        hydrogens=hydrogens,
        frame_atoms=np.zeros((len(hydrogens), 4), dtype=np.int64),
        frame_kinds=np.zeros(len(hydrogens), dtype=np.int64),
        local_nm=np.zeros((len(hydrogens), 3)),
        polar_rotors=(),
    )


def _positions_nm(state: Any, n_atoms: int) -> Float[np.ndarray, "atoms 3"]:
    """Positions of a State without OpenMM's units, which cost as much as MMFF94's energy."""
    positions_nm = np.empty((n_atoms, 3))
    state._getVectorAsNumpy(state.Positions, positions_nm)
    return positions_nm
