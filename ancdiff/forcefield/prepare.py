"""From the molecule of a file to the one that is scored: solute, standard names, real links, missing atoms.

Decided once for a molecule, from its topology alone where that has coordinates, so that all ensembles of a system get
the same answer. What was decided is recorded, and nothing is left out or added without a line in the record.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from ancdiff.errors import InputError
from ancdiff.forcefield.residues import CAPS, D_RESIDUES, RESIDUES, SOLVENT, standard_atom, standard_residue
from ancdiff.forcefield.topology import select_atoms
from ancdiff.molecules import Molecule, natural_stereocentres

TERMINAL_OXYGEN = "OXT"
_BACKBONE = ("N", "CA", "C")
# A bond between residues that is longer than this, at the median, is no bond: the chain is broken there.
_LONGEST_LINK_NM = 0.25
_LONGEST_BRIDGE_NM = 0.30
_PLAUSIBLE_BOND_NM = (0.08, 0.25)
_SHOWN = 5


@dataclass(frozen=True, eq=False)
class Solute:
    """The atoms of the input that are scored, with standard names; ``atoms`` are their indices in the input.

    ``states`` holds, by residue, the protonation states that the input's names say.
    """

    molecule: Molecule
    atoms: Int[np.ndarray, " solute"]
    states: dict[int, str]
    record: dict[str, Any]


def prepare_solute(
    molecule: Molecule, evidence_nm: Float[np.ndarray, "conformers atoms 3"], *, own_residues: bool = False
) -> Solute:
    """Leave out solvent and salt, give standard names, cut links that the coordinates do not show, add disulfides.

    ``evidence_nm`` is the topology's own structure or, where it has none, conformers: medians over them decide.
    ``own_residues`` lets residues pass that only the user's own force field knows.

    Raises:
        InputError: there is nothing but solvent, or a residue or one of its atoms is not known.
    """
    solvent = np.array([name.strip().upper() in SOLVENT for name in molecule.residue_names], dtype=bool)
    atoms = np.flatnonzero(~solvent[molecule.residue_of_atom] & np.array([e != "VS" for e in molecule.elements]))
    if len(atoms) == 0:
        raise InputError(
            "there is nothing to score: only water and ions",
            where=molecule.name,
            fix="hand in the topology of the molecule itself",
        )
    left_out = Counter(name for name, out in zip(molecule.residue_names, solvent, strict=True) if out)
    renamed, states = _standard_names(_without_residues(select_atoms(molecule, atoms), solvent))
    check_residues(renamed, own_residues=own_residues)
    linked, notes = _with_real_links(renamed, evidence_nm[:, atoms])
    record = {"left_out": {name: int(n) for name, n in sorted(left_out.items())}, **notes}
    return Solute(linked, atoms, states, record)


def usable_structure(
    molecule: Molecule, structure_nm: Float[np.ndarray, "atoms 3"] | None
) -> Float[np.ndarray, "atoms 3"] | None:
    """The topology's own coordinates, or None where they are not finite or nine in ten bonds are no bonds."""
    if structure_nm is None or structure_nm.shape != (molecule.n_atoms, 3) or not np.isfinite(structure_nm).all():
        return None
    lengths_nm = np.linalg.norm(structure_nm[molecule.bonds[:, 0]] - structure_nm[molecule.bonds[:, 1]], axis=-1)
    good = (lengths_nm > _PLAUSIBLE_BOND_NM[0]) & (lengths_nm < _PLAUSIBLE_BOND_NM[1])
    return structure_nm if len(good) == 0 or good.mean() > 0.9 else None


def missing_atoms(molecule: Molecule) -> dict[int, list[str]]:
    """Heavy atoms that the residues of a solute lack, by residue; an open carboxyl end lacks its OXT.

    Raises:
        InputError: a cap is not whole, or an amino acid lacks atoms of its backbone, from which nothing can be built.
    """
    found: dict[int, list[str]] = {}
    for r, (name, there) in enumerate(zip(molecule.residue_names, _heavy_names(molecule), strict=True)):
        if name not in RESIDUES:
            continue
        lacking = [atom for atom in RESIDUES[name].names if atom not in there]
        beyond_repair = [atom for atom in lacking if name in CAPS or atom in _BACKBONE]
        if beyond_repair:
            raise InputError(
                f"{name} lacks {', '.join(beyond_repair)}, and without the backbone nothing can be built",
                where=f"{molecule.name}: residue {r + 1}",
                fix="hand in conformers with whole backbones (N, CA, C), with PDB atom names",
            )
        found[r] = lacking
    for r in open_ends(molecule):
        if TERMINAL_OXYGEN not in _heavy_names(molecule)[r]:
            found[r] = [*found.get(r, []), TERMINAL_OXYGEN]
    return {r: atoms for r, atoms in found.items() if atoms}


