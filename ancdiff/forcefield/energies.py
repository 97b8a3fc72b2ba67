"""One row of energies for each conformer; a conformer that cannot be scored is a row with a reason."""

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from scipy.spatial import KDTree

from ancdiff.chemistry import REFUSALS
from ancdiff.config import ForcefieldSettings, ScoreSettings
from ancdiff.forcefield.checks import check_atoms, check_units, first_good_conformer
from ancdiff.forcefield.entropy import hydrogen_entropy_kj_mol
from ancdiff.forcefield.prepare import prepare_solute, residue_labels, usable_structure
from ancdiff.forcefield.relax import Relaxed, Relaxer
from ancdiff.forcefield.small_molecules import NO_ELECTRONS, longest_bonds_nm, make_small_template
from ancdiff.forcefield.system import GROUPS, create_system
from ancdiff.forcefield.template import Template, make_template
from ancdiff.molecules import Ensemble, Molecule, has_right_hands, signed_volumes

# Reasons for which a conformer has no energy, and so gets no Boltzmann weight.
FAILURES: dict[str, str] = {
    "nan_input": "a coordinate is NaN or infinite",
    "clash": "two atoms of the input lie within 0.05 nm of each other, beyond repair by moving hydrogens",
    "broken_chirality": "a stereocentre has the wrong hand (D instead of L), or a double bond the wrong sides",
    "nan_energy": "the energy or the relaxed positions are not finite",
    "broken_bond": "a molecule's bond is longer than 1.5 × its atoms' covalent radii, before or after relaxation",
    "no_electrons": "the electrons of GFN2-xTB do not converge",
    **REFUSALS,
    "not_converged": "after score.max_iterations the RMS force on the moving atoms is above ten times the tolerance",
}
_TOO_NEAR_NM = 0.05
_CLASH_FRACTION = 0.6
_CONVERGED_FACTOR = 10.0
_VDW_RADII_NM = {"H": 0.120, "C": 0.170, "N": 0.155, "O": 0.152, "S": 0.180}
_BATCH = 256
_AS_PLACED = ScoreSettings(relax="none")


