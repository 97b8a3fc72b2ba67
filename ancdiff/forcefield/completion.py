"""Missing heavy atoms: built once by PDBFixer, then carried to every conformer in their residue's own frame."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from ancdiff.forcefield.hydrogens import local_frames
from ancdiff.forcefield.platforms import platform_by_name
from ancdiff.forcefield.topology import neighbour_lists, topology_of_molecule
from ancdiff.molecules import Molecule, natural_stereocentres, signed_volumes
from ancdiff.units import ANGSTROM_PER_NM

_SEED = 7  # of the short dynamics by which PDBFixer frees atoms that it placed on top of others
_ATTEMPTS = 5
_CA_CB_NM, _HALF_TETRAHEDRAL = 0.153, np.radians(54.75)
_FROM_ONE_NEIGHBOUR = 1  # kind of frame: an atom, one neighbour, one atom beyond


@dataclass(frozen=True, eq=False)
class AtomPlacer:
    """Carries added heavy atoms to conformers: their coordinates in a frame of three atoms of the input stay the same.

    ``given`` are the input's atoms among the complete molecule's, in order, ``added`` the others.
    """

    given: Int[np.ndarray, " given"]
    added: Int[np.ndarray, " added"]
    frame_atoms: Int[np.ndarray, "added 4"]
    local_nm: Float[np.ndarray, "added 3"]

    @property
    def n_atoms(self) -> int:
        return len(self.given) + len(self.added)

    def place(self, given_nm: Float[np.ndarray, "conformers given 3"]) -> Float[np.ndarray, "conformers atoms 3"]:
        """Positions of the complete molecule's heavy atoms; those of the input are where they were."""
        positions = np.zeros((len(given_nm), self.n_atoms, 3))
        positions[:, self.given] = given_nm
        if len(self.added):
            origin, axes = local_frames(positions, self.frame_atoms, _kinds(self.added))
            positions[:, self.added] = origin + np.einsum("fhki,hk->fhi", axes, self.local_nm)
        return positions


def nothing_added(atoms: int) -> AtomPlacer:
    """The placer of a molecule that lacks nothing."""
    none = np.zeros(0, dtype=np.int64)
    return AtomPlacer(np.arange(atoms), none, none.reshape(0, 4), np.zeros((0, 3)))


def complete(
    molecule: Molecule, positions_nm: Float[np.ndarray, "atoms 3"], missing: Mapping[int, Sequence[str]]
) -> tuple[Molecule, Float[np.ndarray, "complete 3"], AtomPlacer]:
    """The heavy-atom molecule with the missing atoms (by residue) in it, its positions, and what carries them along.

    Reads and writes no file; PDBFixer's random numbers have a fixed seed.
    """
    if not missing:
        return molecule, positions_nm, nothing_added(molecule.n_atoms)
    for attempt in range(_ATTEMPTS):
        whole, whole_nm, placer = _completed(molecule, positions_nm, missing, seed=_SEED + attempt)
        if (signed_volumes(whole_nm[None], whole.stereocentres) > 0).all():
            break
        if not (signed_volumes(positions_nm[None], molecule.stereocentres) > 0).all():
            break  # the input has the wrong hand itself, which its conformers' rows say
    return whole, whole_nm, placer


def _completed(
    molecule: Molecule, positions_nm: np.ndarray, missing: Mapping[int, Sequence[str]], *, seed: int
) -> tuple[Molecule, np.ndarray, AtomPlacer]:
    built, built_nm = _build(*_with_beta_carbons(molecule, positions_nm, missing), seed=seed)
    key = {(int(r), n): i for i, (r, n) in enumerate(zip(molecule.residue_of_atom, molecule.atom_names, strict=True))}
    wanted = {(r, name) for r, names in missing.items() for name in names}
    rows: list[tuple[int, str, str, int]] = []  # residue, atom, element, row of PDBFixer
    for row, atom in enumerate(built.atoms()):
        place = (atom.residue.index, atom.name)
        if place in key or place in wanted:
            rows.append((*place, atom.element.symbol, row))
    rows.sort(key=lambda row: row[0])  # PDBFixer keeps residues together; stable within them
    residue_of_atom = np.array([row[0] for row in rows], dtype=np.int64)
    atom_names = tuple(row[1] for row in rows)
    source = np.array([key.get((r, name), -1) for r, name, _, _ in rows], dtype=np.int64)
    whole_nm = np.array([positions_nm[s] if s >= 0 else built_nm[row[3]] for s, row in zip(source, rows, strict=True)])
    new_of_old = {int(old): new for new, old in enumerate(source) if old >= 0}
    new_of_row = {row[3]: new for new, row in enumerate(rows)}
    pairs = {tuple(sorted((new_of_old[int(a)], new_of_old[int(b)]))) for a, b in molecule.bonds}
    for bond in built.bonds():
        ends = sorted(new_of_row.get(atom.index, -1) for atom in (bond[0], bond[1]))
        if ends[0] >= 0 and (source[ends] < 0).any():
            pairs.add((ends[0], ends[1]))
    whole = replace(
        molecule,
        atom_names=atom_names,
        elements=tuple(row[2] for row in rows),
        residue_of_atom=residue_of_atom,
        bonds=np.array(sorted(pairs), dtype=np.int64).reshape(-1, 2),
        stereocentres=natural_stereocentres(atom_names, molecule.residue_names, residue_of_atom),
    )
    # The input's atoms in their own order: place() hands them over so.
    given = np.array([new_of_old[old] for old in range(molecule.n_atoms)], dtype=np.int64)
    return whole, whole_nm, _placer(whole, whole_nm, given, np.flatnonzero(source < 0))