def open_ends(molecule: Molecule) -> list[int]:
    """Amino acids whose carbonyl carbon is bonded to no next residue: the chain ends, or is broken, after them."""
    names, residues = molecule.atom_names, molecule.residue_of_atom
    onward = {int(residues[i]) for a, b in molecule.bonds for i, j in ((a, b), (b, a))
              if names[i] == "C" and residues[i] != residues[j]}  # fmt: skip
    chain = [r for r, name in enumerate(molecule.residue_names) if name in RESIDUES and name not in CAPS]
    return [r for r in chain if r not in onward]


def check_residues(molecule: Molecule, *, own_residues: bool = False) -> None:
    """Each residue is known and has no heavy atom that is strange to it.

    Raises:
        InputError: names the residue, and the atom that is not known.
    """
    for r, (name, there) in enumerate(zip(molecule.residue_names, _heavy_names(molecule), strict=True)):
        at = f"{molecule.name}: residue {r + 1}, {name}"
        if name not in RESIDUES:
            if own_residues:
                continue
            raise InputError(
                f"'{name}' is not a residue that the force field knows"
                + (": it is a D amino acid, and only L is scored" if name in D_RESIDUES else ""),
                where=at,
                fix=f"use the standard L amino acids and caps ({' '.join(RESIDUES)}), or your own forcefield.xml; of "
                "another molecule hand in an SDF file as topology and set forcefield.small_molecule",
            )
        strange = [atom for atom in there if atom not in (*RESIDUES[name].names, TERMINAL_OXYGEN)]
        if strange:
            raise InputError(
                f"{name} has unknown atoms: {', '.join(strange[:_SHOWN])}",
                where=at,
                fix="give atoms their PDB names and conformers of just these atoms",
            )


def _heavy_names(molecule: Molecule) -> list[list[str]]:
    found: list[list[str]] = [[] for _ in molecule.residue_names]
    for name, element, r in zip(molecule.atom_names, molecule.elements, molecule.residue_of_atom, strict=True):
        if element != "H":
            found[int(r)].append(name)
    return found


def _without_residues(molecule: Molecule, out: np.ndarray) -> Molecule:
    """The molecule with its residues counted anew, those that are out having no atoms any more."""
    number = np.cumsum(~out) - 1
    names = tuple(name for name, gone in zip(molecule.residue_names, out, strict=True) if not gone)
    return replace(molecule, residue_names=names, residue_of_atom=number[molecule.residue_of_atom])


def _standard_names(molecule: Molecule) -> tuple[Molecule, dict[int, str]]:
    standard = [standard_residue(name) for name in molecule.residue_names]
    residue_names = tuple(name for name, _ in standard)
    atom_names = tuple(
        name if element == "H" else standard_atom(residue_names[int(r)], name)
        for name, element, r in zip(molecule.atom_names, molecule.elements, molecule.residue_of_atom, strict=True)
    )
    renamed = replace(
        molecule,
        residue_names=residue_names,
        atom_names=atom_names,
        stereocentres=natural_stereocentres(atom_names, residue_names, molecule.residue_of_atom),
    )
    return renamed, {r: state for r, (_, state) in enumerate(standard) if state is not None}


def _with_real_links(molecule: Molecule, evidence_nm: np.ndarray) -> tuple[Molecule, dict[str, list[str]]]:
    """Cut links between residues that are too long to be bonds; bond the sulphurs that lie at a bridge's distance."""
    names, residues = molecule.atom_names, molecule.residue_of_atom
    hydrogens = {int(i) for pair in molecule.bonds for i, j in (pair, pair[::-1]) if molecule.elements[j] == "H"}
    sulphurs = [i for i, n in enumerate(names) if n == "SG" and i not in hydrogens]
    breaks, bridges, kept = [], [], []
    for a, b in ((int(a), int(b)) for a, b in molecule.bonds):
        if {names[a], names[b]} == {"SG"}:
            continue
        if residues[a] != residues[b] and _median_nm(evidence_nm, a, b) > _LONGEST_LINK_NM:
            breaks.append(f"{_label(molecule, a)} and {_label(molecule, b)}")
        else:
            kept.append((a, b))
    known = {tuple(sorted(map(int, pair))) for pair in molecule.bonds}
    for k, a in enumerate(sulphurs):
        for b in sulphurs[k + 1 :]:
            if (a, b) in known or _median_nm(evidence_nm, a, b) < _LONGEST_BRIDGE_NM:
                kept.append((a, b))
                bridges.append(f"{_label(molecule, a)} and {_label(molecule, b)}")
    bonds = np.array(sorted(kept), dtype=np.int64).reshape(-1, 2)
    return replace(molecule, bonds=bonds), {"chain_breaks": breaks, "disulfides": bridges}


def _median_nm(evidence_nm: np.ndarray, a: int, b: int) -> float:
    return float(np.median(np.linalg.norm(evidence_nm[:, a] - evidence_nm[:, b], axis=-1)))


def _label(molecule: Molecule, atom: int) -> str:
    residue = int(molecule.residue_of_atom[atom])
    return f"{molecule.residue_names[residue]} {residue + 1}"


def residue_labels(molecule: Molecule, residues: Sequence[int]) -> list[str]:
    """Names of residues for a record, counted from 1: 'LYS 7'."""
    return [f"{molecule.residue_names[r]} {r + 1}" for r in residues]