class Scorer:
    """Energies of conformers of one molecule, streamed through one System and one Context."""

    def __init__(
        self,
        molecule: Molecule,
        example_nm: Float[np.ndarray, "input 3"],
        forcefield: ForcefieldSettings,
        score: ScoreSettings,
        *,
        structure_nm: Float[np.ndarray, "input 3"] | None = None,
        threads: int = 1,
    ) -> None:
        self._score, self._forcefield = score, forcefield
        self._temperature_kelvin = forcefield.temperature_kelvin
        if molecule.bond_orders is not None:
            self.template: Template = make_small_template(molecule, example_nm, forcefield)
            self._longest_bonds_nm = longest_bonds_nm(molecule)
        else:
            self.template = make_template(molecule, example_nm, forcefield, structure_nm=structure_nm)
            self._longest_bonds_nm = np.full(len(self.template.input_molecule.bonds), np.inf)
        self.molecule = self.template.input_molecule
        self.relaxer = Relaxer(self.template, forcefield, score, threads=threads)
        whole = score.model_copy(update={"relax": "full"})
        self._to_minimum = Relaxer(self.template, forcefield, whole, threads=threads) if score.strain else None
        self._nearest_nm = nearest_allowed_nm(self.molecule)

    def rows(
        self, conformers: Int[np.ndarray, " chosen"], positions_nm: Float[np.ndarray, "chosen input 3"]
    ) -> Iterator[dict[str, Any]]:
        """A row of `ancdiff.molecules.ENERGY_COLUMNS` for each conformer in order; ``conformers`` are their numbers."""
        for first in range(0, len(conformers), _BATCH):
            batch_nm = np.asarray(positions_nm[first : first + _BATCH], dtype=np.float64)
            whole_nm = self.template.place(batch_nm)
            for k, number in enumerate(conformers[first : first + _BATCH]):
                start = time.perf_counter()
                row = self._row(batch_nm[k, self.template.kept], whole_nm[k])
                yield {"conformer": int(number), **row, "wall_seconds": time.perf_counter() - start}

    def wrong_hands(self, positions_nm: Float[np.ndarray, "conformers input 3"]) -> dict[str, int]:
        """Stereocentres of the wrong hand in conformers as they came, and in how many of these: CA of ALA 2."""
        molecule, centres = self.molecule, self.molecule.stereocentres
        wrong = signed_volumes(positions_nm[:, self.template.kept], centres) <= 0
        labels = residue_labels(molecule, molecule.residue_of_atom[centres[:, 0]].tolist())
        atoms = (molecule.atom_names[int(atom)] for atom in centres[:, 0])
        found = zip(atoms, labels, wrong.sum(axis=0), strict=True)
        return {f"{atom} of {label}": int(number) for atom, label, number in found if number}

    def cutoff_errors_kj_mol(
        self, positions_nm: Float[np.ndarray, "conformers input 3"]
    ) -> Float[np.ndarray, " conformers"]:
        """Energy with the cutoff minus energy without, hydrogens placed and not relaxed."""
        exact = self._forcefield.model_copy(update={"cutoff_nm": None})
        without = Relaxer(
            replace(self.template, system=create_system(self.template.topology, exact)), exact, _AS_PLACED
        )
        whole_nm = self.template.place(positions_nm)
        return np.array([self.relaxer.energy_kj_mol(x) - without.energy_kj_mol(x) for x in whole_nm])

    def _row(self, input_nm: Float[np.ndarray, "kept 3"], whole_nm: Float[np.ndarray, "atoms 3"]) -> dict[str, Any]:
        row = _failed_row()
        if not np.isfinite(input_nm).all():
            return row | {"status": "nan_input"}
        nearest_nm = self._nearest_nm
        pairs = KDTree(input_nm).query_pairs(max(nearest_nm.max(), _TOO_NEAR_NM), output_type="ndarray")
        distances_nm = np.linalg.norm(input_nm[pairs[:, 0]] - input_nm[pairs[:, 1]], axis=-1)
        row["clashes"] = int(np.sum(distances_nm < nearest_nm[pairs[:, 0], pairs[:, 1]]))
        if distances_nm.min(initial=np.inf) < _TOO_NEAR_NM:
            return row | {"status": "clash"}
        if self._wrong_hand(input_nm):
            return row | {"status": "broken_chirality"}
        if self._broken_bond(input_nm):
            return row | {"status": "broken_bond"}
        return row | self._energies(input_nm, whole_nm)

    def _energies(
        self, input_nm: Float[np.ndarray, "kept 3"], whole_nm: Float[np.ndarray, "atoms 3"]
    ) -> dict[str, Any]:
        import openmm

        try:
            relaxed = self.relaxer.relax(whole_nm)
            parts = self.relaxer.parts_kj_mol(relaxed.positions_nm)
        except openmm.OpenMMException as error:  # 'Particle coordinate is NaN' and its kin
            return {"status": "no_electrons" if NO_ELECTRONS in str(error) else "nan_energy"}
        total, placed = sum(parts.values()), relaxed.placed_kj_mol
        if not (np.isfinite(total) and np.isfinite(placed)):
            return {"status": "nan_energy"}
        moved_nm = relaxed.positions_nm[self.template.input_atoms] - input_nm
        found = {"displacement_nm": float(np.sqrt(np.mean(np.sum(moved_nm**2, axis=-1)))), "steps": relaxed.steps}
        if self._wrong_hand(relaxed.positions_nm[self.template.input_atoms]):
            return found | {"status": "broken_chirality"}
        if self._broken_bond(relaxed.positions_nm[self.template.input_atoms]):
            return found | {"status": "broken_bond"}
        if not self._settled(relaxed):
            return found | {"status": "not_converged"}
        entropy = self._entropy_kj_mol(relaxed.positions_nm)
        energies = {
            "energy_kj_mol": total + entropy,
            "energy_placed_kj_mol": placed,
            "energy_hydrogens_kj_mol": relaxed.hydrogens_kj_mol,
            "strain_kj_mol": placed - total if self._to_minimum is None else self._strain_kj_mol(whole_nm, placed),
            "hydrogen_entropy_kj_mol": entropy,
        }
        return found | energies | {f"{part}_kj_mol": parts[part] for part in GROUPS} | {"status": "ok"}

    def _strain_kj_mol(self, whole_nm: Float[np.ndarray, "atoms 3"], placed_kj_mol: float) -> float:
        """What a full relaxation loses; NaN where it does not come to rest."""
        import openmm

        assert self._to_minimum is not None
        try:
            minimum = self._to_minimum.relax(whole_nm)
        except openmm.OpenMMException:
            return np.nan
        return placed_kj_mol - minimum.energy_kj_mol if self._settled(minimum) else np.nan

    def _settled(self, relaxed: Relaxed) -> bool:
        return relaxed.rms_force_kj_mol_nm <= _CONVERGED_FACTOR * self._score.tolerance_kj_mol_nm

    def _entropy_kj_mol(self, relaxed_nm: Float[np.ndarray, "atoms 3"]) -> float:
        if self._score.hydrogen_entropy == "none":
            return 0.0
        hydrogens = self.template.placer.hydrogens
        return hydrogen_entropy_kj_mol(self.relaxer.forces_kj_mol_nm, relaxed_nm, hydrogens, self._temperature_kelvin)

    def _broken_bond(self, input_nm: Float[np.ndarray, "kept 3"]) -> bool:
        ends = input_nm[self.molecule.bonds]
        return bool((np.linalg.norm(ends[:, 0] - ends[:, 1], axis=-1) > self._longest_bonds_nm).any())

    def _wrong_hand(self, input_nm: Float[np.ndarray, "kept 3"]) -> bool:
        return not has_right_hands(self.molecule, input_nm[None])[0]