def carried(placer: AtomPlacer, whole_nm: Float[np.ndarray, "atoms 3"]) -> AtomPlacer:
    """The placer with local coordinates of another structure of the complete molecule."""
    if not len(placer.added):
        return placer
    origin, axes = local_frames(whole_nm[None], placer.frame_atoms, _kinds(placer.added))
    local = np.einsum("hki,hi->hk", axes[0], whole_nm[placer.added] - origin[0])
    return replace(placer, local_nm=local)


def _with_beta_carbons(
    molecule: Molecule, positions_nm: np.ndarray, missing: Mapping[int, Sequence[str]]
) -> tuple[Molecule, np.ndarray]:
    """The molecule with each missing CB at its ideal place: PDBFixer's dynamics may turn an L centre into a D one."""
    rows = list(range(molecule.n_atoms))
    names, elements = list(molecule.atom_names), list(molecule.elements)
    residues, positions = list(molecule.residue_of_atom), list(positions_nm)
    bonds = [(int(a), int(b)) for a, b in molecule.bonds]
    for r, lacking in missing.items():
        if "CB" not in lacking:
            continue
        n, ca, c = (molecule.atom_index(r, name) for name in ("N", "CA", "C"))
        to_n, to_c = (_unit(positions_nm[end] - positions_nm[ca]) for end in (n, c))
        outward = -_unit(to_n + to_c) * np.cos(_HALF_TETRAHEDRAL) + _unit(np.cross(to_n, to_c)) * np.sin(
            _HALF_TETRAHEDRAL
        )
        bonds.append((int(ca or 0), len(names)))
        rows.append(max(int(i) for i in np.flatnonzero(molecule.residue_of_atom == r)))
        names.append("CB")
        elements.append("C")
        residues.append(r)
        positions.append(positions_nm[ca] + _CA_CB_NM * outward)
    order = np.argsort(rows, kind="stable")  # a new atom after the last one of its residue
    new = np.argsort(order)
    pairs = sorted(tuple(sorted((int(new[a]), int(new[b])))) for a, b in bonds)
    extended = replace(
        molecule,
        atom_names=tuple(names[i] for i in order),
        elements=tuple(elements[i] for i in order),
        residue_of_atom=np.array([residues[i] for i in order], dtype=np.int64),
        bonds=np.array(pairs, dtype=np.int64).reshape(-1, 2),
    )
    return extended, np.array([positions[i] for i in order])


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


def _build(molecule: Molecule, positions_nm: np.ndarray, *, seed: int) -> tuple[Any, np.ndarray]:
    """PDBFixer's topology and positions with all missing heavy atoms of the standard residues."""
    from openmm import app, unit
    from pdbfixer import PDBFixer

    angstrom = vars(unit)["angstrom"]
    text = io.StringIO()
    topology = topology_of_molecule(molecule)
    app.PDBFile.writeFile(topology, positions_nm * ANGSTROM_PER_NM * angstrom, text)
    text.seek(0)
    fixer = PDBFixer(pdbfile=text, platform=platform_by_name("Reference"))
    fixer.missingResidues = {}
    fixer.findMissingAtoms()
    fixer.addMissingAtoms(seed=seed)
    return fixer.topology, np.array(fixer.positions.value_in_unit(vars(unit)["nanometer"]), dtype=np.float64)


def _placer(
    whole: Molecule, whole_nm: np.ndarray, given: Int[np.ndarray, " given"], added: Int[np.ndarray, " added"]
) -> AtomPlacer:
    neighbours = neighbour_lists(whole)
    there = set(given.tolist())
    rows = [_nearest_given(int(atom), neighbours, there) for atom in added]
    frame_atoms = np.array([(p, a, b, a) for p, a, b in rows], dtype=np.int64).reshape(-1, 4)
    return carried(AtomPlacer(given, added, frame_atoms, np.zeros((len(added), 3))), whole_nm)


def _nearest_given(atom: int, neighbours: list[list[int]], given: set[int]) -> tuple[int, int, int]:
    """The three atoms of the input that are the fewest bonds away, nearest first; all in one connected piece."""
    seen, shell, found = {atom}, [atom], []
    while shell and len(found) < 3:
        shell = sorted({n for a in shell for n in neighbours[a]} - seen)
        seen |= set(shell)
        found += [n for n in shell if n in given]
    p, a, b = found[:3]
    return p, a, b


def _kinds(added: np.ndarray) -> np.ndarray:
    return np.full(len(added), _FROM_ONE_NEIGHBOUR, dtype=np.int64)