def open_scorer(
    ensemble: Ensemble,
    forcefield: ForcefieldSettings,
    score: ScoreSettings,
    *,
    structure_nm: Float[np.ndarray, "atoms 3"] | None = None,
    threads: int = 1,
) -> "Scorer":
    """A scorer of an ensemble's molecule, after its units and atoms were checked.

    ``structure_nm`` are the topology's own coordinates, where it has any: they decide what is bonded.

    Raises:
        InputError: wrong units, conformers of another molecule, nothing finite, a residue or atom that is not known.
    """
    molecule, positions_nm = ensemble.molecule, ensemble.positions_nm
    check_units(molecule, positions_nm)
    if molecule.bond_orders is not None:  # no protein: it comes with all that it is
        example_nm = positions_nm[first_good_conformer(molecule, positions_nm)]
        return Scorer(molecule, example_nm, forcefield, score, threads=threads)
    structure_nm = usable_structure(molecule, structure_nm)
    finite = np.flatnonzero(np.isfinite(positions_nm).all(axis=(1, 2)))[:1]
    evidence_nm = positions_nm[finite] if structure_nm is None else structure_nm[None]
    solute = prepare_solute(molecule, evidence_nm, own_residues=bool(forcefield.xml))
    solute_nm = positions_nm[:, solute.atoms]
    check_atoms(solute.molecule, solute_nm)
    example_nm = positions_nm[first_good_conformer(solute.molecule, solute_nm)]
    return Scorer(molecule, example_nm, forcefield, score, structure_nm=structure_nm, threads=threads)


def nearest_allowed_nm(molecule: Molecule) -> Float[np.ndarray, "atoms atoms"]:
    """0.6 × the sum of the van der Waals radii (Bondi) of two atoms at least three bonds apart, else 0."""
    bonded = np.eye(molecule.n_atoms, dtype=np.float32)
    bonded[molecule.bonds[:, 0], molecule.bonds[:, 1]] = bonded[molecule.bonds[:, 1], molecule.bonds[:, 0]] = 1.0
    radii_nm = np.array([_VDW_RADII_NM.get(element, 0.17) for element in molecule.elements])
    return np.where(bonded @ bonded > 0, 0.0, _CLASH_FRACTION * (radii_nm[:, None] + radii_nm))


def _failed_row() -> dict[str, Any]:
    empty = ("energy_kj_mol", "energy_placed_kj_mol", "energy_hydrogens_kj_mol", *(f"{part}_kj_mol" for part in GROUPS))
    empty += ("hydrogen_entropy_kj_mol", "strain_kj_mol", "displacement_nm")
    return dict.fromkeys(empty, np.nan) | {"steps": 0, "clashes": 0, "status": "ok"}
